package raftstore

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/valyala/fasthttp"
)

// An office is a node that answers internal requests, and can be closed and
// opened again at the same address.
type office struct {
	t       *testing.T
	dir, id string
	address string
	handler fasthttp.RequestHandler
	options InternalServerOptions

	layer  *StreamLayer
	server *InternalServer
}

func openOffice(t *testing.T, dir, id string, h fasthttp.RequestHandler) *office {
	t.Helper()
	o := &office{t: t, dir: dir, id: id, address: "127.0.0.1:0", handler: h}
	o.options.Logger = slog.New(slog.DiscardHandler)
	o.open()
	t.Cleanup(func() { o.kill() })
	return o
}

func (o *office) open() {
	o.t.Helper()
	o.layer = listenAs(o.t, o.dir, o.id, func(s *StreamOptions) { s.Bind = o.address })
	o.address = o.layer.Addr().String()
	o.server = ServeInternal(o.layer.HTTPListener(), o.handler, o.options)
}

// shutDown answers what is under way and closes.
func (o *office) shutDown() {
	o.t.Helper()
	if err := o.server.Shutdown(o.t.Context()); err != nil {
		o.t.Error(err)
	}
	o.layer.Close()
}

// kill closes with everything under way, as far as a process can do that to
// itself.
func (o *office) kill() {
	o.layer.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o.server.Shutdown(ctx)
}

// clientOf makes a client of node id.
func clientOf(t *testing.T, dir, id string, o InternalClientOptions) *InternalClient {
	t.Helper()
	c := NewInternalClient(listenAs(t, dir, id, nil), o)
	t.Cleanup(func() { c.Close(); c.Close() })
	return c
}

// ask makes a POST with body and returns the answer's status and body.
func ask(ctx context.Context, c *InternalClient, address, body string) (int, string, error) {
	var req fasthttp.Request
	var resp fasthttp.Response
	req.Header.SetMethod("POST")
	req.SetRequestURI("/v1/x")
	req.Header.SetHost("cluster")
	req.SetBodyString(body)
	err := c.Do(ctx, address, &req, &resp)
	return resp.StatusCode(), string(resp.Body()), err
}

// secured runs a test without and with TLS.
func secured(t *testing.T, test func(t *testing.T, dir string)) {
	t.Run("plain", func(t *testing.T) { noLeaks(t); test(t, "") })
	t.Run("tls", func(t *testing.T) { noLeaks(t); test(t, certDir(t, "n1", "n2")) })
}

func TestInternalRoundTrip(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		o := openOffice(t, dir, "n1", func(ctx *fasthttp.RequestCtx) {
			switch {
			case string(ctx.Path()) == "/panic":
				panic("on purpose")
			case string(ctx.Path()) == "/204":
				ctx.SetStatusCode(204)
			default:
				ctx.Response.Header.Set("X-Peer", PeerOf(ctx))
				ctx.Response.Header.SetBytesV("X-Uri", ctx.Request.Header.RequestURI())
				ctx.Response.Header.SetBytesV("X-Auth", ctx.Request.Header.Peek("Authorization"))
				ctx.Response.Header.SetBytesV("X-Method", ctx.Method())
				ctx.SetBody(ctx.PostBody())
			}
		})
		c := clientOf(t, dir, "n2", InternalClientOptions{})
		peer := ""
		if dir != "" {
			peer = "n2"
		}
		big := strings.Repeat("0123456789abcdef", 1<<20) // 16 MiB
		for _, x := range []struct{ method, uri, body string }{
			{"GET", "/v1/deliveries?limit=2&after=%2F", ""},
			{"POST", "/v1/../v1//sends?a=b+c", "{}"},
			{"PUT", "/v1/x", big},
			{"HEAD", "/v1/x", ""},
			{"DELETE", "/204", ""},
			{"GET", "/panic", ""},
			{"POST", "/v1/again", big},
		} {
			var req fasthttp.Request
			var resp fasthttp.Response
			req.Header.SetMethod(x.method)
			req.SetRequestURI(x.uri)
			req.Header.SetHost("cluster")
			req.Header.Set("Authorization", "Bearer key")
			req.SetBodyString(x.body)
			if err := c.Do(t.Context(), o.address, &req, &resp); err != nil {
				t.Fatalf("%s %s: %v", x.method, x.uri, err)
			}
			status := 200
			switch x.uri {
			case "/204":
				status = 204
			case "/panic":
				status = 500
			default:
				for name, want := range map[string]string{"X-Peer": peer, "X-Uri": x.uri, "X-Auth": "Bearer key", "X-Method": x.method} {
					if got := string(resp.Header.Peek(name)); got != want {
						t.Errorf("%s %s: %s is %q, want %q", x.method, x.uri, name, got, want)
					}
				}
			}
			if resp.StatusCode() != status {
				t.Errorf("%s %s: %d, want %d", x.method, x.uri, resp.StatusCode(), status)
			}
			if got := string(resp.Body()); got != x.body {
				t.Errorf("%s %s: a body of %d bytes, want %d", x.method, x.uri, len(got), len(x.body))
			}
			if got := resp.Header.ContentType(); len(got) > 0 {
				t.Errorf("%s %s: the client invents the content type %q", x.method, x.uri, got)
			}
		}
		// All of it went over one connection, but for what came after the panic.
		if n := c.layer.conns; len(n) > 2 {
			t.Errorf("%d connections are open", len(n))
		}
	})
}

