package bench

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestReceiverCountsDuplicatesAndStrangers(t *testing.T) {
	r, err := NewReceiver(ReceiverOptions{Run: 5, Targets: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	urls := r.Targets()
	post := func(url string, m mark) {
		if _, err := call(t.Context(), http.MethodPost, url, appendPayload(nil, 100, m), http.StatusOK); err != nil {
			t.Fatal(err)
		}
	}
	post(urls[0], mark{Run: 5, Sequence: 1, SentAt: now()})
	post(urls[1], mark{Run: 5, Sequence: 2, SentAt: now()})
	post(urls[1], mark{Run: 5, Sequence: 1, SentAt: now()})
	post(urls[0], mark{Run: 6, Sequence: 3, SentAt: now()})
	post(urls[0], mark{Run: 5, Sequence: maxSends, SentAt: now()})
	if _, err := call(t.Context(), http.MethodPost, urls[0], []byte("no mark"), http.StatusOK); err != nil {
		t.Fatal(err)
	}
	if c := r.Counts(); c.Arrived != 2 || c.Duplicates != 1 || c.Strangers != 3 {
		t.Errorf("%+v, want 2 arrived, 1 duplicate, 3 strangers", c)
	}
}

// The forwarder must hand on what the engine would: same target, method, bytes.
func TestForwarderHandsOnTheSameBytes(t *testing.T) {
	arrived := make(chan string, 1)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		arrived <- r.Method + " " + r.URL.String() + " " + r.Header.Get("Content-Type") + " " + string(body)
	}))
	defer target.Close()
	f, err := NewForwarder(ForwarderOptions{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	send := func(request, want string) {
		t.Helper()
		request = strings.ReplaceAll(request, "TARGET", target.URL)
		if _, err := call(t.Context(), http.MethodPost, "http://"+f.Addr()+"/v1/send", []byte(request), http.StatusAccepted); err != nil {
			t.Fatal(err)
		}
		if got := <-arrived; got != want {
			t.Errorf("arrived %q, want %q", got, want)
		}
	}
	send(`{"target":"TARGET/a?b=c","body":{"x": 1}}`, `POST /a?b=c application/json {"x": 1}`)
	send(`{"target":"TARGET/","method":"PUT","body":"text"}`, `PUT / application/json text`)
	if _, err := call(t.Context(), http.MethodPost, "http://"+f.Addr()+"/v1/send", []byte(`{}`), http.StatusBadRequest); err != nil {
		t.Error(err)
	}
}

// A full queue holds requests back instead of dropping them, and Close forwards
// what was accepted.
func TestForwarderLosesNothingWhenItsQueueIsFull(t *testing.T) {
	const sends = 6
	release := make(chan struct{})
	arrived := make(chan struct{}, sends)
	target := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer target.Close()
	f, err := NewForwarder(ForwarderOptions{Workers: 1, QueueRequests: 1})
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, sends)
	for range sends {
		go func() { // ends with its answer, which the test waits for
			_, err := call(t.Context(), http.MethodPost, "http://"+f.Addr()+"/v1/send",
				[]byte(`{"target":"`+target.URL+`"}`), http.StatusAccepted)
			answers <- err
		}()
	}
	// One is with the target and one is queued: both are answered. The others
	// are held back, and are still there when the target goes on.
	<-arrived
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	for f.server.http.GetCurrentConcurrency() < sends-2 {
		<-look.C
	}
	if len(answers) > 0 {
		t.Error("more is accepted than the queue holds")
	}
	close(release)
	for range sends - 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if err := errors.Join(f.Close(), f.Close()); err != nil {
		t.Error(err)
	}
	if len(arrived) != sends-1 || f.Lost() != 0 {
		t.Errorf("%d more arrived and %d lost, want %d and 0", len(arrived), f.Lost(), sends-1)
	}
}

func TestForwarderCountsWhatItCannotForward(t *testing.T) {
	f, err := NewForwarder(ForwarderOptions{Workers: 1})
	if err != nil {
		t.Fatal(err)
	}
	nobody, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"http://" + nobody + "/", "https://example.com/"} {
		if _, err := call(t.Context(), http.MethodPost, "http://"+f.Addr()+"/", []byte(`{"target":"`+target+`"}`), http.StatusAccepted); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if f.Lost() != 2 {
		t.Errorf("%d lost, want 2", f.Lost())
	}
}

