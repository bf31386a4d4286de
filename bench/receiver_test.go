package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A caller sends marks to a receiver.
type caller struct {
	t      *testing.T
	client *http.Client
}

const testRun = 5

func newTestReceiver(t *testing.T, o ReceiverOptions) (*Receiver, *caller) {
	t.Helper()
	o.Run = testRun
	r, err := NewReceiver(o)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(r.CA()))
	c := &caller{t, &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}}
	t.Cleanup(func() {
		c.client.CloseIdleConnections()
		if err := errors.Join(r.Close(), r.Close()); err != nil {
			t.Error(err)
		}
	})
	return r, c
}

func marked(sequence uint32) []byte {
	return appendPayload(nil, 100, mark{Run: testRun, Sequence: sequence, SentAt: now()})
}

// send returns the answer with its body read, and what kept it from coming.
func (c *caller) send(ctx context.Context, url string, sequence uint32) (*http.Response, []byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(marked(sequence)))
	if err != nil {
		c.t.Fatal(err)
	}
	answer, err := c.client.Do(r)
	if err != nil {
		return nil, nil, err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	return answer, body, err
}

// status sends and wants an answer.
func (c *caller) status(url string, sequence uint32) int {
	c.t.Helper()
	answer, _, err := c.send(c.t.Context(), url, sequence)
	if err != nil {
		c.t.Fatal(err)
	}
	return answer.StatusCode
}

func TestFailuresAreTheSameWithTheSameSeed(t *testing.T) {
	const sends, path = 500, "b/fail=0.3:503,retry-after=7/x"
	b, err := parseBehaviour("/" + path)
	if err != nil {
		t.Fatal(err)
	}
	r, c := newTestReceiver(t, ReceiverOptions{Seed: 11})
	var failed uint64
	for sequence := range uint32(sends) {
		for arrival := uint32(1); ; arrival++ {
			want := http.StatusOK
			if b.manner(dice{11, sequence, arrival}) != mannerWell {
				want = http.StatusServiceUnavailable
				failed++
			}
			answer, _, err := c.send(t.Context(), r.Targets()[0]+path, sequence)
			if err != nil {
				t.Fatal(err)
			}
			if answer.StatusCode != want {
				t.Fatalf("send %d, arrival %d: %s, want %d", sequence, arrival, answer.Status, want)
			}
			if want == http.StatusOK {
				break
			}
			if after := answer.Header.Get("Retry-After"); after != "7" {
				t.Fatalf("Retry-After %q, want 7", after)
			}
		}
	}
	n := r.Counts()
	if n.Refused != failed || failed == 0 || n.Arrived != sends || n.Duplicates != 0 || n.Attempts != sends+failed {
		t.Errorf("%+v, want %d refused, %d arrived", n, failed, sends)
	}
}

func TestTheFirstArrivalsOfASendFail(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{})
	to := r.Targets()[0] + "b/fail-first=2:500/"
	for sequence := range uint32(3) {
		got := []int{c.status(to, sequence), c.status(to, sequence), c.status(to, sequence)}
		if fmt.Sprint(got) != "[500 500 200]" {
			t.Errorf("send %d is answered %v", sequence, got)
		}
	}
	if n := r.Counts(); n.Refused != 6 || n.Arrived != 3 {
		t.Errorf("%+v, want 6 refused and 3 arrived", n)
	}
}

func TestADelayIsNeverShorter(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{})
	const least = 60 * time.Millisecond
	for sequence, delay := range []string{"60ms", "uniform:60ms:80ms"} {
		begin := time.Now()
		if got := c.status(r.Targets()[0]+"b/delay="+delay+"/", uint32(sequence)); got != http.StatusOK {
			t.Errorf("status %d", got)
		}
		if took := time.Since(begin); took < least {
			t.Errorf("delay=%s is answered after %s", delay, took)
		}
	}
}