func TestInternalBounds(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		o := openOffice(t, dir, "n1", func(ctx *fasthttp.RequestCtx) { ctx.SetBodyString(strings.Repeat("x", 2<<20)) })
		c := clientOf(t, dir, "n2", InternalClientOptions{RequestBytes: 20 << 20})
		if status, _, err := ask(t.Context(), c, o.address, strings.Repeat("x", 18<<20)); err != nil || status != 413 {
			t.Errorf("a body that is too large for the server: %d, %v", status, err)
		}
		if _, _, err := ask(t.Context(), c, o.address, strings.Repeat("x", 21<<20)); !errors.Is(err, ErrNotSent) {
			t.Errorf("a body that is too large for the client: %v", err)
		}
		small := clientOf(t, dir, "n2", InternalClientOptions{ResponseBytes: 1 << 20})
		if _, _, err := ask(t.Context(), small, o.address, ""); !errors.Is(err, ErrUnknown) {
			t.Errorf("an answer that is too large: %v", err)
		}
		var req fasthttp.Request
		req.SetRequestURI("/v1/x")
		req.Header.SetHost("cluster")
		req.Header.Set("X-Large", strings.Repeat("x", 100<<10))
		var resp fasthttp.Response
		if err := c.Do(t.Context(), o.address, &req, &resp); err != nil || resp.StatusCode() != 431 {
			t.Errorf("a head that is too large: %d, %v", resp.StatusCode(), err)
		}
		req.Header.Del("X-Large")
		req.SetBodyStream(strings.NewReader("x"), 1)
		if err := c.Do(t.Context(), o.address, &req, &resp); !errors.Is(err, ErrNotSent) {
			t.Errorf("a body that is a stream: %v", err)
		}
	})
}

// TestInternalServerRestarts has a server go and come back while connections to
// it wait in the client's pool. Every call is answered, and heard once.
func TestInternalServerRestarts(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		var heard atomic.Int64
		o := openOffice(t, dir, "n1", func(ctx *fasthttp.RequestCtx) { heard.Add(1) })
		c := clientOf(t, dir, "n2", InternalClientOptions{})
		for i := range 6 {
			var wg sync.WaitGroup
			for range 8 { // that many connections
				wg.Go(func() {
					if _, _, err := ask(t.Context(), c, o.address, strings.Repeat("x", i*100_000)); err != nil {
						t.Errorf("after %d restarts: %v", i, err)
					}
				})
			}
			wg.Wait()
			if i%2 == 0 {
				o.shutDown()
			} else {
				o.kill()
			}
			o.open()
		}
		if heard.Load() != 48 {
			t.Errorf("%d requests were heard of 48", heard.Load())
		}
	})
}

