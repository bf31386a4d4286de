package main

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// A countedTarget is a target over http that knows how many connections it has,
// so that it can be told when a dead server's last words have come.
type countedTarget struct {
	t    testing.TB
	url  string
	open atomic.Int32 // connections
}

func startCountedTarget(t testing.TB, handle http.HandlerFunc) *countedTarget {
	t.Helper()
	c := &countedTarget{t: t}
	ln := listenLoopback(t, "127.0.0.1:0")
	c.url = "http://" + ln.Addr().String()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
			if req.URL.Path == "/probe" {
				rw.Header().Set("Connection", "close")
				return
			}
			handle(rw, req)
		}),
		ConnState: func(_ net.Conn, s http.ConnState) {
			switch s {
			case http.StateNew:
				c.open.Add(1)
			case http.StateClosed, http.StateHijacked:
				c.open.Add(-1)
			}
		},
	}
	var done sync.WaitGroup
	done.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() { srv.Close(); done.Wait() })
	return c
}

// settle waits until what a dead server has sent was taken. Connections
// are accepted in order: once a later one is answered, all of the dead one's
// were accepted; and each is closed only after its requests were taken.
func (c *countedTarget) settle() {
	c.t.Helper()
	resp, err := http.Get(c.url + "/probe")
	if err != nil {
		c.t.Fatal(err)
	}
	resp.Body.Close()
	until(c.t, "the dead server's connections are closed", func() (bool, string) {
		n := c.open.Load()
		return n == 0, fmt.Sprintf("%d are open", n)
	})
}
