package wal

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// sendEntry is about what the engine logs for a send with a small JSON body.
func sendEntry(rng *rand.Rand) []byte {
	return fmt.Appendf(nil, `%016x%016x{"account":"acct_%08x","target":"https://hooks.example-%d.com/in/%x","method":"POST","headers":{"content-type":"application/json","x-trace":"%016x"},"policy":{"max_attempts":12,"timeout_ms":15000},"body":{"type":"invoice.paid","created":%d,"customer":"cus_%012x","amount":%d,"currency":"eur","lines":[{"sku":"s-%d","n":%d}]},"metadata":{"order":"%d"}}`,
		rng.Uint64(), rng.Uint64(), rng.Uint32(), rng.IntN(50), rng.Uint32(), rng.Uint64(), 1_790_000_000+rng.IntN(1e6),
		rng.Uint64()&0xffffffffffff, rng.IntN(100_000), rng.IntN(1000), rng.IntN(9), rng.IntN(1e9))
}

func sendEntries(n int) []Entry {
	rng := rand.New(rand.NewPCG(1, 1))
	entries := make([]Entry, n)
	for i := range entries {
		entries[i] = Entry{Term: 1, Type: 1, Data: sendEntry(rng)}
	}
	return entries
}

// BenchmarkAppend has writers that wait for each entry, as requests do, on a real disk: what matters is
// entries/s, and how many share a sync.
func BenchmarkAppend(b *testing.B) {
	for _, c := range []Compression{CompressionS2, CompressionNone} {
		for _, writers := range []int{1, 64, 256} {
			b.Run(fmt.Sprintf("%s/writers=%d", c, writers), func(b *testing.B) { benchAppend(b, c, writers) })
		}
	}
}

func (c Compression) String() string {
	return [...]string{"default", "s2", "raw"}[c]
}

func benchAppend(b *testing.B, c Compression, writers int) {
	var raw, stored, commits int64
	o := Options{Logger: quiet, Compression: c}
	o.Committed = func(entries []Entry) {
		for i := range entries {
			entries[i].Cookie.(chan struct{}) <- struct{}{}
		}
	}
	o.Observe = func(c Commit) { raw, stored, commits = raw+c.RawBytes, stored+c.StoredBytes, commits+1 }
	l, err := Open(filepath.Join(b.TempDir(), "wal"), o)
	if err != nil {
		b.Fatal(err)
	}
	l.Start()
	entries := sendEntries(1000)
	b.ReportAllocs()
	b.ResetTimer()
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			done := make(chan struct{}, 1)
			for i := w; i < b.N; i += writers {
				e := entries[i%len(entries)]
				e.Cookie = done
				if err := l.AppendWait(e); err != nil {
					b.Error(err)
					return
				}
				<-done
				if i%100_000 == 0 {
					_ = l.TruncateFront(l.LastIndex())
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	if err := l.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
	b.ReportMetric(float64(b.N)/float64(commits), "entries/sync")
	b.ReportMetric(float64(commits)/float64(b.N), "syncs/op")
	b.ReportMetric(float64(stored)/float64(b.N), "disk-B/op")
	b.ReportMetric(float64(stored)/float64(raw), "stored/raw")
}

// BenchmarkFrame is the writer's own work for a batch of 100, without a disk.
func BenchmarkFrame(b *testing.B) {
	for _, c := range []Compression{CompressionS2, CompressionNone} {
		b.Run(c.String(), func(b *testing.B) {
			w, batch, bytes := benchWriter(b, c)
			b.SetBytes(bytes)
			b.ReportAllocs()
			for b.Loop() {
				n, _ := w.gather(batch)
				frame, h := w.pack(batch[:n])
				if frame, _ = finishFrame(frame, &h, 1); len(frame) == 0 {
					b.Fatal("empty frame")
				}
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/100*1e9, "ns/entry")
		})
	}
}

func benchWriter(b testing.TB, c Compression) (*writer, []Entry, int64) {
	o, err := Options{Compression: c}.withDefaults()
	if err != nil {
		b.Fatal(err)
	}
	batch := sendEntries(100)
	var bytes int64
	for i := range batch {
		batch[i].Index = Index(i + 1)
		bytes += batch[i].bytes()
	}
	return &writer{l: &Log{o: o}}, batch, bytes
}

// BenchmarkDecode is replay's work for the same frame.
func BenchmarkDecode(b *testing.B) {
	for _, c := range []Compression{CompressionS2, CompressionNone} {
		b.Run(c.String(), func(b *testing.B) {
			r, bytes := oneFrame(b, c)
			var d decoder
			b.SetBytes(bytes)
			b.ReportAllocs()
			for b.Loop() {
				decodeFrame(b, r, &d)
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/100*1e9, "ns/entry")
		})
	}
}

// oneFrame is a file in memory with a frame of 100 entries, and how many bytes
// these have.
func oneFrame(t testing.TB, c Compression) (*frameReader, int64) {
	w, batch, bytes := benchWriter(t, c)
	w.gather(batch)
	frame, h := w.pack(batch)
	frame, _ = finishFrame(frame, &h, 1)
	file := append(make([]byte, headerBytes), frame...)
	h.synced = headerBytes
	h.put(file[headerBytes:])
	finishFrame(file[headerBytes:headerBytes+frameHeaderBytes+int(h.storedBytes)], &h, 1)
	return &frameReader{file: vfs.NewMemFile(file), size: int64(len(file)), seed: 1}, bytes
}

func decodeFrame(t testing.TB, r *frameReader, d *decoder) {
	f, bad, err := r.frameAt(headerBytes)
	if bad != "" || err != nil {
		t.Fatal(bad, err)
	}
	next, n := Index(1), 0
	bad, err = d.frame(&f, &source{first: 1, last: 100}, &next, func(Entry) error { n++; return nil })
	if bad != "" || err != nil || n != 100 {
		t.Fatal(bad, err, n)
	}
}

// BenchmarkOpen recovers and replays a log of 128 MiB that was not closed in time to be truncated.
func BenchmarkOpen(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "wal")
	l, err := Open(dir, Options{Logger: quiet, Compression: CompressionNone})
	if err != nil {
		b.Fatal(err)
	}
	l.Start()
	entries := sendEntries(1000)
	for i := 0; l.SizeBytes() < 128<<20; i++ {
		if err := l.AppendWait(entries[i%len(entries)]); err != nil {
			b.Fatal(err)
		}
	}
	mustClose(b, l)
	b.SetBytes(l.SizeBytes())
	for b.Loop() {
		l, err := Open(dir, Options{Logger: quiet})
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Replay(0, func(Entry) error { return nil }); err != nil {
			b.Fatal(err)
		}
		mustClose(b, l)
	}
}