// play has a test be the internal server: each connection that a client makes is
// served by the next function, and closed then. wait ends when all have been.
func play(t *testing.T, l net.Listener, conns ...func(c net.Conn)) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, serve := range conns {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				serve(c)
			})
		}
	})
	return wg.Wait
}

// hear reads one request.
func hear(c net.Conn) {
	var req fasthttp.Request
	req.Read(bufio.NewReader(c))
}

const empty200 = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

// TestInternalGoodbye has the server close a connection while a request is on
// its way, at the worst moment: after the client has looked, before the server
// reads. The request is sent again only if the server said that it had not read.
func TestInternalGoodbye(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		for _, size := range []int{0, 16 << 20} {
			for _, polite := range []bool{true, false} {
				n1 := listenAs(t, dir, "n1", nil)
				c := clientOf(t, dir, "n2", InternalClientOptions{})
				wait := play(t, n1.HTTPListener(),
					func(c net.Conn) {
						hear(c)
						io.WriteString(c, empty200)
						// The next request begins to arrive and is not read.
						p := c.(*peerConn)
						for p.socket.quiet() {
							runtime.Gosched() // waiting would be reading
						}
						if polite {
							c.Write([]byte{goodbye})
						}
					},
					func(c net.Conn) {
						hear(c)
						io.WriteString(c, empty200)
					})
				address := n1.Addr().String()
				if _, body, err := ask(t.Context(), c, address, ""); err != nil || body != "ok" {
					t.Fatalf("the first request: %q, %v", body, err)
				}
				_, body, err := ask(t.Context(), c, address, strings.Repeat("x", size))
				if polite && (err != nil || body != "ok") {
					t.Errorf("%d bytes, goodbye: %q, %v", size, body, err)
				}
				if !polite && !errors.Is(err, ErrUnknown) {
					t.Errorf("%d bytes, closed: %v", size, err)
				}
				n1.Close()
				wait()
			}
		}
	})
}

// TestInternalCutOff has the server close a new connection in every phase.
func TestInternalCutOff(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		say := func(text string) func(net.Conn) {
			return func(c net.Conn) { hear(c); io.WriteString(c, text) }
		}
		large := strings.Repeat("x", 16<<20)
		for _, x := range []struct {
			name, body string
			serve      func(net.Conn)
			want       error
		}{
			{"before it reads", "", func(net.Conn) {}, ErrUnknown},
			{"goodbye on a new connection", "", say("Q"), ErrNotSent},
			{"in a small request", "x", func(c net.Conn) { c.Read(make([]byte, 20)) }, ErrUnknown},
			{"in a large request", large, func(c net.Conn) { io.CopyN(io.Discard, c, 1<<20) }, ErrUnknown},
			{"after a small request", "x", hear, ErrUnknown},
			{"after a large request", large, hear, ErrUnknown},
			{"in the status line", "", say("HTTP/1.1 20"), ErrUnknown},
			{"in the head", "", say("HTTP/1.1 200 OK\r\nContent-Le"), ErrUnknown},
			{"in the body", "", say("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"), ErrUnknown},
			{"in a chunk", "", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\nhalf"), ErrUnknown},
			{"between chunks", "", say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"), ErrUnknown},
			{"garbage", "", say("no HTTP at all\r\n\r\n"), ErrUnknown},
			{"after the answer", "", say(empty200), nil},
			{"two answers", "", say(empty200 + empty200), nil},
			{"a refusal of a large request", large, func(c net.Conn) {
				c.Read(make([]byte, 100))
				io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
				io.CopyN(io.Discard, c, 8<<20)
			}, nil},
			{"a success of half a request", large, func(c net.Conn) {
				c.Read(make([]byte, 100))
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			}, ErrUnknown},
		} {
			n1 := listenAs(t, dir, "n1", nil)
			c := clientOf(t, dir, "n2", InternalClientOptions{})
			wait := play(t, n1.HTTPListener(), x.serve, func(net.Conn) { t.Errorf("%s: it was sent twice", x.name) })
			_, _, err := ask(t.Context(), c, n1.Addr().String(), x.body)
			if !errors.Is(err, x.want) {
				t.Errorf("%s: %v, want %v", x.name, err, x.want)
			}
			if x.name == "two answers" && len(c.layer.conns) != 0 {
				t.Errorf("%s: the connection is kept", x.name)
			}
			c.Close()
			n1.Close()
			wait()
		}
	})
}

