package wal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// builtLog is a log with a bit of everything in it: segments sealed by being full, left by a restart and
// ended by a truncation, and a tail with a mark. It gives the image of its directory and its entries.
func builtLog(t testing.TB, rng *rand.Rand) (image, []Entry, Options) {
	t.Helper()
	return builtLogOf(t, rng, 1500)
}

func builtLogOf(t testing.TB, rng *rand.Rand, payloadBytes int) (image, []Entry, Options) {
	t.Helper()
	fs := vfs.NewMem()
	w := newWitness()
	o := w.watch(Options{FS: fs, SegmentBytes: MinSegmentBytes, Identity: [16]byte{1, 2, 3}})
	var appended []Entry
	for life := range 3 {
		l := mustOpen(t, o)
		l.Start()
		s := script{rounds: 6, perRound: 5, bytes: payloadBytes}
		if err := s.playFrom(l, w, rng, &appended); err != nil {
			t.Fatal(err)
		}
		if life == 1 {
			if err := l.TruncateBack(Index(len(appended) - 3)); err != nil {
				t.Fatal(err)
			}
			appended = appended[:len(appended)-3]
		}
		mustClose(t, l)
	}
	o.Committed, o.Failed = nil, nil
	return imageOf(t, fs), appended, o
}

// playFrom is play for a witness that has seen other entries than the log now holds.
func (s script) playFrom(l *Log, w *witness, rng *rand.Rand, appended *[]Entry) error {
	w.mu.Lock()
	w.acked = w.acked[:min(len(w.acked), len(*appended))]
	w.mu.Unlock()
	return s.play(l, w, rng, appended)
}

// One flipped bit anywhere is either found, or changes nothing that the log gives back. That holds for
// the whole of a log that was closed or idle: its mark covers the last commit.
func TestFlippedBitIsFoundOrHarmless(t *testing.T) {
	rng := seeded(t)
	refused, harmless := 0, 0
	var built image
	var want []Entry
	var o Options
	for i := range times(10000) {
		if i%1000 == 0 {
			built, want, o = builtLog(t, rng)
		}
		m := built.clone()
		name, at, bit := m.flip(t, rng)
		got, err := recovered(m.disk(t), o)
		var damage *CorruptionError
		switch {
		case errors.As(err, &damage):
			refused++
			err = nil
			if damage.File != name && !strings.HasSuffix(name, segmentSuffix) {
				err = fmt.Errorf("damage in %s is reported as %w", name, damage)
			}
		case err == nil:
			harmless++
			err = prefixOf(got, want, len(want))
		}
		if err != nil {
			t.Fatalf("flip of bit %d of byte %d of %s: %v", bit, at, name, err)
		}
	}
	t.Logf("%d refused, %d harmless", refused, harmless)
	if refused < harmless {
		t.Errorf("%d of %d flips were refused: the test no longer hits the log", refused, refused+harmless)
	}
}

// flip changes one bit, most often in a part of a file that is in use.
func (m image) flip(t testing.TB, rng *rand.Rand) (name string, at, bit int) {
	names := append(m.segments(), metaName)
	name = names[rng.IntN(len(names))]
	b := m[name]
	end := len(b)
	if rng.IntN(10) > 0 && name != metaName {
		end = headerBytes
		if frames := m.frames(t, name); len(frames) > 0 {
			end = int(frames[len(frames)-1].end())
		}
	}
	at, bit = rng.IntN(end), rng.IntN(8)
	if rng.IntN(2) == 0 && name != metaName && end > headerBytes { // as many in frames as in header pages
		at = headerBytes + rng.IntN(end-headerBytes)
	}
	b[at] ^= 1 << bit
	return name, at, bit
}

// Runs of garbage and zeros, as disks rather make them than flipped bits.
func TestDamagedBlockIsFoundOrHarmless(t *testing.T) {
	rng := seeded(t)
	built, want, o := builtLog(t, rng)
	for range times(1500) {
		m := built.clone()
		names := m.segments()
		name := names[rng.IntN(len(names))]
		block := m[name][512*rng.IntN(len(m[name])/512):][:512]
		for i := range block {
			block[i] = 0
		}
		if rng.IntN(2) == 0 {
			for i := range block {
				block[i] = byte(rng.Uint32())
			}
		}
		// 512 bytes may hold the last commit and its mark together: then it looks like a torn tail, and
		// only the state knows better.
		o.AppliedIndex = Index(len(want))
		got, err := recovered(m.disk(t), o)
		var damage *CorruptionError
		if errors.As(err, &damage) {
			continue
		}
		if err == nil {
			err = prefixOf(got, want, len(want))
		}
		if err != nil {
			t.Fatalf("damage in %s: %v", name, err)
		}
	}
}

// Verify finds in a damaged log what Open refuses it for, and changes nothing.
func TestVerifyAgreesWithOpen(t *testing.T) {
	rng := seeded(t)
	built, want, o := builtLog(t, rng)
	for i := range times(400) {
		m := built.clone()
		var name string
		if i > 0 {
			name, _, _ = m.flip(t, rng)
		}
		disk := m.disk(t)
		report, err := Verify(disk, testDir)
		if err != nil {
			t.Fatalf("flip in %s: %v", name, err)
		}
		if after := imageOf(t, disk); !m.equal(after) {
			t.Fatal("Verify changed the directory")
		}
		_, err = recovered(disk, o)
		if (err == nil) != (len(report.Findings) == 0) {
			t.Fatalf("flip in %s: Open says %v, Verify found %v", name, err, report.Findings)
		}
		if err == nil && (report.First != 1 || report.Last != Index(len(want))) {
			t.Fatalf("Verify counts entries %d to %d, the log holds 1 to %d", report.First, report.Last, len(want))
		}
		if err != nil && report.Findings[0].Error() != err.Error() {
			t.Fatalf("flip in %s: Open says %v, Verify %v", name, err, report.Findings[0])
		}
	}
}

func (m image) equal(other image) bool {
	for name, b := range m {
		if string(other[name]) != string(b) {
			return false
		}
	}
	return len(m) == len(other)
}

// A damaged log that is opened is refused without a change, so that the evidence stays.
func TestRefusalChangesNothing(t *testing.T) {
	rng := seeded(t)
	built, _, o := builtLog(t, rng)
	refused := 0
	for range times(300) {
		m := built.clone()
		m["00000009.spare"] = []byte("left over")
		m.flip(t, rng)
		disk := m.disk(t)
		if _, err := recovered(disk, o); err == nil {
			continue
		}
		refused++
		if !m.equal(imageOf(t, disk)) {
			t.Fatal("a refused directory was changed")
		}
	}
	if refused == 0 {
		t.Error("nothing was refused")
	}
}
