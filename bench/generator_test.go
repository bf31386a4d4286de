package bench

import (
	"bufio"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// serving answers every request with answer, which gets its number and its body.
// It closes when the test ends.
func serving(t *testing.T, answer func(n int, body []byte) string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int64
	var conns sync.WaitGroup
	converse := func(c net.Conn) {
		defer c.Close()
		in := bufio.NewReader(c)
		for {
			r, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return
			}
			if _, err := io.WriteString(c, answer(int(count.Add(1))-1, body)); err != nil {
				return
			}
		}
	}
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { converse(c) })
		}
	})
	t.Cleanup(func() { l.Close(); conns.Wait() })
	return "http://" + l.Addr().String()
}

const answerAccepted = "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"

// openLoad is an open loop over one connection.
func openLoad(url string, rate float64, duration time.Duration) GeneratorOptions {
	return GeneratorOptions{
		URL: url, Targets: []string{"http://127.0.0.1:1/"}, Connections: 1,
		Rate: ConstantRate(rate), Duration: duration, Payload: FixedSize(100),
	}
}

// A closed loop would show a stall in one send and send nothing meanwhile. Every
// send that was due during it has waited, and has to say so.
func TestAStallShowsInEverySendThatWasDue(t *testing.T) {
	const duration, rate = 400 * time.Millisecond, 100
	const more = 2 * time.Second // longer than a busy machine has a generator wait for its turn
	stalled := make(chan struct{})
	url := serving(t, func(n int, _ []byte) string {
		if n == 0 {
			<-stalled // until after the last send was due
		}
		return answerAccepted
	})
	g, err := Generate(t.Context(), openLoad(url, rate, duration), func(far Generating) {
		if far.Measured {
			time.AfterFunc(more, func() { close(stalled) })
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if g.Attempted != 40 || g.Accepted != 40 || g.Unsent != 0 || g.AnswerLatency.Count != 40 {
		t.Fatalf("%d made, %d accepted, %d unsent, %d latencies; want all 40", g.Attempted, g.Accepted, g.Unsent, g.AnswerLatency.Count)
	}
	// The first one waited for all of the stall, the one in the middle for half of
	// it. A busy machine makes it more.
	check := func(name string, gotMS float64, least time.Duration) {
		t.Helper()
		if gotMS < millis(least)*0.99 {
			t.Errorf("the %s is %.1f ms, at least %s were waited", name, gotMS, least)
		}
	}
	check("greatest latency", g.AnswerLatency.MaxMS, duration)
	check("75th percentile", quantile(g.AnswerLatency, 75), duration*7/10)
	check("median", quantile(g.AnswerLatency, 50), duration*45/100)
	check("10th percentile", quantile(g.AnswerLatency, 10), duration*5/100)
	// It was the server that was late.
	if g.LateMax >= more {
		t.Errorf("the generator says that it was %s late itself", g.LateMax)
	}
}

// Sends that are due do not wait for those before them while connections are free.
func TestAnOpenLoopHasManyUnderWay(t *testing.T) {
	release := make(chan struct{})
	var once sync.Once
	url := serving(t, func(n int, _ []byte) string {
		if n == 7 {
			once.Do(func() { close(release) })
		}
		<-release // none of the first 7 is answered before the eighth came
		return answerAccepted
	})
	o := openLoad(url, 100, 200*time.Millisecond)
	o.Connections = 8
	g, err := Generate(t.Context(), o, nil)
	if err != nil || g.Accepted != 20 || g.Failed+g.Unsent > 0 {
		t.Errorf("%d of 20 accepted, %d failed, %d unsent, %v", g.Accepted, g.Failed, g.Unsent, err)
	}
}

func TestTheWarmUpIsNotMeasured(t *testing.T) {
	url := serving(t, func(int, []byte) string { return answerAccepted })
	o := openLoad(url, 200, 200*time.Millisecond)
	o.Warmup = 300 * time.Millisecond
	var said []Generating
	g, err := Generate(t.Context(), o, func(far Generating) { said = append(said, far) })
	if err != nil || g.Accepted != 100 || g.AnswerLatency.Count != 40 {
		t.Errorf("%d accepted and %d of them measured, want 100 and 40: %v", g.Accepted, g.AnswerLatency.Count, err)
	}
	began := 0
	for i, far := range said {
		if far.Measuring && (i == 0 || !said[i-1].Measuring) {
			began++
		}
	}
	if last := said[len(said)-1]; began != 1 || !last.Measured {
		t.Errorf("it told %d times that the measuring begins, and last %+v", began, last)
	}
}

// A repeated key is the same request again, byte by byte: with any other body it
// would be another send.
func TestRepetitionsAreTheSameBytes(t *testing.T) {
	var mu sync.Mutex
	times := map[string]int{}
	requests := 0
	url := serving(t, func(_ int, body []byte) string {
		mu.Lock()
		defer mu.Unlock()
		times[string(body)]++
		requests++
		return answerAccepted
	})
	o := openLoad(url, 1000, 300*time.Millisecond)
	o.Repeat = 0.5
	g, err := Generate(t.Context(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if requests != 300 || uint64(len(times)) != g.Attempted || g.Accepted != g.Attempted || g.Repeated != uint64(requests)-g.Attempted {
		t.Errorf("%d requests of %d different bodies; %d made, %d accepted, %d repeated", requests, len(times), g.Attempted, g.Accepted, g.Repeated)
	}
	if share := float64(g.Repeated) / 300; share < 0.35 || share > 0.65 {
		t.Errorf("a share of %.2f is repeated, want about half", share)
	}
}

func TestRefusalsOfAnOpenLoop(t *testing.T) {
	url := serving(t, func(n int, _ []byte) string {
		switch n % 4 {
		case 0:
			return "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
		case 1:
			return "HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n"
		case 2:
			return "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\nbad"
		}
		return answerAccepted
	})
	g, err := Generate(t.Context(), openLoad(url, 400, 100*time.Millisecond), nil)
	if err != nil || g.Refused != 20 || g.Unadvised != 10 || g.Failed != 10 || g.Accepted != 10 {
		t.Errorf("%d refused, %d of them without a Retry-After, %d failed, %d accepted, %v; want 20, 10, 10, 10", g.Refused, g.Unadvised, g.Failed, g.Accepted, err)
	}
	if want := "answered 500: \"bad\""; g.FirstFailure != want {
		t.Errorf("the first failure is %q, want %q", g.FirstFailure, want)
	}
}

func TestADirectPostIsAcceptedWith200(t *testing.T) {
	var mu sync.Mutex
	var marks []uint32
	url := serving(t, func(_ int, body []byte) string {
		mu.Lock()
		defer mu.Unlock()
		if m, ok := readMark(body); ok {
			marks = append(marks, m.Sequence)
		}
		return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
	})
	o := openLoad("", 200, 100*time.Millisecond)
	o.Direct, o.Targets = true, []string{url + "/x"}
	g, err := Generate(t.Context(), o, nil)
	mu.Lock()
	if err != nil || g.Accepted != 20 || len(marks) != 20 {
		t.Errorf("%d accepted, %d marks, %v; want 20", g.Accepted, len(marks), err)
	}
	mu.Unlock()
	// To the API, 200 is no acceptance.
	o = openLoad(url, 200, 40*time.Millisecond)
	if g, err := Generate(t.Context(), o, nil); err != nil || g.Accepted != 0 || g.Failed != 8 {
		t.Errorf("%d accepted and %d failed, %v; want 8 failures", g.Accepted, g.Failed, err)
	}
}

func TestASystemWithHTTPS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusAccepted) }))
	defer server.Close()
	o := openLoad(server.URL, 200, 50*time.Millisecond)
	if _, err := Generate(t.Context(), o, nil); err == nil {
		t.Error("a certificate of nobody known is trusted")
	}
	o.CA = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	if g, err := Generate(t.Context(), o, nil); err != nil || g.Accepted != 10 {
		t.Errorf("%d of 10 accepted, %d failed (%s), %v", g.Accepted, g.Failed, g.FirstFailure, err)
	}
}