func TestInternalNotSent(t *testing.T) {
	noLeaks(t)
	dir := certDir(t, "n1", "n2")
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone.Close()
	c := clientOf(t, dir, "n2", InternalClientOptions{ConnectTimeout: 50 * time.Millisecond})
	if _, _, err := ask(t.Context(), c, gone.Addr().String(), "x"); !errors.Is(err, ErrNotSent) {
		t.Errorf("nobody listens: %v", err)
	}
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if _, _, err := ask(t.Context(), c, silent.Addr().String(), "x"); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody answers the handshake: %v", err)
	}
	n1 := openOffice(t, dir, "n1", func(*fasthttp.RequestCtx) { t.Error("the handler was reached") })
	stranger := clientOf(t, certDir(t, "n2"), "n2", InternalClientOptions{})
	if _, _, err := ask(t.Context(), stranger, n1.address, "x"); !errors.Is(err, ErrNotSent) {
		t.Errorf("another CA: %v", err)
	}
	refused := listenAs(t, dir, "n2", nil)
	posing(refused, strangerOf(t, dir).issue(nil, "n2"))
	if _, _, err := ask(t.Context(), NewInternalClient(refused, InternalClientOptions{}), n1.address, "x"); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "refused this node's certificate") {
		t.Errorf("a certificate that the server refuses: %v", err)
	}
	c.Close()
	if _, _, err := ask(t.Context(), c, n1.address, "x"); !errors.Is(err, ErrNotSent) {
		t.Errorf("a closed client: %v", err)
	}
	if len(c.pools) != 0 {
		t.Errorf("%d addresses are remembered", len(c.pools))
	}
}

// TestInternalDeadlines ends calls in every phase, by deadline and by cancel.
func TestInternalDeadlines(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		for _, x := range []struct {
			name, body string
			serve      func(net.Conn)
		}{
			{"not read", strings.Repeat("x", 16<<20), func(c net.Conn) { c.Read(make([]byte, 1)) }},
			{"not answered", "x", hear},
			{"half a head", "x", func(c net.Conn) { hear(c); io.WriteString(c, "HTTP/1.1 200 OK\r\n") }},
			{"half a body", "x", func(c net.Conn) { hear(c); io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf") }},
		} {
			for _, cancel := range []bool{false, true} {
				n1 := listenAs(t, dir, "n1", nil)
				c := clientOf(t, dir, "n2", InternalClientOptions{})
				reached, over := make(chan struct{}), make(chan struct{})
				wait := play(t, n1.HTTPListener(), func(c net.Conn) {
					x.serve(c)
					close(reached)
					<-over
				})
				ctx, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
				want := context.DeadlineExceeded
				if cancel {
					stop()
					ctx, stop = context.WithCancel(t.Context())
					want = context.Canceled
					go func() { <-reached; stop() }()
				}
				_, _, err := ask(ctx, c, n1.Addr().String(), x.body)
				if !errors.Is(err, ErrUnknown) && !(errors.Is(err, ErrNotSent) && !cancel) || !errors.Is(err, want) {
					t.Errorf("%s: %v, want %v", x.name, err, want)
				}
				stop()
				close(over)
				n1.Close()
				wait()
			}
		}
	})
}

