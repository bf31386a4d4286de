package main

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Whatever comes in at the port, the server answers the next one, and says
// nothing of a panic.
func TestGarbageAtThePort(t *testing.T) {
	t.Parallel()
	random := crashSeed(t)
	w := startWorld(t, "--drain-timeout", "4s")
	acme := w.tenant(t, "acme").verified(t, "your-app.com")
	in := w.inbox(t, "your-app.com", answers(200))
	address := strings.TrimPrefix(w.server.URL, "http://")
	good := "POST /v1/send HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + acme.key + "\r\n"
	alive := func(t *testing.T) {
		t.Helper()
		w.call(t, "GET", "/readyz", "", "").want(http.StatusOK)
		acme.queue(t, in.url, "")
		in.next(t)
	}

	t.Run("random bytes", func(t *testing.T) {
		for range 100 {
			shout(t, address, randomBytes(random, 1+random.IntN(4096)))
		}
		alive(t)
	})
	t.Run("requests with random bytes in them", func(t *testing.T) {
		body := sendBody(in.url+"/garbled", `"body":{"a":[1,2,"\u00e4"]},"headers":{"X-A":"b"},"labels":["c"],"metadata":{}`)
		for range 200 {
			request := []byte(good + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body))
			for range 1 + random.IntN(4) {
				request[random.IntN(len(request))] = byte(random.Uint32())
			}
			shout(t, address, request)
		}
		// Some of them were still sends, to targets with other paths. They may be
		// on their way, to be told from what comes next by their path.
		until(t, "what was accepted has arrived", func() (bool, string) {
			pending := len(acme.page(t, map[string][]string{"status": {"queued"}}).Data)
			return pending == 0, fmt.Sprint(pending)
		})
		for len(in.got) > 0 {
			in.next(t)
		}
		alive(t)
	})
	t.Run("halves of requests", func(t *testing.T) {
		whole := good + "Content-Length: 20\r\n\r\n" + `{"target":"https://`
		for cut := 1; cut < len(whole); cut += 7 {
			shout(t, address, []byte(whole[:cut]))
		}
		alive(t)
	})
	t.Run("heads that do not end", func(t *testing.T) {
		for _, piece := range []string{"X", "X: y\r\n", " folded\r\n", "GET / HTTP/1.1\r\n"} {
			answer := shout(t, address, []byte("GET /v1/deliveries HTTP/1.1\r\nHost: h\r\n"+strings.Repeat(piece, 1+(1<<20)/len(piece))))
			if code, _, _ := strings.Cut(strings.TrimPrefix(answer, "HTTP/1.1 "), " "); code != "431" && code != "400" {
				t.Errorf("a head of a mebibyte of %q is answered with %.60q", piece, answer)
			}
		}
		alive(t)
	})
	t.Run("bodies that are not there", func(t *testing.T) {
		for _, head := range []string{
			"Content-Length: 99999999999999999999\r\n\r\n", "Content-Length: -1\r\n\r\n", "Content-Length: 1099511627776\r\n\r\n",
			"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
			"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
			"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		} {
			answer := shout(t, address, []byte(good+head))
			if answer != "" && !strings.HasPrefix(answer, "HTTP/1.1 4") {
				t.Errorf("%q is answered with %.60q", head, answer)
			}
		}
		alive(t)
	})
	t.Run("many who say nothing to the end", func(t *testing.T) {
		slow := openSlowly(t, address, 300)
		defer slow()
		alive(t)
	})

	in.empty(t)
	logs := w.server.stderr.String()
	for _, bad := range []string{"panic", "goroutine ", `"level":"ERROR"`, acme.key} {
		if strings.Contains(logs, bad) {
			t.Errorf("%q is in the logs:\n%s", bad, logs)
		}
	}
	if status := w.server.stop(); status != exitOK {
		t.Errorf("after all that it ends with status %d:\n%s", status, w.server.stderr.String())
	}
}

// shout writes bytes to a new connection, stops writing, and returns what comes
// back until the server closes.
func shout(t *testing.T, address string, text []byte) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatalf("the server does not accept: %v", err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(processPatience))
	var writing sync.WaitGroup
	writing.Go(func() {
		c.Write(text) // it may be refused before it is read, which is an error here
		c.(*net.TCPConn).CloseWrite()
	})
	answer, err := io.ReadAll(bufio.NewReader(c))
	if e, is := err.(net.Error); is && e.Timeout() {
		t.Errorf("%.60q: neither answered nor closed in %s", text, processPatience)
	}
	writing.Wait()
	return string(answer)
}

func randomBytes(random *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	return b
}

// openSlowly opens n connections on each of which a request comes a byte at a
// time, and returns when each has sent some.
func openSlowly(t *testing.T, address string, n int) (end func()) {
	t.Helper()
	request := "GET /v1/deliveries HTTP/1.1\r\nHost: h\r\nX-Slow: " + strings.Repeat("y", 4000)
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c
	}
	stop := make(chan struct{})
	var all sync.WaitGroup
	var begun sync.WaitGroup
	begun.Add(1)
	all.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for at := 0; at < len(request); at++ {
			for _, c := range conns {
				c.Write([]byte{request[at]}) // the server may have had enough
			}
			if at == 3 {
				begun.Done()
			}
			select {
			case <-tick.C:
			case <-stop:
				return
			}
		}
	})
	begun.Wait()
	return func() {
		close(stop)
		all.Wait()
		for _, c := range conns {
			c.Close()
		}
	}
}
