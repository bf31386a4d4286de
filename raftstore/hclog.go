package raftstore

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// raftLogger has raft log into l. What it calls debug is of no use to an operator, and
// what it says of a peer that is away, many times a second, is said now and then.
func raftLogger(l *slog.Logger) hclog.Logger {
	h := hclog.NewInterceptLogger(&hclog.LoggerOptions{Level: hclog.Info, Output: io.Discard})
	h.RegisterSink(&slogSink{log: l, said: make(map[string]saying)})
	return h
}

type slogSink struct {
	log *slog.Logger

	mu   sync.Mutex
	said map[string]saying
}

// A saying is a message with what it is about, which comes again and again.
type saying struct {
	at      time.Time
	omitted int
}

const (
	repeatAfter = 10 * time.Second
	mostSayings = 256
)

var slogLevels = map[hclog.Level]slog.Level{
	hclog.Info:  slog.LevelInfo,
	hclog.Warn:  slog.LevelWarn,
	hclog.Error: slog.LevelError,
}

// tireless is what a node without a majority says for as long as it has none.
var tireless = map[string]bool{
	"entering candidate state":                               true,
	"pre-vote campaign failed, waiting for election timeout": true,
}

// Accept implements hclog.SinkAdapter.
func (s *slogSink) Accept(_ string, level hclog.Level, msg string, args ...any) {
	l, ok := slogLevels[level]
	if !ok {
		return
	}
	if l > slog.LevelInfo || tireless[msg] {
		omitted, ok := s.now(msg, args)
		if !ok {
			return
		}
		if omitted > 0 {
			args = append(args[:len(args):len(args)], "omitted", omitted)
		}
	}
	s.log.Log(context.Background(), l, "raft: "+msg, readable(args)...)
}

// readable makes what raft hands to its logger what a person reads.
func readable(args []any) []any {
	args = slices.Clone(args)
	for i, arg := range args {
		switch v := arg.(type) {
		case hclog.Format:
			if text, ok := v[0].(string); ok {
				args[i] = fmt.Sprintf(text, v[1:]...)
			}
		case raft.Server:
			args[i] = fmt.Sprintf("%s at %s", v.ID, v.Address)
		case fmt.Stringer:
			args[i] = v.String()
		}
	}
	return args
}

// now reports whether a message is to be logged now, and how many like it were not.
func (s *slogSink) now(msg string, args []any) (omitted int, ok bool) {
	key := msg
	for i := 0; i+1 < len(args); i += 2 {
		if name := fmt.Sprint(args[i]); name == "peer" || name == "server-id" || name == "target" {
			key += fmt.Sprint(args[i+1])
		}
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	last, known := s.said[key]
	if known && now.Sub(last.at) < repeatAfter {
		last.omitted++
		s.said[key] = last
		return 0, false
	}
	if len(s.said) >= mostSayings {
		clear(s.said)
	}
	s.said[key] = saying{at: now}
	return last.omitted, true
}
