package api

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// A request that is under way when the server shuts down is answered; later
// ones do not get in.
func TestShutdownAnswersWhatIsUnderWay(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := startServer(t, Options{Metrics: func(io.Writer) { close(entered); <-leave }}, nil)
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	down := make(chan error, 1)
	go func() { down <- s.Shutdown(context.Background()) }()
	eventually(t, "the listener is closed", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	select {
	case err := <-down:
		t.Fatalf("shut down with a request under way: %v", err)
	default:
	}
	close(leave)
	resp, _ := statusOf(t, "GET /metrics", bufio.NewReader(c))
	if resp.StatusCode != 200 || !resp.Close {
		t.Errorf("status %d, close %v", resp.StatusCode, resp.Close)
	}
	if err := <-down; err != nil {
		t.Errorf("shut down: %v", err)
	}
	if err := s.Shutdown(context.Background()); err != nil {
		t.Errorf("shut down again: %v", err)
	}
}

// A shutdown that runs out of time closes what is left.
func TestShutdownRunsOutOfTime(t *testing.T) {
	entered, leave := make(chan struct{}), make(chan struct{})
	s := startServer(t, Options{Metrics: func(io.Writer) { close(entered); <-leave }}, nil)
	defer close(leave)
	c := s.dial()
	defer c.Close()
	fmt.Fprintf(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.Shutdown(ctx); err == nil {
		t.Error("no error")
	}
	if got := readAll(c, 5*time.Second); got != "" {
		t.Errorf("answered %q", got)
	}
	if s.ctx.Err() == nil {
		t.Error("calls into the engine were not canceled")
	}
}

func TestOptions(t *testing.T) {
	f := func(o Options, word string) {
		t.Helper()
		if _, err := New(nil, o); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%+v: %v, want %s in it", o, err, word)
		}
	}
	f(Options{Connections: -1}, "Connections")
	f(Options{ReadTimeout: -1}, "ReadTimeout")
	f(Options{MetadataBytes: 2 << 20}, "MetadataBytes")
	f(Options{ReadBufferBytes: 100}, "ReadBufferBytes")
	f(Options{AdminToken: " x"}, "AdminToken")
}