// A delay must not keep a receiver from closing.
func TestCloseEndsDelays(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{})
	answered := make(chan struct{})
	go func() { // ends with the answer, waited for below
		defer close(answered)
		_, _, _ = c.send(t.Context(), r.Targets()[0]+"b/delay=5m/", 1) // whatever comes of it
	}()
	until(t, "it has arrived", func() bool { return r.Counts().Arrived == 1 })
	begin := time.Now()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-answered
	if took := time.Since(begin); took > longestDelay/2 {
		t.Errorf("closing took %s", took)
	}
}

// until waits for a condition that another goroutine or process brings about.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for !ok() {
		select {
		case <-ticker.C:
		case <-t.Context().Done():
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestAResetIsSeenAsOne(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{TLSTargets: 1, Targets: 1})
	for i, to := range r.Targets() {
		_, _, err := c.send(t.Context(), to+"b/fail=1:reset/", uint32(i))
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset connection", to, err)
		}
	}
	if n := r.Counts(); n.Broken != 2 || n.Arrived != 0 {
		t.Errorf("%+v, want 2 broken", n)
	}
}

// Half an answer, and then the reset: both are seen.
func TestAResetInTheMiddleOfAnAnswer(t *testing.T) {
	r, _ := newTestReceiver(t, ReceiverOptions{})
	conn := dialReceiver(t, r)
	p := marked(1)
	fmt.Fprintf(conn, "POST /b/fail=1:half/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(p), p)
	got, err := io.ReadAll(conn)
	if string(got) != half || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%q, %v; want half an answer and a reset", got, err)
	}
}

// The bytes of a drip come one by one: each is read before the next is sent.
func TestADripComesByteByByte(t *testing.T) {
	r, _ := newTestReceiver(t, ReceiverOptions{})
	const pause = 20 * time.Millisecond
	conn := dialReceiver(t, r)
	p := marked(1)
	begin := time.Now()
	fmt.Fprintf(conn, "POST /b/drip=4:%s/ HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", pause, len(p), p)
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	b := make([]byte, 100)
	for n := 1; n <= 4; n++ {
		got, err := answer.Body.Read(b)
		if got != 1 || err != nil && n < 4 {
			t.Fatalf("byte %d: %d bytes, %v", n, got, err)
		}
		if took := time.Since(begin); took < time.Duration(n)*pause {
			t.Errorf("byte %d came after %s", n, took)
		}
	}
}

// A black hole takes the request, says nothing, and keeps no goroutine for it; it
// notices when the other side has gone.
func TestABlackHoleNeverAnswers(t *testing.T) {
	const conns = 20
	r, c := newTestReceiver(t, ReceiverOptions{Targets: 1, TLSTargets: 1})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var sending sync.WaitGroup
	for i := range conns {
		sending.Go(func() {
			_, _, err := c.send(ctx, r.Targets()[i%2]+"b/group=3,fail=1:hole/", uint32(i))
			if !errors.Is(err, context.Canceled) {
				t.Errorf("a black hole ended with %v, want that we gave up", err)
			}
		})
	}
	until(t, "all are held", func() bool { return r.parking.count() == conns })
	n := r.Counts()
	if n.Held != conns || n.Arrived != 0 || n.Open != conns {
		t.Errorf("%+v, want %d held", n, conns)
	}
	if len(n.Groups) != 1 || n.Groups[0].Group != 3 {
		t.Errorf("groups %+v, want the third alone", n.Groups)
	}
	cancel()
	sending.Wait()
	until(t, "none is open", func() bool { return r.Counts().Open == 0 })
}

// Beyond its bound a black hole closes what it would have to keep.
func TestBlackHolesAreBounded(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{ParkedConns: 1})
	to := r.Targets()[0] + "b/fail=1:hole/"
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	gaveUp := make(chan error)
	go func() { // ends with cancel, waited for below
		_, _, err := c.send(ctx, to, 1)
		gaveUp <- err
	}()
	until(t, "the first is held", func() bool { return r.parking.count() == 1 })
	if _, _, err := c.send(t.Context(), to, 2); err == nil {
		t.Error("a black hole answers")
	}
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Errorf("the first ended with %v", err)
	}
}

