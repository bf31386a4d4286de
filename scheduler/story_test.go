package scheduler

import (
	"testing"
)

func TestAnItemIsStartedOnceAndThenGone(t *testing.T) {
	s := New(Options{})
	k := LaneKey{1, 2}
	s.Add(k, Item{ID: ID{1}, Due: 100, Attempt: 1}, 1, 50)
	if d, ok := s.Next(99); ok {
		t.Fatalf("started early: %v", d)
	}
	at, ok := s.NextWake()
	if !ok {
		t.Fatal("nothing to wait for")
	}
	for at < 100 {
		s.Wake(at)
		at, _ = s.NextWake()
	}
	s.Wake(at)
	d, ok := s.Next(at)
	if !ok || d.Item.ID != (ID{1}) || d.Lane != k {
		t.Fatalf("at %d: %v %t", at, d, ok)
	}
	s.Done(k, d.Item.ID)
	s.Recorded(k, d.Item.ID)
	if st := s.Stats(); st != (Stats{}) {
		t.Fatalf("something is left: %+v", st)
	}
}
