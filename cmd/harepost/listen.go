package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

type listenCmd struct {
	Addr       string        `name:"addr" default:"127.0.0.1:9000" help:"Where to listen. Port 0 takes a free one."`
	Secret     []string      `name:"secret" sep:"," placeholder:"whsec_..." help:"Signing secret to verify with; repeat it while a rotation lasts. Without one, signatures are shown but not judged."`
	Tolerance  time.Duration `name:"tolerance" default:"5m" help:"How old a signature may be."`
	Status     int           `name:"status" default:"200" help:"Status to answer with, 200 to 599."`
	FailFirst  int           `name:"fail-first" default:"0" help:"Fail the first N attempts of each delivery."`
	Fail       float64       `name:"fail" aliases:"fail-rate" default:"0" help:"Fail this share of all other requests, 0 to 1."`
	FailStatus int           `name:"fail-status" default:"503" help:"Status of a failure made on purpose."`
	RetryAfter wholeSeconds  `name:"retry-after" default:"0s" help:"Retry-After of answers that are not 2xx, in whole seconds, as 5 or 5s. 0: none."`
	Seed       uint64        `name:"seed" default:"0" help:"Seed of --fail. 0: a new one, which is printed."`
	Forward    string        `name:"forward" placeholder:"URL" help:"Pass requests on to a local program and answer what it answers. With a path, they all go to it; without one, each to its own."`
	Delay      time.Duration `name:"delay" default:"0s" help:"Wait before answering."`
	Count      int           `name:"count" default:"0" help:"End after N requests. 0: only at Ctrl-C."`
	BodyBytes  int           `name:"body-bytes" default:"2048" help:"How much of a body is printed."`
	JSON       bool          `name:"json" env:"HAREPOST_JSON" help:"Print one JSON object for each request."`
}

// Help is shown by kong under the usage line.
func (c *listenCmd) Help() string {
	return `For instance: harepost listen --fail 0.3 --retry-after 5
              harepost listen --secret whsec_... --forward http://127.0.0.1:3000/webhook

Failures that are made on purpose are not forwarded.

Exits 1 when --secret was given and a request was not rightly signed by it, so that "harepost listen --count 1 --secret ..." is a test.`
}

// Validate refuses contradictions, at parse time.
func (c *listenCmd) Validate() error {
	switch {
	case c.Status < 200 || c.Status > 599:
		return fmt.Errorf("--status %d is not from 200 to 599", c.Status)
	case c.FailStatus < 200 || c.FailStatus > 599:
		return fmt.Errorf("--fail-status %d is not from 200 to 599", c.FailStatus)
	case c.FailStatus/100 == 2 && c.fails():
		return fmt.Errorf("--fail-status %d is a success: --fail-first and --fail would do nothing", c.FailStatus)
	case !(c.Fail >= 0 && c.Fail <= 1):
		return fmt.Errorf("--fail %v is not from 0 to 1", c.Fail)
	case c.FailFirst < 0, c.Count < 0, c.BodyBytes < 0, c.Delay < 0, c.Tolerance <= 0:
		return errors.New("numbers and durations must not be negative, and --tolerance must be above 0")
	}
	if err := c.contradiction(); err != nil {
		return err
	}
	for _, s := range c.Secret {
		if !strings.HasPrefix(s, "whsec_") {
			return errors.New("--secret does not begin with whsec_: is it an API key?")
		}
	}
	return nil
}

// fails tells whether some requests fail on purpose.
func (c *listenCmd) fails() bool { return c.FailFirst > 0 || c.Fail > 0 }

// contradiction refuses flags that would do nothing beside the others.
func (c *listenCmd) contradiction() error {
	switch {
	case c.Seed != 0 && c.Fail == 0:
		return errors.New("--seed is for --fail, which is not given")
	case c.FailStatus != 503 && !c.fails():
		return errors.New("--fail-status is for --fail and --fail-first: to answer every request so, give --status")
	case c.RetryAfter > 0 && c.Status/100 == 2 && !c.fails():
		return errors.New("--retry-after is for answers that are not 2xx: give --status, --fail or --fail-first too")
	case c.Forward != "" && c.Status != 200:
		return errors.New("--forward answers what the program answers: --status would do nothing")
	}
	if c.Forward == "" {
		return nil
	}
	_, err := parseForward(c.Forward)
	return err
}

