package raftstore

import (
	"cmp"
	"log/slog"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"

	"github.com/harepost/harepost/engine"
	"github.com/harepost/harepost/transport"
)

type member struct {
	id    string
	fs    vfs.FS
	trans *raft.InmemTransport
	node  *Node
	eng   *engine.Engine

	replica  func(*Node) engine.Replica // nil: the node itself
	election time.Duration              // its timeout; 0: 300 ms
	patience time.Duration              // with its disk; 0: as users have it

	between func(*raft.InmemTransport) raft.Transport // it and the node; nil: nothing
}

func openMember(t *testing.T, m *member, boot []raft.Server, logBytes int64) {
	t.Helper()
	level := slog.LevelWarn
	if testing.Verbose() {
		level = slog.LevelInfo
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", m.id)
	tr, err := transport.New(transport.Options{EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.Close)
	var trans raft.Transport = m.trans
	if m.between != nil {
		trans = m.between(m.trans)
	}
	m.node = NewNode(Config{
		ID: raft.ServerID(m.id), Transport: trans, Bootstrap: boot, Logger: logger,
		ElectionTimeout: cmp.Or(m.election, 300*time.Millisecond), DiskPatience: m.patience,
	})
	var replica engine.Replica = m.node
	if m.replica != nil {
		replica = m.replica(m.node)
	}
	m.eng, err = engine.Open("data", engine.Options{FS: m.fs, Transport: tr, DevLoopback: true, Logger: logger, Replica: replica, LogBytes: logBytes,
		LogSegmentBytes: 256 << 10,
		Failed:          func(err error) { t.Errorf("%s failed: %v", m.id, err) }})
	if err != nil {
		t.Fatal(err)
	}
}

func leaderOf(ms []*member) *member {
	for {
		for _, m := range ms {
			if m.eng != nil && m.node.Certain() && m.eng.Ready() == nil {
				return m
			}
		}
		<-time.After(10 * time.Millisecond)
	}
}

// What waits is put into entries that the log takes, however much EntryBytes asks for:
// one that is too large is the end of the node.
func TestEntriesFitIntoTheLog(t *testing.T) {
	_, tr := raft.NewInmemTransport("n1")
	m := &member{id: "n1", fs: vfs.NewMem(), trans: tr}
	openMember(t, m, []raft.Server{{ID: "n1", Address: "n1"}}, 4<<20)
	defer func() {
		if err := m.eng.Close(); err != nil {
			t.Error(err)
		}
	}()
	leaderOf([]*member{m})
	a, err := m.eng.CreateAccount(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	sends := make([]*engine.Send, 512) // accepted at once, and twice what the log takes
	for i := range sends {
		sends[i] = &engine.Send{
			Target: engine.Target{URL: "http://127.0.0.1:1/", Scheme: "http", Host: "127.0.0.1", Port: 1, URI: "/"},
			Method: "POST", Body: make([]byte, 1<<10), NotBefore: time.Now().Add(time.Hour),
		}
	}
	results := make([]engine.SendResult, len(sends))
	m.eng.SendBatch(t.Context(), a.Account.ID, sends, results)
	for i, r := range results {
		if r.Err != nil {
			t.Fatalf("send %d: %v", i, r.Err)
		}
	}
}
