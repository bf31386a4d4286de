package raftstore

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// The lease rests on the answers of a majority of the voters, to messages of the term
// in question, from the moment on at which these were sent.
func TestQuorumSince(t *testing.T) {
	begin := time.Now()
	now := begin.Add(10 * time.Second)
	at := func(s int) time.Time { return begin.Add(time.Duration(s) * time.Second) }
	server := func(id raft.ServerID, s raft.ServerSuffrage) raft.Server { return raft.Server{ID: id, Suffrage: s} }
	three := []raft.Server{server("a", raft.Voter), server("b", raft.Voter), server("c", raft.Voter)}
	with := append(three[:3:3], server("d", raft.Nonvoter))
	type answer struct {
		id   raft.ServerID
		term uint64
		sent int
		ok   bool
	}
	for name, c := range map[string]struct {
		servers []raft.Server
		answers []answer
		want    time.Time
	}{
		"alone in the cluster":             {three[:1], nil, now},
		"nobody has answered":              {three, nil, time.Time{}},
		"one of two others":                {three, []answer{{"b", 5, 3, true}}, at(3)},
		"the later of two":                 {three, []answer{{"b", 5, 3, true}, {"c", 5, 4, true}}, at(4)},
		"an older one that comes later":    {three, []answer{{"b", 5, 4, true}, {"b", 5, 3, true}}, at(4)},
		"of an earlier term":               {three, []answer{{"b", 4, 3, true}}, time.Time{}},
		"an earlier term after this":       {three, []answer{{"b", 5, 3, true}, {"b", 4, 9, true}}, at(3)},
		"one that has refused":             {three, []answer{{"b", 5, 3, false}}, time.Time{}},
		"one without a vote":               {with, []answer{{"d", 5, 3, true}}, time.Time{}},
		"one that is no member":            {three, []answer{{"x", 5, 3, true}}, time.Time{}},
		"two members need both":            {three[:2], []answer{{"b", 5, 3, true}}, at(3)},
		"four members need two others":     {append(three[:3:3], server("e", raft.Voter)), []answer{{"b", 5, 3, true}}, time.Time{}},
		"four members, two others answer":  {append(three[:3:3], server("e", raft.Voter)), []answer{{"b", 5, 3, true}, {"e", 5, 2, true}}, at(2)},
		"this node is not a member itself": {three[1:], []answer{{"b", 5, 3, true}, {"c", 5, 2, true}}, at(2)},
	} {
		k := contacts{now: func() time.Time { return now }, peers: map[raft.ServerID]contact{}}
		for _, a := range c.answers {
			k.answered(a.id, &raft.AppendEntriesRequest{Term: a.term}, at(a.sent), &raft.AppendEntriesResponse{Success: a.ok})
		}
		if got := k.quorumSince(5, "a", c.servers); !got.Equal(c.want) {
			t.Errorf("%s: since %v, want %v", name, got.Sub(begin), c.want.Sub(begin))
		}
	}
}