// TestInternalQueue has more calls than connections: some wait, one more is told
// at once.
func TestInternalQueue(t *testing.T) {
	noLeaks(t)
	inside, answer := make(chan struct{}), make(chan struct{})
	o := openOffice(t, "", "n1", func(*fasthttp.RequestCtx) {
		inside <- struct{}{}
		<-answer
	})
	c := clientOf(t, "", "n2", InternalClientOptions{AddressConns: 2, AddressWaiters: 1, Addresses: 1})
	var wg sync.WaitGroup
	call := func() {
		wg.Go(func() {
			if _, _, err := ask(t.Context(), c, o.address, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	call()
	call()
	<-inside
	<-inside
	if _, _, err := ask(t.Context(), c, "127.0.0.1:1", "x"); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "1 other addresses") {
		t.Errorf("a second address: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := ask(ctx, c, o.address, "x"); !errors.Is(err, ErrNotSent) || !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for a connection: %v", err)
	}
	p := c.pools[o.address]
	c.mu.Lock()
	p.callers++ // one waits
	c.mu.Unlock()
	if _, _, err := ask(t.Context(), c, o.address, "x"); !errors.Is(err, ErrNotSent) || !strings.Contains(err.Error(), "1 calls wait") {
		t.Errorf("one too many: %v", err)
	}
	c.abandon(o.address, p)
	call() // waits, and gets a connection that another gives back
	answer <- struct{}{}
	<-inside
	close(answer)
	wg.Wait()
	if len(p.idle) > 2 {
		t.Errorf("%d connections", len(p.idle))
	}
}

// Hundreds of calls at once, as when a node comes to lead, make their connections a
// few at a time: none is pushed out of the handshakes that the other side bears.
func TestInternalHerd(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		layer := listenAs(t, dir, "n1", func(s *StreamOptions) { s.Handshakes, s.HandshakeTimeout = 2*dialsAtOnce, time.Minute })
		server := ServeInternal(layer.HTTPListener(), func(*fasthttp.RequestCtx) {}, InternalServerOptions{Logger: slog.New(slog.DiscardHandler)})
		t.Cleanup(func() { layer.Close(); server.Shutdown(context.Background()) })
		c := clientOf(t, dir, "n2", InternalClientOptions{ConnectTimeout: time.Minute})
		var wg sync.WaitGroup
		for range 200 {
			wg.Go(func() {
				if _, _, err := ask(t.Context(), c, layer.Addr().String(), "x"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

// TestInternalIdle closes connections that nobody uses.
func TestInternalIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := NewInternalClient(&StreamLayer{}, InternalClientOptions{})
		add := func(address string) {
			p := c.pools[address]
			if p == nil {
				p = &addressPool{}
				c.pools[address] = p
			}
			near, far := net.Pipe()
			t.Cleanup(func() { far.Close() })
			c.put(p, &peerConn{Conn: near, socket: &socket{}, layer: c.layer})
		}
		count := func(address string) int {
			c.mu.Lock()
			defer c.mu.Unlock()
			if p := c.pools[address]; p != nil {
				return len(p.idle)
			}
			return -1
		}
		add("a")
		time.Sleep(20 * time.Second)
		add("a")
		add("b")
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if count("a") != 1 || count("b") != 1 {
			t.Errorf("after 30 s: %d and %d", count("a"), count("b"))
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if count("a") != -1 || count("b") != -1 || c.sweep != nil {
			t.Errorf("after 50 s: %d and %d", count("a"), count("b"))
		}
		add("a")
		c.Close()
	})
}

// TestInternalOutcomesAreTrue restarts a server under load, politely and not, at
// random. What was answered was heard once, what was not sent never, and what is
// unknown once at most.
func TestInternalOutcomesAreTrue(t *testing.T) {
	secured(t, func(t *testing.T, dir string) {
		seed := uint64(time.Now().UnixNano())
		if text := os.Getenv("HAREPOST_SEED"); text != "" {
			seed, _ = strconv.ParseUint(text, 10, 64)
		}
		t.Logf("HAREPOST_SEED=%d", seed)
		const requests = 2000
		heard := make([]atomic.Int32, requests)
		o := openOffice(t, dir, "n1", func(ctx *fasthttp.RequestCtx) {
			body, _, _ := bytes.Cut(ctx.PostBody(), []byte{' '})
			if i, err := strconv.Atoi(string(body)); err == nil {
				heard[i].Add(1)
			}
			ctx.SetBody(body)
		})
		address := o.address
		c := clientOf(t, dir, "n2", InternalClientOptions{AddressConns: 16})
		outcomes := make([]error, requests)
		var next atomic.Int64
		ended := make(chan struct{}, requests)
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				random := rand.New(rand.NewPCG(seed, uint64(w)))
				for {
					i := int(next.Add(1)) - 1
					if i >= requests {
						return
					}
					size := random.IntN(100)
					if random.IntN(20) == 0 {
						size = random.IntN(1 << 20)
					}
					_, body, err := ask(t.Context(), c, address, fmt.Sprintf("%d %s", i, strings.Repeat("x", size)))
					if outcomes[i] = err; err == nil && body != strconv.Itoa(i) {
						t.Errorf("request %d was answered %q", i, body)
					}
					ended <- struct{}{}
				}
			})
		}
		random := rand.New(rand.NewPCG(seed, 99))
		restarts := 0
		for left := requests; left > 0; {
			for range min(left, 1+random.IntN(100)) {
				<-ended
				left--
			}
			if random.IntN(2) == 0 {
				o.shutDown()
			} else {
				o.kill()
			}
			o.open()
			restarts++
		}
		wg.Wait()
		o.shutDown() // nobody is being heard any more
		answered, notSent, unknown := 0, 0, 0
		for i, err := range outcomes {
			n := heard[i].Load()
			switch {
			case err == nil:
				answered++
				if n != 1 {
					t.Errorf("request %d was answered and heard %d times", i, n)
				}
			case errors.Is(err, ErrNotSent):
				notSent++
				if n != 0 {
					t.Errorf("request %d was not sent and heard %d times: %v", i, n, err)
				}
			case errors.Is(err, ErrUnknown):
				unknown++
				if n > 1 {
					t.Errorf("request %d was heard %d times: %v", i, n, err)
				}
			default:
				t.Errorf("request %d ended otherwise: %v", i, err)
			}
		}
		t.Logf("%d restarts: %d answered, %d not sent, %d unknown", restarts, answered, notSent, unknown)
	})
}

// A teller is a connection that keeps what is written to it and calls reading
// before each Read returns with a byte.
type teller struct {
	net.Conn
	reading func()
	written []byte
}

func (c *teller) Read(b []byte) (int, error) { c.reading(); b[0] = 'G'; return 1, nil }
func (c *teller) Write(b []byte) (int, error) {
	c.written = append(c.written, b...)
	return len(b), nil
}
func (c *teller) SetWriteDeadline(time.Time) error { return nil }
func (c *teller) Close() error                     { return nil }

// TestServedConnSaysGoodbye only where nothing of a request was given to anybody.
func TestServedConnSaysGoodbye(t *testing.T) {
	server := &InternalServer{conns: make(map[*servedConn]struct{})}
	read := func(c *servedConn) int { n, _ := c.Read(make([]byte, 1)); return n }
	answered := func(c *servedConn) { server.connState(c, fasthttp.StateIdle) }
	for name, x := range map[string]struct {
		before func(c *servedConn)
		want   string
	}{
		"new":                        {func(*servedConn) {}, "Q"},
		"closed twice":               {func(c *servedConn) { c.Close() }, "Q"},
		"in a request":               {func(c *servedConn) { read(c) }, ""},
		"after an answer":            {func(c *servedConn) { read(c); read(c); answered(c) }, "Q"},
		"in the next request":        {func(c *servedConn) { read(c); answered(c); read(c) }, ""},
		"an answer that comes late":  {func(c *servedConn) { read(c); c.Close(); answered(c) }, ""},
		"a request that comes late":  {func(c *servedConn) { c.Close(); answered(c) }, "Q"},
		"an answer without requests": {func(c *servedConn) { answered(c) }, "Q"},
	} {
		inner := &teller{reading: func() {}}
		c := &servedConn{Conn: inner, server: server}
		x.before(c)
		c.Close()
		if string(inner.written) != x.want {
			t.Errorf("%s: %q, want %q", name, inner.written, x.want)
		}
		if n := read(c); n != 0 {
			t.Errorf("%s: a request is read after the close", name)
		}
	}
	// Closed between the kernel's read and ours: what was read goes to nobody.
	inner := &teller{}
	c := &servedConn{Conn: inner, server: server}
	inner.reading = func() { c.Close() }
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, net.ErrClosed) || string(inner.written) != "Q" {
		t.Errorf("closed while reading: %d, %v, wrote %q", n, err, inner.written)
	}
}