// When nobody answers any more the load has an end, and what was due and not
// sent is neither accepted nor forgotten.
func TestWhatCannotBeSentIsCounted(t *testing.T) {
	l := &load{options: GeneratorOptions{Batch: 10}, due: make(chan moment, 3), abort: make(chan struct{})}
	l.giveUp = now() - 1
	for range 3 {
		l.due <- now()
	}
	close(l.due)
	if _, _, ok := l.take(); ok || l.unsent.Load() != 30 {
		t.Errorf("a load that is over takes more: %t, %d unsent, want 30", ok, l.unsent.Load())
	}
}

func TestGeneratorRefusesWhatContradicts(t *testing.T) {
	check := func(name string, change func(*GeneratorOptions)) {
		t.Helper()
		o := openLoad("http://127.0.0.1:1", 100, time.Second)
		change(&o)
		if _, err := Generate(t.Context(), o, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	check("no targets", func(o *GeneratorOptions) { o.Targets = nil })
	check("no connections", func(o *GeneratorOptions) { o.Connections = 0 })
	check("no time", func(o *GeneratorOptions) { o.Duration = 0 })
	check("no sizes", func(o *GeneratorOptions) { o.Payload = Sizes{} })
	check("direct batches", func(o *GeneratorOptions) { o.Direct, o.Batch = true, 5 })
	check("only repetitions", func(o *GeneratorOptions) { o.Repeat = 1 })
	check("no authorities", func(o *GeneratorOptions) { o.CA = "nothing" })
	check("no URL", func(o *GeneratorOptions) { o.URL = "http://%zz" })
	check("a key of two kilobytes", func(o *GeneratorOptions) { o.Keys = []string{fmt.Sprintf("%02000d", 7)} })
}

// The generator's own limit is measured against a server that does nothing.
func TestCeiling(t *testing.T) {
	o := smallOptions(t, report.Forwarder)
	if err := o.complete(); err != nil {
		t.Fatal(err)
	}
	s := &session{options: o, report: new(report.Report), progress: new(progress)}
	err := s.measureCeiling(t.Context(), GeneratorOptions{Connections: 4, Payload: FixedSize(300), Batch: 10, Rate: ConstantRate(5)})
	if c := s.report.Ceiling; err != nil || c == nil || c.RequestsPerSecond < 100 || c.CPUSecondsPerMillion <= 0 || c.Connections != 4 {
		t.Errorf("%+v, %v", c, err)
	}
}
