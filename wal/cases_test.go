package wal

import (
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Directories that were tampered with, or that lost something: each is refused, with the place.
func TestRefused(t *testing.T) {
	built, want, base := builtLog(t, rand.New(rand.NewPCG(1, 2)))
	names := built.segments()
	last := Index(len(want))
	reseal := func(b []byte) { putPageCRC(b) }

	columns := []struct {
		name   string
		change func(m image, o *Options)
		is     error  // errors.Is, or nil for any CorruptionError
		says   string // part of the message
	}{
		{"missing middle segment", func(m image, o *Options) { delete(m, names[1]) }, nil, "segment is missing"},
		{"missing first segment", func(m image, o *Options) { delete(m, names[0]) }, nil, "segment is missing"},
		{"missing last segment", func(m image, o *Options) { delete(m, names[len(names)-1]) }, nil, "segment is missing"},
		{"missing meta", func(m image, o *Options) { delete(m, metaName) }, nil, "missing, but there are segments"},
		{"both slots of meta damaged", func(m image, o *Options) { m[metaName][30] ^= 1; m[metaName][headerBytes+30] ^= 1 }, nil, "no valid slot"},
		{"empty meta", func(m image, o *Options) { m[metaName] = nil }, nil, "no valid slot"},
		{"everything gone, the state is not", func(m image, o *Options) { clear(m); o.AppliedIndex = 1 }, ErrBehind, "log ends with 0"},
		{"state ahead of the log", func(m image, o *Options) { o.AppliedIndex = last + 1 }, ErrBehind, "applied entry"},
		{"wrong identity", func(m image, o *Options) { o.Identity = [16]byte{9} }, ErrIdentity, "another identity"},
		{"a segment of another log", func(m image, o *Options) { b := m[names[1]]; b[24] ^= 1; reseal(b) }, ErrIdentity, names[1]},
		{"segment from the future", func(m image, o *Options) { b := m[names[2]]; b[8] = 2; reseal(b) }, ErrVersion, "version 2"},
		{"meta from the future", func(m image, o *Options) {
			for _, slot := range []int{0, headerBytes} {
				b := m[metaName][slot:]
				b[8] = 2
				reseal(b)
			}
		}, ErrVersion, "version 2"},
		{"duplicate segment number", func(m image, o *Options) {
			m["00000000000000000777"+names[1][20:]] = m[names[1]]
		}, nil, "exists twice"},
		{"segment under another's name", func(m image, o *Options) { m[names[1]], m[names[2]] = m[names[2]], m[names[1]] }, nil, "header is that of"},
		{"segment far beyond meta", func(m image, o *Options) { m["00000000000000000900-000000ff.wal"] = m[names[1]] }, nil, "newer than meta"},
		{"a name that is none of ours", func(m image, o *Options) { m["copy.wal"] = nil }, nil, "not as this log names them"},
		{"segment cut to its header", func(m image, o *Options) { m[names[0]] = m[names[0]][:headerBytes] }, nil, "ends within"},
		{"segment cut within its header", func(m image, o *Options) { m[names[0]] = m[names[0]][:100] }, nil, "header page"},
		{"meta has forgotten the last segment", func(m image, o *Options) {
			for _, slot := range []int{0, headerBytes} {
				b := m[metaName][slot:]
				b[52]--
				reseal(b)
			}
		}, nil, "but this one holds entries"},
		{"valid frame behind a bad one", func(m image, o *Options) {
			frames := m.frames(t, names[len(names)-1])
			m[names[len(names)-1]][frames[0].off+50] ^= 1
		}, nil, "was synced"},
		{"frame that follows another one", func(m image, o *Options) {
			meta, _ := parseMeta(m[metaName][:headerBytes])
			name := names[len(names)-1]
			f := m.frames(t, name)[1]
			f.previous ^= 1
			finishFrame(m[name][f.off:][:frameHeaderBytes+len(f.payload)], &f.frameHeader, frameSeed(meta.salt, uint32(len(names))))
		}, nil, "does not follow"},
		{"bit flip in a sealed segment", func(m image, o *Options) {
			frames := m.frames(t, names[0])
			m[names[0]][frames[1].off+45] ^= 4
		}, nil, "(entries "},
	}
	for _, c := range columns {
		t.Run(c.name, func(t *testing.T) {
			m, o := built.clone(), base
			c.change(m, &o)
			_, err := recovered(m.disk(t), o)
			if err == nil {
				t.Fatal("the log was opened")
			}
			var damage *CorruptionError
			if c.is == nil && !errors.As(err, &damage) || c.is != nil && !errors.Is(err, c.is) {
				t.Errorf("refused with the wrong error: %v", err)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("%q does not say %q", err, c.says)
			}
		})
	}
}

// Directories that look odd and are fine.
func TestAccepted(t *testing.T) {
	built, want, base := builtLog(t, rand.New(rand.NewPCG(1, 2)))
	names := built.segments()
	columns := []struct {
		name   string
		change func(m image, o *Options)
	}{
		{"as it is", func(m image, o *Options) {}},
		{"state exactly at the end", func(m image, o *Options) { o.AppliedIndex = Index(len(want)) }},
		{"one slot of meta damaged", func(m image, o *Options) { m[metaName][30] ^= 1 }},
		{"the other slot damaged", func(m image, o *Options) { m[metaName][headerBytes+30] ^= 1 }},
		{"spares and unfinished files", func(m image, o *Options) {
			m["00000042.spare"] = m[names[0]]
			m["tail.tmp"] = m[names[1]]
			m["meta.tmp"] = []byte("half")
		}},
		{"other people's files", func(m image, o *Options) { m["lost+found"] = nil; m[".nfs01"] = nil }},
		{"a segment that was being made", func(m image, o *Options) {
			h := segmentHeader{version: formatVersion, number: uint32(len(names) + 1), first: Index(len(want) + 1), identity: base.Identity,
				previous: uint32(len(names)), previousEnd: 5000}
			meta, _ := parseMeta(m[metaName][:headerBytes])
			h.salt = meta.salt
			b := make([]byte, MinSegmentBytes)
			h.encode(b)
			m[h.fileName()] = b
		}},
		{"the clock went back: headers from the future", func(m image, o *Options) {
			o.Now = func() time.Time { return time.Unix(0, 0) }
		}},
		{"another segment size", func(m image, o *Options) { o.SegmentBytes = 1 << 20 }},
		{"old life's bytes behind the end", func(m image, o *Options) {
			b := m[names[len(names)-1]]
			frames := m.frames(t, names[len(names)-1])
			end := frames[len(frames)-1].end()
			copy(b[end:], m[names[0]][headerBytes:])
		}},
	}
	for _, c := range columns {
		t.Run(c.name, func(t *testing.T) {
			m, o := built.clone(), base
			c.change(m, &o)
			disk := m.disk(t)
			got, err := recovered(disk, o)
			if err == nil {
				err = prefixOf(got, want, len(want))
			}
			for name := range imageOf(t, disk) {
				if strings.HasSuffix(name, spareSuffix) || strings.HasSuffix(name, tempSuffix) {
					t.Errorf("%s is still there", name)
				}
			}
			if err == nil {
				err = goesOn(disk, o, got)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// The frame that proves a damage may lie far behind it.
func TestDamageInALargeFrameIsFound(t *testing.T) {
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: 1 << 20, Compression: CompressionNone})
	l := mustOpen(t, o)
	l.Start()
	for i := range 2 {
		if err := l.Append(Entry{Data: payload(1, Index(i), 120_000)}); err != nil {
			t.Fatal(err)
		}
		if err := w.wait(i + 1); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	for _, at := range []int{0, 5, 30, 100, 50_000, 119_000} {
		m := imageOf(t, fs)
		m[m.segments()[0]][headerBytes+at] ^= 1
		_, err := recovered(m.disk(t), o)
		var damage *CorruptionError
		if !errors.As(err, &damage) || damage.Offset != headerBytes {
			t.Errorf("flip at %d in the first frame: %v", at, err)
		}
	}
}

// A file that becomes a segment again keeps the frames of its earlier lives behind the new ones. Cut off
// anywhere, the log never takes one of them for its own.
func TestRecycledSegmentDoesNotBringBackOldFrames(t *testing.T) {
	rng := seeded(t)
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Compression: CompressionNone})
	l := mustOpen(t, o)
	l.Start()
	var appended []Entry
	// Whether the preparer recycles a file or makes one is a matter of timing; go on until it did.
	recycled := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		if len(l.segments) == 0 {
			return false
		}
		newest := l.segments[len(l.segments)-1] // never dropped, so that its file keeps its name
		b := readFile(t, fs, fs.PathJoin(testDir, newest.name))
		return newest.last > newest.start && nonZero(b[newest.end+100:]) > 1000
	}
	for tries := 0; !recycled(); tries++ {
		if tries > 2000 {
			t.Fatal("no segment was recycled")
		}
		s := script{rounds: 3, perRound: 4, bytes: 1000}
		if err := s.play(l, w, rng, &appended); err != nil {
			t.Fatal(err)
		}
		if err := l.TruncateFront(l.LastIndex() + 1); err != nil {
			t.Fatal(err)
		}
	}
	mustClose(t, l)
	m := imageOf(t, fs)
	name := m.segments()[len(m.segments())-1]
	frames := m.frames(t, name)
	first := frames[0].first
	end := int(frames[len(frames)-1].end())
	if nonZero(m[name][end:]) == 0 {
		t.Fatal("nothing old lies behind the new frames: the test shows nothing")
	}
	for _, f := range frames {
		c := m.clone()
		clear(c[name][f.off:end]) // what came after was never written; the old life is still behind it
		got, err := recovered(c.disk(t), Options{SegmentBytes: MinSegmentBytes})
		if err != nil {
			t.Fatalf("cut at %d: %v", f.off, err)
		}
		base := len(appended) - len(appended[first-1:])
		for len(got) > 0 && got[0].Index < first {
			got = got[1:]
		}
		if err := prefixOf(got, appended[base:], 0); err != nil {
			t.Fatalf("cut at %d: %v", f.off, err)
		}
	}
}

func nonZero(b []byte) int {
	n := 0
	for _, c := range b {
		if c != 0 {
			n++
		}
	}
	return n
}

// Two logs on one directory, in one process and in two.
func TestLockKeepsTheSecondOut(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "wal")
	if os.Getenv("HAREPOST_WAL_LOCK_DIR") != "" {
		_, err := Open(os.Getenv("HAREPOST_WAL_LOCK_DIR"), Options{Logger: quiet})
		if !errors.Is(err, ErrLocked) {
			t.Fatalf("the second process got %v", err)
		}
		return
	}
	l, err := Open(dir, Options{Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{Logger: quiet}); !errors.Is(err, ErrLocked) {
		t.Errorf("the same process got %v", err)
	}
	if _, err := Verify(nil, dir); !errors.Is(err, ErrLocked) {
		t.Errorf("Verify of an open log gave %v", err)
	}
	other := exec.Command(os.Args[0], "-test.run=^TestLockKeepsTheSecondOut$")
	other.Env = append(os.Environ(), "HAREPOST_WAL_LOCK_DIR="+dir)
	if out, err := other.CombinedOutput(); err != nil {
		t.Errorf("second process: %v\n%s", err, out)
	}
	mustClose(t, l)
	again, err := Open(dir, Options{Logger: quiet})
	if err != nil {
		t.Fatalf("after Close: %v", err)
	}
	mustClose(t, again)
}
