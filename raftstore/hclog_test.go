package raftstore

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// What raft says again and again of a peer that is away is logged now and then, with
// how often it was said; all of it is readable.
func TestRaftsLogIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		l := raftLogger(slog.New(slog.NewTextHandler(&out, nil)))
		for range 100 {
			l.Error("failed to heartbeat to", "peer", "n1")
		}
		l.Error("failed to heartbeat to", "peer", "n2")
		l.Debug("nothing for an operator")
		time.Sleep(repeatAfter)
		l.Error("failed to heartbeat to", "peer", "n1")
		for range 100 {
			l.Info("entering candidate state", "term", 7)
		}
		l.Info("progress", "percent", hclog.Fmt("%0.2f%%", 12.5), "peer", raft.Server{ID: "n1", Address: "a:1"})
		text := out.String()
		if n := strings.Count(text, "\n"); n != 5 {
			t.Errorf("%d lines:\n%s", n, text)
		}
		for _, want := range []string{"omitted=99", "percent=12.50%", `peer="n1 at a:1"`} {
			if !strings.Contains(text, want) {
				t.Errorf("no %s in\n%s", want, text)
			}
		}
	})
}
