package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/raftstore"
)

// A toldLog is a node that stands as a test says.
type toldLog struct{ status raftstore.Status }

func (l *toldLog) Term() uint64                             { return 7 }
func (l *toldLog) Certain() bool                            { return true }
func (l *toldLog) Leader() (raft.ServerID, <-chan struct{}) { return l.status.Leader, nil }
func (l *toldLog) Status() raftstore.Status                 { return l.status }
func (l *toldLog) Snapshot() (uint64, error)                { return 0, nil }

func toldDoor(role raft.RaftState, leader raft.ServerID) *clusterDoor {
	now := time.Now()
	return &clusterDoor{
		id: "n1",
		log: &toldLog{raftstore.Status{
			Role: role, Term: 7, Leader: leader, LastIndex: 100, Committed: 98, Applied: 95, Contact: now.Add(-time.Minute),
			Peers: []raftstore.PeerStatus{
				{ID: "n1", Address: "a1:1", Voter: true, LastLog: 100, Answered: now},
				{ID: "n2", Address: "a2:1", Voter: true, LastLog: 97, Behind: 5000, Answered: now.Add(-time.Hour)},
				{ID: "n3", Address: "a3:1"},
			},
		}},
		about:   func(id string) (string, string) { return "http://" + id, "v1" },
		cluster: func() string { return "c1" },
	}
}

func TestDoorTellsWhatOnlyTheLeaderKnows(t *testing.T) {
	s := toldDoor(raft.Leader, "n1").Status()
	if s.Role != api.RoleLeader || s.Contact != 0 || s.Lag() != 3 || s.ClusterID != "c1" || len(s.Members) != 3 {
		t.Errorf("%+v", s)
	}
	n2, n3 := s.Members[1], s.Members[2]
	if !n2.Known || n2.Reachable || n2.Contact < time.Hour || n2.LagEntries != 3 || n2.LagBytes != 5000 || n2.API != "http://n2" || n2.Version != "v1" {
		t.Errorf("%+v", n2)
	}
	if n3.Voter || !n3.Known || n3.Reachable || n3.Contact >= 0 || n3.LagEntries != 100 {
		t.Errorf("%+v", n3)
	}
	s = toldDoor(raft.Follower, "n2").Status()
	if s.Role != api.RoleFollower || s.Leader != "n2" || s.Contact < time.Minute || s.Members[1].Known || !s.Members[0].Known || !s.Members[0].Reachable {
		t.Errorf("%+v", s)
	}
	d := toldDoor(raft.Follower, "n2")
	d.id = "n3"
	if role := d.Standing().Role; role != api.RoleLearner {
		t.Errorf("n3 has no vote and is a %s", role)
	}
}

// What a node could not be asked is told apart from what it may have done.
func TestDoorTellsOutcomesApart(t *testing.T) {
	d := toldDoor(raft.Follower, "n2")
	f := func(id string, err, want error) {
		t.Helper()
		address := ""
		d.ask = func(_ context.Context, a string, _ *fasthttp.Request, _ *fasthttp.Response) error {
			address = a
			return err
		}
		got := d.Ask(t.Context(), id, nil, nil)
		if want == nil && got != nil || !errors.Is(got, want) {
			t.Errorf("%s, %v: %v, want %v", id, err, got, want)
		}
		if id == "n2" && address != "a2:1" {
			t.Errorf("asked %q", address)
		}
	}
	f("n2", nil, nil)
	f("n2", fmt.Errorf("x: %w", raftstore.ErrNotSent), api.ErrNotSent)
	f("n2", fmt.Errorf("x: %w", raftstore.ErrUnknown), api.ErrUnanswered)
	f("n2", errors.New("something new"), api.ErrUnanswered)
	f("n9", nil, api.ErrNotSent)
}

// Whoever keeps servers running does not start one again that ended with status 11: that
// is for what a later start finds as it was. A full disk is not.
func TestOnlyWhatIsFinalKeepsANodeAway(t *testing.T) {
	f := func(err error, status int, words ...string) {
		t.Helper()
		if got := statusOf(err); got != status {
			t.Errorf("%v: status %d, want %d", err, got, status)
		}
		for _, word := range words {
			if !strings.Contains(fmt.Sprint(err), word) {
				t.Errorf("%v does not say %q", err, word)
			}
		}
	}
	for _, final := range []error{raftstore.ErrIdentity, raftstore.ErrRefused, raftstore.ErrDamaged, raftstore.ErrFuture} {
		f(explainNode("d", fmt.Errorf("x: %w", final)), exitExpelled)
	}
	f(explainNode("d", fmt.Errorf("x: %w", syscall.ENOSPC)), exitFailed, "make room")
	f(explainNode("d", fmt.Errorf("x: %w", syscall.EROFS)), exitFailed, "harepost check")

	var p program
	p.cfg.DataDir, p.cfg.NodeID = t.TempDir(), "n1"
	inTheWay := filepath.Join(p.cfg.DataDir, clusterDir, "node.json.tmp")
	if err := os.MkdirAll(filepath.Join(inTheWay, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := openCluster(t.Context(), &p)
	f(err, exitFailed, "node.json", "harepost check")
}

func TestClusterMetrics(t *testing.T) {
	s := toldDoor(raft.Leader, "n1").Status()
	var b strings.Builder
	writeClusterMetrics(&b, &s)
	for _, want := range []string{
		"harepost_cluster_leads 1\n", "harepost_cluster_has_leader 1\n", "harepost_cluster_term 7\n", "harepost_cluster_lag_entries 3\n",
		`harepost_cluster_peer_lag_entries{node="n2"} 3` + "\n", `harepost_cluster_peer_lag_bytes{node="n2"} 5000` + "\n",
		`harepost_cluster_peer_reachable{node="n2"} 0` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	if strings.Contains(b.String(), `node="n1"`) {
		t.Errorf("a node is behind itself:\n%s", b.String())
	}
}

func TestHealthSaysWhereANodeStands(t *testing.T) {
	f := func(want, answer string) {
		t.Helper()
		if got := readiness([]byte(answer)); got != want {
			t.Errorf("%s: %q, want %q", answer, got, want)
		}
	}
	f("ready", `{"status":"ready","accepting_sends":true}`)
	f("ready, but takes no sends: full", `{"status":"ready","accepting_sends":false,"detail":"full"}`)
	f("ready: node n2, follower, leader n1", `{"status":"ready","accepting_sends":true,"node":{"node_id":"n2","role":"follower","leader_id":"n1"}}`)
	f("ready: node n1, leader, leader n1, but takes no sends: full", `{"accepting_sends":false,"detail":"full","node":{"node_id":"n1","role":"leader","leader_id":"n1"}}`)
	f("ready", `{`)
}
