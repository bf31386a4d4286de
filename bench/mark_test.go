package bench

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"testing"

	"pgregory.net/rapid"
)

func TestMarkSurvivesThePayload(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := mark{
			Run:      rapid.Uint32().Draw(t, "run"),
			Sequence: rapid.Uint32().Draw(t, "sequence"),
			SentAt:   moment(rapid.Int64Min(0).Draw(t, "sent")),
		}
		size := rapid.IntRange(minPayloadBytes, 1000).Draw(t, "size")
		p := appendPayload(nil, size, want)
		if len(p) != size || !json.Valid(p) {
			t.Fatalf("payload of %d bytes: %s", len(p), p)
		}
		if got, ok := readMark(p); !ok || got != want {
			t.Fatalf("read %+v, %t; want %+v", got, ok, want)
		}
	})
}

// A payload that compresses away would flatter a log that compresses.
func TestPayloadsCompressToAboutHalf(t *testing.T) {
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	const sends, size = 1000, 300
	var p []byte
	for n := range uint32(sends) {
		p = appendPayload(p[:0], size, mark{Run: 1, Sequence: n, SentAt: now()})
		if _, err := w.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if ratio := float64(packed.Len()) / (sends * size); ratio < 0.4 || ratio > 0.7 {
		t.Errorf("%d payloads compress to %.2f of their size, want about half", sends, ratio)
	}
}

func TestOtherPayloadsHaveNoMark(t *testing.T) {
	good := appendPayload(nil, minPayloadBytes, mark{Run: 1})
	bad := append([]byte(nil), good...)
	bad[len(markPrefix)+20] = 'G'
	for _, p := range [][]byte{nil, []byte("{}"), []byte(markPrefix), good[:len(markPrefix)+markBytes-1], bad} {
		if m, ok := readMark(p); ok {
			t.Errorf("%q has mark %+v", p, m)
		}
	}
}

func TestSequenceSetsEqualAModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		numbers := rapid.SliceOf(rapid.Uint32Range(0, 300))
		a, b := numbers.Draw(t, "a"), numbers.Draw(t, "b")
		n := rapid.Uint64Range(0, 330).Draw(t, "n")
		setA, setB := fill(t, a), fill(t, b)
		var minus, from uint64
		for v := range setA.model {
			if !setB.model[v] {
				minus++
			}
			if uint64(v) >= n {
				from++
			}
		}
		if got := setA.set.minus(setB.set); got != minus {
			t.Fatalf("a minus b has %d, want %d", got, minus)
		}
		if got := setA.set.from(n); got != from {
			t.Fatalf("%d from %d on, want %d", got, n, from)
		}
		text, err := json.Marshal(setA.set)
		if err != nil {
			t.Fatal(err)
		}
		var back sequences
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatal(err)
		}
		if back.minus(setA.set)+setA.set.minus(back) != 0 {
			t.Fatalf("%s became %v", text, back)
		}
	})
}

type filled struct {
	set   sequences
	model map[uint32]bool
}

func fill(t *rapid.T, numbers []uint32) filled {
	s := &sequenceSet{words: newSequenceSet().words[:8]} // scanning all of it is for a round's end
	model := map[uint32]bool{}
	for _, n := range numbers {
		if fresh := s.add(n); fresh == model[n] {
			t.Fatalf("adding %d: fresh %t, known %t", n, fresh, model[n])
		}
		model[n] = true
	}
	return filled{s.export(), model}
}

func TestSetOfBadTextIsRefused(t *testing.T) {
	for _, text := range []string{`"0123"`, `"000000000000000g"`, `7`} {
		var s sequences
		if err := json.Unmarshal([]byte(text), &s); err == nil {
			t.Errorf("%s became %v", text, s)
		}
	}
}