// Run receives until --count is reached or the user ends it.
func (c *listenCmd) Run(sh *shell) error {
	ln, err := listen(c.Addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	ctx, done := context.WithCancel(sh.ctx)
	defer done()
	p := painterFor(sh.out)
	show := &listenPrinter{cmd: c, out: sh.out, paint: p, done: done}
	r := &receiver{secrets: c.Secret, tolerance: c.Tolerance, answer: c.answerer(sh.err), got: show.print}
	if c.Forward != "" {
		f, err := newForwarder(c.Forward)
		if err == nil {
			err = f.refuseLoop(sh.ctx, ln.Addr())
		}
		if err != nil {
			ln.Close()
			return exitWith(exitUsage, err)
		}
		defer f.close()
		r.forward = f.forward
	}
	fmt.Fprintf(sh.err, "Listening on http://%s, end with Ctrl-C.\n", ln.Addr())

	srv := receiverServer(r, c.Delay)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err = <-served:
		return fmt.Errorf("listen: %w", err)
	case <-ctx.Done():
	}
	closing, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if srv.Shutdown(closing) != nil {
		srv.Close()
	}
	<-served
	switch n := show.wrong(); n {
	case 0:
		return nil
	case 1:
		return exitWith(exitFailed, errors.New("listen: 1 request was not rightly signed"))
	default:
		return exitWith(exitFailed, fmt.Errorf("listen: %d requests were not rightly signed", n))
	}
}

// answerer decides each answer by the flags.
func (c *listenCmd) answerer(notes io.Writer) func(*received) answer {
	seed := c.Seed
	if seed == 0 {
		seed = rand.Uint64()
	}
	if c.Fail > 0 {
		fmt.Fprintf(notes, "Failing %.0f %% of the requests, --seed %d.\n", c.Fail*100, seed)
	}
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func(r *received) answer {
		mu.Lock()
		fail := random.Float64() < c.Fail
		mu.Unlock()
		if fail || r.Attempt <= c.FailFirst {
			return answer{Delay: c.Delay, Status: c.FailStatus, RetryAfter: time.Duration(c.RetryAfter)}
		}
		a := answer{Delay: c.Delay, Status: c.Status, Forward: c.Forward != ""}
		if a.Status/100 != 2 {
			a.RetryAfter = time.Duration(c.RetryAfter)
		}
		return a
	}
}

// A listenPrinter writes requests one after the other and counts them.
type listenPrinter struct {
	cmd   *listenCmd
	out   io.Writer
	paint painter
	done  func() // called when --count is reached

	mu       sync.Mutex // held while writing, so that two requests do not mix
	count    int
	unsigned int
}

func (l *listenPrinter) wrong() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsigned
}

func (l *listenPrinter) print(r *received) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cmd.Count > 0 && l.count == l.cmd.Count {
		return // came in while the last one was being answered
	}
	l.count++
	if len(l.cmd.Secret) > 0 && !r.Signatures.bothValid() {
		l.unsigned++
	}
	if l.cmd.JSON {
		printJSONLine(l.out, receivedJSON(r))
	} else {
		l.printText(r)
	}
	if l.count == l.cmd.Count {
		l.done()
	}
}

func (l *listenPrinter) printText(r *received) {
	p := l.paint
	status := fmt.Sprintf("%d %s", r.Status, http.StatusText(r.Status))
	if r.Status/100 == 2 {
		status = p.green(status)
	} else {
		status = p.red(status)
	}
	if r.Gone {
		status += p.red(", but the sender had gone")
	}
	fmt.Fprintf(l.out, "%s  %s  answered %s\n", p.dim(r.At.Format("15:04:05.000")), p.bold(r.Method+" "+printable(r.URI)), status)
	if r.ForwardError != nil {
		fmt.Fprintf(l.out, "  forwarding  %s\n", p.red(printable(r.ForwardError.Error())))
	}
	if r.DeliveryID != "" {
		fmt.Fprintf(l.out, "  delivery    %s, attempt %d\n", printable(r.DeliveryID), r.Attempt)
	}
	fmt.Fprintf(l.out, "  signatures  %s\n", r.Signatures.text(p))
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range r.Header[name] {
			fmt.Fprintf(l.out, "  %s %s\n", p.dim(name+":"), printable(v))
		}
	}
	fmt.Fprintf(l.out, "%s\n\n", bodyText(p, "  ", r.Body, l.cmd.BodyBytes))
}

// receivedJSON is one line of listen --json.
func receivedJSON(r *received) any {
	return struct {
		At         time.Time   `json:"at"`
		Method     string      `json:"method"`
		URI        string      `json:"uri"`
		Header     http.Header `json:"headers"`
		Body       []byte      `json:"body_base64"`
		DeliveryID string      `json:"queue_id,omitempty"`
		Attempt    int         `json:"attempt"`
		Harepost   string      `json:"harepost_signature"`
		Standard   string      `json:"standard_webhooks_signature"`
		Status     int         `json:"answered_status"`
		Gone       bool        `json:"sender_gone,omitempty"`
		Forward    string      `json:"forward_error,omitempty"`
	}{
		r.At.UTC(), r.Method, r.URI, r.Header, r.Body, r.DeliveryID, r.Attempt,
		r.Signatures.Harepost.String(), r.Signatures.Standard.String(), r.Status, r.Gone, forwardErrorText(r.ForwardError),
	}
}
