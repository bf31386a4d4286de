package raftstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"sync"
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
	m.node = NewNode(Config{ID: raft.ServerID(m.id), Transport: m.trans, Bootstrap: boot, Logger: logger, ElectionTimeout: 300 * time.Millisecond})
	m.eng, err = engine.Open("data", engine.Options{FS: m.fs, Transport: tr, DevLoopback: true, Logger: logger, Replica: m.node, LogBytes: logBytes,
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
		time.Sleep(10 * time.Millisecond)
	}
}

func TestSmoke(t *testing.T) {
	var mu sync.Mutex
	got := map[string]int{}
	rcv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		got[r.Header.Get("X-Harepost-Delivery")]++
		mu.Unlock()
	}))
	defer rcv.Close()
	u, _ := url.Parse(rcv.URL)
	port, _ := strconv.Atoi(u.Port())
	target := engine.Target{URL: rcv.URL + "/", Scheme: "http", Host: u.Hostname(), Port: uint16(port), URI: "/"}
	var ms []*member
	var boot []raft.Server
	for i := range 3 {
		id := fmt.Sprintf("n%d", i+1)
		_, tr := raft.NewInmemTransport(raft.ServerAddress(id))
		ms = append(ms, &member{id: id, fs: vfs.NewMem(), trans: tr})
		boot = append(boot, raft.Server{ID: raft.ServerID(id), Address: raft.ServerAddress(id)})
	}
	connect := func() {
		for _, a := range ms {
			for _, b := range ms {
				if a != b {
					a.trans.Connect(raft.ServerAddress(b.id), b.trans)
				}
			}
		}
	}
	connect()
	for _, m := range ms {
		openMember(t, m, boot, 1<<20)
	}
	l := leaderOf(ms)
	ctx := context.Background()
	acc, err := l.eng.CreateAccount(ctx, "a")
	if err != nil {
		t.Fatal(err)
	}
	acked := map[string]bool{}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			body := make([]byte, 500)
			for {
				select {
				case <-stop:
					return
				default:
				}
				l := leaderOf(ms)
				r, err := l.eng.Send(ctx, acc.Account.ID, &engine.Send{Target: target, Method: "POST", Body: body, Policy: engine.Policy{MaxAttempts: 5, BaseDelay: 100 * time.Millisecond, MaxDelay: time.Second, Timeout: 5 * time.Second}})
				if err == nil {
					mu.Lock()
					acked[r.ID.String()] = true
					mu.Unlock()
				} else if !errors.Is(err, engine.ErrNotLeader) && !errors.Is(err, engine.ErrUnknown) && !errors.Is(err, engine.ErrOverloaded) {
					t.Error(err)
					return
				}
			}
		})
	}
	for round := range 4 {
		time.Sleep(1500 * time.Millisecond)
		l := leaderOf(ms)
		switch round % 2 {
		case 0:
			if err := l.node.Transfer(ctx, "", ""); err != nil {
				t.Log(err)
			}
		case 1:
			l.trans.DisconnectAll()
			for _, m := range ms {
				if m != l {
					m.trans.Disconnect(raft.ServerAddress(l.id))
				}
			}
			time.Sleep(1500 * time.Millisecond)
			connect()
		}
	}
	close(stop)
	wg.Wait()
	for range 100 {
		mu.Lock()
		missing := 0
		for id := range acked {
			if got[id] == 0 {
				missing++
			}
		}
		mu.Unlock()
		if missing == 0 {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	mu.Lock()
	defer mu.Unlock()
	dups := 0
	for id, n := range got {
		if n > 1 {
			dups += n - 1
		}
		_ = id
	}
	for id := range acked {
		if got[id] == 0 {
			t.Errorf("%s was acknowledged and not delivered", id)
		}
	}
	t.Logf("acked %d, got %d, dups %d", len(acked), len(got), dups)
	for _, m := range ms {
		if err := m.eng.Close(); err != nil {
			t.Error(err)
		}
	}
}