func TestGroupsAreToldApart(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{})
	to := r.Targets()[0]
	c.status(to, 1)
	c.status(to+"b/group=2/", 2)
	c.status(to+"b/group=2/", 3)
	c.status(to+"b/group=2/", 3)
	report := r.report()
	if len(report.PerGroup) != 2 {
		t.Fatalf("%d groups, want 2", len(report.PerGroup))
	}
	zero, two := report.PerGroup[0], report.PerGroup[1]
	if zero.Group != 0 || zero.Arrived != 1 || zero.Duplicates != 0 || zero.Latency.Count != 1 {
		t.Errorf("%+v, want one arrival", zero)
	}
	if two.Group != 2 || two.Arrived != 2 || two.Duplicates != 1 || two.Latency.Count != 2 {
		t.Errorf("%+v, want two arrivals and a duplicate", two)
	}
	if report.Latency.Count != 3 || report.Arrived != 3 || report.Duplicates != 1 || report.Attempts != 4 {
		t.Errorf("in all %+v, want 3 arrivals and a duplicate", report)
	}
	var attempts, arrived uint32
	for i := range two.Timeline.Attempts {
		attempts += two.Timeline.Attempts[i]
		arrived += two.Timeline.Arrived[i]
	}
	if attempts != 3 || arrived != 2 {
		t.Errorf("the timeline has %d attempts and %d arrivals, want 3 and 2", attempts, arrived)
	}
	r.Measure()
	if n := r.report().Latency.Count; n != 0 {
		t.Errorf("%d latencies after Measure, want none", n)
	}
}

// Order is that of a destination: what overtakes is counted where it was passed.
func TestArrivalsThatWereOvertakenAreCounted(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{Targets: 2, Hosts: 2})
	to := r.Targets()
	for _, s := range []struct{ target, sequence int }{{0, 3}, {1, 2}, {2, 1}, {3, 0}} {
		c.status(to[s.target], uint32(s.sequence))
	}
	if n := r.Counts(); n.Reordered != 0 {
		t.Errorf("%d reordered among four destinations, want none", n.Reordered)
	}
	c.status(to[0], 9)
	c.status(to[0], 8)
	c.status(to[0], 10)
	c.status(to[0], 8) // a duplicate is no disorder
	if n := r.Counts(); n.Reordered != 1 || n.Duplicates != 1 {
		t.Errorf("%d reordered, %d duplicates, want one of each", n.Reordered, n.Duplicates)
	}
}

func TestManyHostsAreReachedByTheirAddresses(t *testing.T) {
	const hosts = 100_000
	r, c := newTestReceiver(t, ReceiverOptions{Hosts: hosts, TLSTargets: 1, Targets: 1})
	to := r.Targets()
	if len(to) != 2*hosts {
		t.Fatalf("%d targets, want %d", len(to), 2*hosts)
	}
	seen := make(map[string]bool)
	for i, u := range to {
		if seen[u] {
			t.Fatalf("%s is there twice", u)
		}
		seen[u] = true
		if i%19_997 == 0 || i == len(to)-1 {
			if got := c.status(u, uint32(i)); got != http.StatusOK {
				t.Errorf("%s answers %d", u, got)
			}
		}
	}
	if _, _, err := c.send(t.Context(), strings.Replace(to[0], "127.1.0.0", "127.200.0.1", 1), 1); err == nil {
		t.Error("an address that is no host's answers")
	}
}

func TestTLSNeedsTheAuthority(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{TLSTargets: 1})
	if to := r.Targets(); len(to) != 1 || !strings.HasPrefix(to[0], "https://127.0.0.1:") {
		t.Fatalf("targets %v, want one of https", to)
	}
	if got := c.status(r.Targets()[0], 1); got != http.StatusOK {
		t.Errorf("status %d", got)
	}
	stranger := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var unknown x509.UnknownAuthorityError
	if _, err := stranger.Get(r.Targets()[0]); !errors.As(err, &unknown) {
		t.Errorf("without the authority: %v", err)
	}
}

