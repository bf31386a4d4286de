package raftstore

import (
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// raft-boltdb is the oracle: both stores get the same operations, chosen as raft chooses them, and must give
// the same answers. They differ in one thing, which is allowed for: after the deletion of a prefix this store
// may still have some of what was deleted. So the first index is compared as "not above", and entries below
// the oracle's first must be what they were, or not found. raft-boltdb keeps AppendedAt, which is not set here.
func TestSameAnswersAsBolt(t *testing.T) {
	rng := seeded(t)
	for range times(4) {
		sameAnswers(t, rng)
	}
}

func newBolt(t testing.TB) *raftboltdb.BoltStore {
	t.Helper()
	b, err := raftboltdb.New(raftboltdb.Options{
		Path:                    filepath.Join(t.TempDir(), "bolt"),
		NoSync:                  true, // it is not its durability that is compared
		MsgpackUseNewTimeFormat: true,
	})
	must(t, err)
	return b
}

// A comparison drives both.
type comparison struct {
	t    *testing.T
	rng  *rand.Rand
	s    *Store
	bolt *raftboltdb.BoltStore
	was  map[uint64]*raft.Log // the last entry stored at each index
}

func sameAnswers(t *testing.T, rng *rand.Rand) {
	fs := vfs.NewMem()
	o := smallOptions(fs)
	o.CacheBytes = []int64{1, 4 << 10, 0}[rng.IntN(3)]
	c := &comparison{t: t, rng: rng, s: mustOpenStore(t, o), bolt: newBolt(t), was: map[uint64]*raft.Log{}}
	keys := []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand", "other"}
	for round := range uint64(150) {
		first, last := bounds(t, c.bolt)
		switch k := rng.IntN(20); {
		case k == 0:
			mustCloseStore(t, c.s)
			c.s = mustOpenStore(t, o)
		case k == 1 && last > 0: // a snapshot was installed
			own, mine := bounds(t, c.s)
			must(t, c.bolt.DeleteRange(first, last))
			must(t, c.s.DeleteRange(own, mine))
		case k <= 4 && last > first: // compacted
			max := first + rng.Uint64N(last-first)
			own, _ := bounds(t, c.s)
			c.s.Hold(max + 1)
			must(t, c.bolt.DeleteRange(first, max))
			must(t, c.s.DeleteRange(own, max))
		case k <= 7 && last > first: // another leader's entries
			cut := last - rng.Uint64N(min(last-first, 10))
			must(t, c.bolt.DeleteRange(cut, last))
			must(t, c.s.DeleteRange(cut, last))
		case k <= 10:
			key, n := []byte(keys[rng.IntN(len(keys))]), rng.Uint64()
			must(t, c.bolt.SetUint64(key, n))
			must(t, c.s.SetUint64(key, n))
		default:
			next := last + 1
			if last == 0 {
				next = 1 + rng.Uint64N(1000)
			}
			logs := entriesOf(round+1, next, next+rng.Uint64N(20), rng.IntN(900))
			for _, l := range logs {
				c.was[l.Index] = l
			}
			must(t, c.bolt.StoreLogs(logs))
			must(t, c.s.StoreLogs(logs))
		}
		c.compareBounds()
		_, last = bounds(t, c.bolt)
		for range 10 {
			c.compareEntry(rng.Uint64N(last + 3))
		}
		for _, key := range keys {
			c.compareKey(key)
		}
	}
	_, last := bounds(t, c.bolt)
	for i := range last + 2 {
		c.compareEntry(i)
	}
	mustCloseStore(t, c.s)
	must(t, c.bolt.Close())
}

func (c *comparison) compareBounds() {
	c.t.Helper()
	first, last := bounds(c.t, c.bolt)
	own, mine := bounds(c.t, c.s)
	if mine != last || own > first || (own == 0) != (first == 0) {
		c.t.Fatalf("the log has %d to %d, the oracle %d to %d", own, mine, first, last)
	}
}

func (c *comparison) compareEntry(i uint64) {
	c.t.Helper()
	var want, got raft.Log
	wantErr, err := c.bolt.GetLog(i, &want), c.s.GetLog(i, &got)
	own, _ := bounds(c.t, c.s)
	if first, _ := bounds(c.t, c.bolt); i >= own && i < first {
		want, wantErr = *c.was[i], nil
	}
	if err != wantErr || err == nil && !reflect.DeepEqual(got, want) {
		c.t.Fatalf("GetLog(%d) gave %+v, %v, the oracle %+v, %v", i, got, err, want, wantErr)
	}
}

func (c *comparison) compareKey(key string) {
	c.t.Helper()
	want, wantErr := c.bolt.Get([]byte(key))
	got, err := c.s.Get([]byte(key))
	if (err == nil) != (wantErr == nil) || err != nil && err.Error() != wantErr.Error() || !reflect.DeepEqual(got, want) {
		c.t.Fatalf("Get(%q) gave %q, %v, the oracle %q, %v", key, got, err, want, wantErr)
	}
}
