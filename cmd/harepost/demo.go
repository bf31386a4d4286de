package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/harepost/harepost/client"
	"github.com/harepost/harepost/engine"
)

// demoPatience bounds the wait for any one delivery. With the delays that the
// demo asks for, the slowest ends in well under a second.
const demoPatience = 15 * time.Second

type demoCmd struct {
	Once    bool `name:"once" help:"End when everything was shown, instead of staying up to be tried."`
	Cluster bool `name:"cluster" help:"Show three nodes instead, whose leader is killed while sends are under way."`
}

// Help is shown by kong under the usage line.
func (c *demoCmd) Help() string {
	return `Starts the server that "harepost serve --dev" starts, on a free loopback port and in a temporary directory that is removed at the end, and a receiver beside it. What is printed is read back from the API. Exit status 1 when anything is not as it should be.`
}

// Run shows everything, and removes it again.
func (c *demoCmd) Run(sh *shell) (err error) {
	if c.Cluster {
		return c.runCluster(sh)
	}
	dir, err := os.MkdirTemp("", "harepost-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()

	s, err := openStage(sh, dir)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	err = s.play()
	if err == nil && !c.Once {
		err = s.stayUp()
	}
	if err = errors.Join(err, s.close()); err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// A stage is what the demo plays on: a server in the form serve runs, and a
// receiver, each on a real socket.
type stage struct {
	sh      *shell
	dir     string
	program *program
	target  *demoTarget
	account client.NewAccount
	api     *client.Client // acting for account

	cancel context.CancelFunc // drains the server
	ran    chan error         // how program.run ended
	began  time.Time
}

// openStage starts both and creates the account, over HTTP like any client.
func openStage(sh *shell, dir string) (*stage, error) {
	began := time.Now()
	cfg, err := demoConfig(sh, dir)
	if err != nil {
		return nil, err
	}
	target, err := openDemoTarget()
	if err != nil {
		return nil, err
	}
	p, err := openProgram(sh.ctx, cfg)
	if err != nil {
		target.close()
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(sh.ctx))
	s := &stage{sh: sh, dir: dir, program: p, target: target, cancel: cancel, ran: make(chan error, 1), began: began}
	go func() { s.ran <- p.run(ctx) }()
	if err := s.signUp(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// demoConfig is what `harepost serve --dev` would run with, untouched by the
// environment.
func demoConfig(sh *shell, dir string) (config, error) {
	serve, err := parseServe("--dev", "--listen", "127.0.0.1:0", "--data-dir", filepath.Join(dir, "data"), "--log-level", "error")
	if err != nil {
		return config{}, err
	}
	return serve.config(sh.err)
}

func (s *stage) signUp() error {
	open, err := client.New(s.program.url(), "", client.Options{Timeout: demoPatience})
	if err != nil {
		return err
	}
	if s.account, err = open.CreateAccount(s.sh.ctx, "demo"); err != nil {
		return fmt.Errorf("create an account: %w", err)
	}
	s.target.trust(s.account.SigningSecret)
	s.api, err = client.New(s.program.url(), s.account.APIKey, client.Options{Timeout: demoPatience})
	return err
}

// close drains the server and returns what went wrong with it. It is called
// once.
func (s *stage) close() error {
	s.cancel()
	err := <-s.ran
	s.program.close()
	s.target.close()
	return err
}

// A demoTarget is the receiver of the demo: each path behaves in its own way.
type demoTarget struct {
	url      string
	server   *http.Server
	receiver *receiver
	seen     chan *received // bounded; the play takes every request out
	done     chan struct{}
}

// The paths of the demo's receiver.
const (
	pathOrders   = "/orders"   // 200
	pathFlaky    = "/flaky"    // 503 twice, then 200
	pathRefusing = "/refusing" // 422
	pathBroken   = "/broken"   // 500, always
)

func openDemoTarget() (*demoTarget, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	t := &demoTarget{url: "http://" + ln.Addr().String(), seen: make(chan *received, 64), done: make(chan struct{})}
	t.receiver = &receiver{tolerance: time.Minute, answer: demoAnswer, got: t.keep}
	t.server = receiverServer(t.receiver, 0)
	go func() {
		defer close(t.done)
		t.server.Serve(ln) // ends with ErrServerClosed by close
	}()
	return t, nil
}

// keep drops what nobody takes: then the user is trying things out by hand.
func (t *demoTarget) keep(r *received) {
	select {
	case t.seen <- r:
	default:
	}
}

// trust sets the secret that signatures are judged with, before anything is
// sent.
func (t *demoTarget) trust(secret string) { t.receiver.secrets = []string{secret} }

func (t *demoTarget) close() {
	t.server.Close()
	<-t.done
}

func demoAnswer(r *received) answer {
	switch r.URI {
	case pathFlaky:
		if r.Attempt <= 2 {
			return answer{Status: http.StatusServiceUnavailable}
		}
	case pathRefusing:
		return answer{Status: http.StatusUnprocessableEntity}
	case pathBroken:
		return answer{Status: http.StatusInternalServerError}
	}
	return answer{Status: http.StatusOK}
}

// A scene sends one request and says how it has to end.
type scene struct {
	title    string
	send     client.Send
	status   engine.Status
	attempts int
	why      string // in words
}

// scenes are played in this order. Delays are short so that nobody waits.
func (s *stage) scenes() []scene {
	policy := &client.Policy{MaxAttempts: 3, BaseDelayMS: 200, Jitter: "none"}
	body := map[string]any{"order": "ord_123", "event": "paid"}
	send := func(path string) client.Send {
		return client.Send{Target: s.target.url + path, Body: body, Sign: true, Delivery: policy}
	}
	signed := send(pathOrders)
	signed.IdempotencyKey = "ord_123-paid"
	return []scene{
		{"A signed webhook", signed, engine.StatusDelivered, 1, "at the first attempt"},
		{"A receiver that fails twice", send(pathFlaky), engine.StatusDelivered, 3, "at the third attempt, after waiting 200 ms and 400 ms"},
		{"A receiver that refuses", send(pathRefusing), engine.StatusRejected, 1, "a 4xx is final and not tried again"},
		{"A receiver that never recovers", send(pathBroken), engine.StatusDeadLetter, 3, "its 3 attempts are used up; payload and history are kept"},
	}
}

// play runs all scenes and shows the dead letters.
func (s *stage) play() error {
	out, p := s.sh.out, painterFor(s.sh.out)
	fmt.Fprintf(out, "\n%s   a server in %s, and a receiver; everything below comes from its API\n\n", p.bold("harepost demo"), s.dir)
	fmt.Fprintf(out, "  %s  %s   %s\n", p.dim("server  "), s.program.url(), p.dim("account "+s.account.AccountID))
	fmt.Fprintf(out, "  %s  %s\n", p.dim("receiver"), s.target.url)
	for i, sc := range s.scenes() {
		if err := s.playScene(i+1, sc); err != nil {
			return fmt.Errorf("%s: %w", sc.title, err)
		}
	}
	if err := s.showDeadLetters(); err != nil {
		return fmt.Errorf("dead letters: %w", err)
	}
	fmt.Fprintf(out, "\n%s in %s\n\n", p.green("Everything was as it should be,"), shortDuration(time.Since(s.began)))
	return nil
}

func (s *stage) playScene(number int, sc scene) error {
	out, p := s.sh.out, painterFor(s.sh.out)
	fmt.Fprintf(out, "\n%s\n", p.bold(fmt.Sprintf("%d  %s", number, sc.title)))
	asked := time.Now()
	receipt, err := s.api.Send(s.sh.ctx, sc.send)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "   POST /v1/send   202 in %s, synced   %s\n", shortDuration(time.Since(asked)), receipt.QueueID)
	wait := waiter{WaitTimeout: demoPatience}
	d, err := wait.await(s.sh.ctx, s.api, client.Delivery{QueueID: receipt.QueueID, Status: receipt.Status})
	if err != nil {
		return err
	}
	requests, err := s.target.take(d)
	if err != nil {
		return err
	}
	s.printScene(d, requests, asked)
	if d.Status != sc.status.String() || len(d.Attempts) != sc.attempts {
		return fmt.Errorf("%s is %s after %d attempts, not %s after %d", d.QueueID, d.Status, len(d.Attempts), sc.status, sc.attempts)
	}
	if number == 1 {
		fmt.Fprintf(out, "   receiver got  %s\n   verified      %s\n", requests[0].Body, requests[0].Signatures.text(p))
	}
	fmt.Fprintf(out, "   %s  %s\n", p.status(d.Status), p.dim(sc.why))
	return nil
}

// take takes from the receiver what it got for d: one request for each
// attempt on record, in order, each with both signatures right.
func (t *demoTarget) take(d client.Delivery) ([]*received, error) {
	var requests []*received
	for i := range d.Attempts {
		var r *received
		select {
		case r = <-t.seen:
		default:
			return nil, fmt.Errorf("the receiver saw %d requests, the record has %d attempts", i, len(d.Attempts))
		}
		if r.DeliveryID != d.QueueID || r.Attempt != d.Attempts[i].Attempt {
			return nil, fmt.Errorf("the receiver got attempt %d of %q where attempt %d of %s was due", r.Attempt, r.DeliveryID, d.Attempts[i].Attempt, d.QueueID)
		}
		if !r.Signatures.bothValid() {
			return nil, fmt.Errorf("attempt %d: signatures: %s", r.Attempt, r.Signatures.text(false))
		}
		requests = append(requests, r)
	}
	return requests, nil
}

// printScene shows the attempts as the API has them, each with the moment at
// which it reached the receiver.
func (s *stage) printScene(d client.Delivery, requests []*received, asked time.Time) {
	p := painterFor(s.sh.out)
	t := newTable("ATTEMPT", "REACHED AFTER", "OUTCOME", "STATUS", "ERROR")
	for i, a := range d.Attempts {
		t.add(plain(fmt.Sprint(a.Attempt)), plain(shortDuration(requests[i].At.Sub(asked))), cell{a.Outcome, p.status},
			plain(statusText(a.HTTPStatus)), cell{errorText(a.Error), p.dim})
	}
	t.write(s.sh.out, p, "   ")
}

// showDeadLetters lists the two statuses that end undelivered.
func (s *stage) showDeadLetters() error {
	out, p := s.sh.out, painterFor(s.sh.out)
	fmt.Fprintf(out, "\n%s   GET /v1/deliveries?status=dead_letter and =rejected\n", p.bold("Dead letters"))
	var found []client.Summary
	for _, status := range []engine.Status{engine.StatusDeadLetter, engine.StatusRejected} {
		page, err := s.api.DeliveriesPage(s.sh.ctx, client.Filter{Status: status.String()})
		if err != nil {
			return err
		}
		if len(page.Data) != 1 || page.Data[0].Status != status.String() {
			return fmt.Errorf("status=%s lists %d deliveries instead of 1", status, len(page.Data))
		}
		found = append(found, page.Data...)
	}
	printPage(out, p, "   ", found)
	return nil
}

// stayUp shows how to go on and waits for the user to end it.
func (s *stage) stayUp() error {
	p := painterFor(s.sh.out)
	fmt.Fprintf(s.sh.out, `%s

  curl -sS %s/v1/deliveries -H 'Authorization: Bearer %s'
  curl -sS %s/v1/send -H 'Authorization: Bearer %s' -H 'Content-Type: application/json' \
    -d '{"target":"%s%s","body":{"hello":"world"},"sign":true}'

  %s

`, p.bold("Still up. Go on with:"), s.program.url(), s.account.APIKey, s.program.url(), s.account.APIKey,
		s.target.url, pathFlaky, p.dim("receiver paths: "+pathOrders+" "+pathFlaky+" "+pathRefusing+" "+pathBroken+".  Ctrl-C ends and removes everything."))
	select {
	case <-s.sh.ctx.Done():
		return nil
	case err := <-s.ran:
		s.ran <- err // for close
		return err
	}
}
