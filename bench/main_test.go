package bench

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/valyala/fasthttp"
	"go.uber.org/goleak"
)

// The test binary is also the programs that the harness starts: its own parts,
// and a system under load that fails on purpose.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "play" {
		if err := Child(context.Background(), os.Args[2], os.Stdin, os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "serve" {
		if err := serveFaulty(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	// Under the race detector every program we start would wait a second at its
	// end, in case a report is still being written.
	os.Setenv("GORACE", os.Getenv("GORACE")+" atexit_sleep_ms=20")
	// fasthttp updates its Date header for the life of the process; its cleaners
	// notice only at the end of a 10 s sleep that there is nothing left to clean.
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*HostClient).connsCleaner"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// smallOptions measure with the test binary's parts and its faulty system.
func smallOptions(t *testing.T, systems ...string) Options {
	return Options{
		Systems:    systems,
		Engine:     []string{os.Args[0]},
		Child:      []string{os.Args[0], "play"},
		Quick:      true,
		Rounds:     1,
		Warmup:     50 * time.Millisecond,
		Duration:   300 * time.Millisecond,
		DrainWait:  10 * time.Second,
		SettleWait: 250 * time.Millisecond,
		Dir:        t.TempDir(),
	}
}

// smallThroughput is the plainest scenario in that size.
func smallThroughput(t *testing.T, systems ...string) *Throughput {
	return &Throughput{Options: smallOptions(t, systems...), Connections: []int{8}}
}

// A faulty system takes an engine's flags and answers an engine's routes, but
// loses, repeats or delays deliveries as its further flags say.
type faulty struct {
	drop, repeat              int // sequence numbers; -1: none
	answerDelay, arrivalDelay time.Duration
	client                    fasthttp.Client
	sending                   sync.WaitGroup
	slots                     chan struct{} // bounds what is being sent
}

func serveFaulty(args []string) error {
	f := &faulty{slots: make(chan struct{}, 256)}
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	flags.Bool("dev", false, "as the engine")
	flags.String("data-dir", "", "as the engine")
	listen := flags.String("listen", "", "as the engine")
	for _, name := range []string{"admin-token", "node-id", "cluster-addr", "join", "join-token", "bootstrap-expect", "cluster-entry-bytes", "cluster-entries-in-flight"} {
		flags.String(name, "", "as the engine")
	}
	flags.IntVar(&f.drop, "drop", -1, "sequence number to lose")
	flags.IntVar(&f.repeat, "repeat", -1, "sequence number to deliver twice")
	flags.DurationVar(&f.answerDelay, "answer-delay", 0, "before every answer")
	flags.DurationVar(&f.arrivalDelay, "arrival-delay", 0, "before every delivery")
	if err := flags.Parse(args); err != nil {
		return err
	}
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	server := fasthttp.Server{Handler: f.handle}
	defer context.AfterFunc(ctx, func() { _ = server.Shutdown() })()
	err = server.Serve(l)
	f.sending.Wait()
	return notClosed(err)
}

func (f *faulty) handle(ctx *fasthttp.RequestCtx) {
	switch string(ctx.Path()) {
	case "/readyz":
	case "/metrics":
		ctx.SetBodyString("harepost_deliveries_pending 0\n")
	case "/v1/cluster": // whoever is asked, this node leads
		ctx.SetBodyString(`{"leader_id":"n1"}`)
	case "/v1/accounts":
		ctx.SetStatusCode(http.StatusCreated)
		ctx.SetBodyString(`{"api_key":"hp_live_test"}`)
	case "/v1/send":
		if string(ctx.Request.Header.Peek("Authorization")) != "Bearer hp_live_test" {
			ctx.SetStatusCode(http.StatusUnauthorized)
			return
		}
		f.send(ctx)
	case "/v1/send/batch":
		f.sendBatch(ctx)
	default:
		ctx.SetStatusCode(http.StatusNotFound)
	}
}

func (f *faulty) send(ctx *fasthttp.RequestCtx) {
	e, err := readEnvelope(ctx.PostBody())
	if err != nil {
		ctx.Error(err.Error(), http.StatusBadRequest)
		return
	}
	f.deliver(e)
	if f.answerDelay > 0 {
		<-time.After(f.answerDelay)
	}
	ctx.SetStatusCode(http.StatusAccepted)
}

// sendBatch takes a batch, but for every tenth send.
func (f *faulty) sendBatch(ctx *fasthttp.RequestCtx) {
	var sends []json.RawMessage
	if err := json.Unmarshal(ctx.PostBody(), &sends); err != nil {
		ctx.Error(err.Error(), http.StatusBadRequest)
		return
	}
	var results []string
	for i, send := range sends {
		e, err := readEnvelope(send)
		if err != nil || i%10 == 9 {
			results = append(results, `{"error":"overloaded","status":503,"retry_after":1}`)
			continue
		}
		f.deliver(e)
		results = append(results, `{"queue_id":"hr_1","status":"queued"}`)
	}
	ctx.SetStatusCode(http.StatusAccepted)
	ctx.SetBodyString(`{"results":[` + strings.Join(results, ",") + `]}`)
}

// deliver posts the body to the target, later.
func (f *faulty) deliver(e envelope) {
	target, body := string(e.Target), append([]byte(nil), e.Body...)
	m, _ := readMark(body)
	times := 1
	switch int(m.Sequence) {
	case f.drop:
		times = 0
	case f.repeat:
		times = 2
	}
	f.slots <- struct{}{}
	f.sending.Go(func() {
		defer func() { <-f.slots }()
		if f.arrivalDelay > 0 {
			<-time.After(f.arrivalDelay)
		}
		for range times {
			if err := f.post(target, body); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}
	})
}

func (f *faulty) post(target string, body []byte) error {
	request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
	defer fasthttp.ReleaseRequest(request)
	defer fasthttp.ReleaseResponse(response)
	request.SetRequestURI(target)
	request.Header.SetMethod(http.MethodPost)
	request.SetBody(body)
	if err := f.client.Do(request, response); err != nil {
		return err
	}
	if response.StatusCode() != http.StatusOK {
		return errors.New("the receiver answered " + http.StatusText(response.StatusCode()))
	}
	return nil
}