// answering serves raw answers, one after the other, on every connection.
func answering(t *testing.T, write func(net.Conn) error) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			request := make([]byte, 4<<10)
			for {
				if _, err := c.Read(request); err != nil {
					break
				}
				if err := write(c); err != nil {
					break
				}
			}
			c.Close()
		}
	}()
	return l.Addr().String()
}

func generate(t *testing.T, addr string) (Generated, error) {
	return Generate(t.Context(), GeneratorOptions{
		URL: "http://" + addr, Targets: []string{"http://127.0.0.1:1/"}, Connections: 1,
		Duration: 100 * time.Millisecond, Payload: FixedSize(100),
	}, nil)
}

func TestGeneratorReadsAnAnswerInPieces(t *testing.T) {
	addr := answering(t, func(c net.Conn) error {
		for _, b := range []byte("HTTP/1.1 202 Accepted\r\ncontent-length: 3\r\n\r\nabc") {
			if _, err := c.Write([]byte{b}); err != nil {
				return err
			}
		}
		return nil
	})
	g, err := generate(t, addr)
	if err != nil || g.Accepted == 0 || g.Accepted != g.Attempted || g.Failed != 0 {
		t.Errorf("%d of %d accepted, %d failed (%s), %v", g.Accepted, g.Attempted, g.Failed, g.FirstFailure, err)
	}
}

func TestGeneratorReconnectsWhenToldTo(t *testing.T) {
	addr := answering(t, func(c net.Conn) error {
		_, err := c.Write([]byte("HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
		return errors.Join(err, io.EOF)
	})
	g, err := generate(t, addr)
	if err != nil || g.Accepted < 2 || g.Failed != 0 {
		t.Errorf("%d accepted, %d failed (%s), %v", g.Accepted, g.Failed, g.FirstFailure, err)
	}
}

func TestRefusalsAreNotFailures(t *testing.T) {
	addr := answering(t, func(c net.Conn) error {
		_, err := c.Write([]byte("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"))
		return err
	})
	g, err := generate(t, addr)
	if err != nil || g.Refused == 0 || g.Accepted+g.Failed != 0 {
		t.Errorf("%d refused, %d accepted, %d failed, %v", g.Refused, g.Accepted, g.Failed, err)
	}
	if most := 2 + uint64(g.MeasuredTime/refusedPause); g.Attempted > most {
		t.Errorf("%d sends in %s against a server that refuses, want %d at most", g.Attempted, g.MeasuredTime, most)
	}
}

func TestAnswersThatMakeNoSenseEndTheLoad(t *testing.T) {
	check := func(answer, want string) {
		t.Helper()
		addr := answering(t, func(c net.Conn) error {
			_, err := io.WriteString(c, answer)
			return err
		})
		g, err := Generate(t.Context(), GeneratorOptions{
			URL: "http://" + addr, Targets: []string{"http://127.0.0.1:1/"}, Connections: 1,
			Duration: time.Hour, Payload: FixedSize(100), // it ends because nothing succeeds
		}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || g.Accepted > 0 || g.Failed == 0 {
			t.Errorf("%.40q: %v with %d accepted, %d failed; want an error with %q", answer, err, g.Accepted, g.Failed, want)
		}
	}
	check("HTTP/1.0 202 Accepted\r\n\r\n", "not an HTTP/1.1 answer")
	check("HTTP/1.1 2x2 Accepted\r\n\r\n", "status")
	check("HTTP/1.1 202 Accepted\r\nContent-Length: -1\r\n\r\n", "length")
	check("HTTP/1.1 202 Accepted\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "chunked")
	check("HTTP/1.1 202 Accepted\r\n\r\nmore", "bytes after")
	check("HTTP/1.1 202 Accepted\r\nX: "+strings.Repeat("x", answerHeadBytes), "head of more than")
}

func TestCanceledLoadEndsAtOnce(t *testing.T) {
	release := make(chan struct{})
	addr := answering(t, func(net.Conn) error { <-release; return io.EOF }) // never answers
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	_, err := Generate(ctx, GeneratorOptions{
		URL: "http://" + addr, Targets: []string{"http://127.0.0.1:1/"}, Connections: 1,
		Duration: time.Hour, Payload: FixedSize(100),
	}, nil)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Generate returned %v, want that it was cancelled", err)
	}
}

func TestChildRefusesAnUnknownRole(t *testing.T) {
	if err := Child(t.Context(), "cook", strings.NewReader(""), new(bytes.Buffer)); err == nil {
		t.Error("a child plays an unknown role")
	}
}