// A port that is down refuses, ends what was open, and is the same port after.
func TestAPortGoesDownAndComesBack(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{Targets: 2})
	to := r.Targets()
	turn := func(what string) {
		t.Helper()
		if err := r.Switch(0, what); err != nil {
			t.Fatal(err)
		}
	}
	c.status(to[0], 1)
	for round := range uint32(3) {
		turn(Down)
		turn(Down)                      // already
		c.client.CloseIdleConnections() // a request on an old one fails otherwise, or not yet
		if _, _, err := c.send(t.Context(), to[0], 100+round); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("a port that is down: %v, want a refusal", err)
		}
		if got := c.status(to[1], 10+round); got != http.StatusOK {
			t.Errorf("the other port answers %d", got)
		}
		turn("fail=1:503")
		if got := c.status(to[0]+"b/group=1/", 200+round); got != http.StatusServiceUnavailable {
			t.Errorf("a port that fails answers %d", got)
		}
		turn("")
		if got := c.status(to[0], 20+round); got != http.StatusOK {
			t.Errorf("a port that is back answers %d", got)
		}
	}
	if n := r.Counts(); n.Arrived != 7 || n.Refused != 3 || n.Duplicates != 0 {
		t.Errorf("%+v, want 7 arrived, 3 refused", n)
	}
	if err := r.Switch(2, ""); err == nil {
		t.Error("a port that is not there is switched")
	}
	if err := r.Switch(0, "explode"); err == nil {
		t.Error("a port behaves in a way that there is not")
	}
}

// A connection that waits for its answer when the port goes down sees its end.
func TestAPortThatGoesDownEndsWhatIsUnderWay(t *testing.T) {
	for _, path := range []string{"b/delay=5m/", "b/fail=1:hole/"} {
		r, c := newTestReceiver(t, ReceiverOptions{})
		ended := make(chan error)
		go func() { // ends with the port, waited for below
			_, _, err := c.send(t.Context(), r.Targets()[0]+path, 1)
			ended <- err
		}()
		until(t, "it is there", func() bool { n := r.Counts(); return n.Attempts == 1 && n.Open == 1 })
		if strings.Contains(path, "hole") {
			until(t, "it is held", func() bool { return r.parking.count() == 1 })
		}
		if err := r.Switch(0, Down); err != nil {
			t.Fatal(err)
		}
		if err := <-ended; err == nil {
			t.Errorf("%s: answered by a port that is down", path)
		}
		until(t, "nothing is open", func() bool { return r.Counts().Open == 0 })
	}
}

func TestAReceiverRefusesWhatMakesNoSense(t *testing.T) {
	check := func(o ReceiverOptions, want string) {
		t.Helper()
		r, err := NewReceiver(o)
		if err == nil {
			err = r.Close()
			t.Errorf("%+v is fine", o)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want an error with %q", o, err, want)
		}
	}
	check(ReceiverOptions{Targets: -1}, "ports")
	check(ReceiverOptions{Hosts: maxReceiverHosts + 1}, "addresses")
	check(ReceiverOptions{Hosts: 2, Listen: "127.0.0.1"}, "listen")
	check(ReceiverOptions{Listen: "nowhere"}, "nowhere")
	check(ReceiverOptions{Listen: "127.0.0.1:9", Targets: 2}, "one port")
	check(ReceiverOptions{Listen: "192.0.2.1"}, "reserve a port") // an address of nobody's
}

// An answer that no behaviour is in: the path is wrong, and both sides say so.
func TestABehaviourThatIsNoneIsAnswered400(t *testing.T) {
	r, c := newTestReceiver(t, ReceiverOptions{})
	if got := c.status(r.Targets()[0]+"b/fail=2:500/", 1); got != http.StatusBadRequest {
		t.Errorf("status %d, want 400", got)
	}
	if n := r.Counts(); n.Strangers != 1 || n.Attempts != 0 {
		t.Errorf("%+v, want one stranger", n)
	}
}

// dialReceiver opens a connection to a receiver's first port, closed with the test.
func dialReceiver(t *testing.T, r *Receiver) net.Conn {
	t.Helper()
	u, err := url.Parse(r.Targets()[0])
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}
