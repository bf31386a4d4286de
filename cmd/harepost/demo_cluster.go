package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/harepost/harepost/client"
)

// What the demo of a cluster plays with.
const (
	demoNodes       = 3
	demoRate        = 400             // sends a second
	demoSenders     = 16              // at once
	demoBefore      = 3 * time.Second // with all nodes
	demoAfter       = 3 * time.Second // after another node has begun to accept
	demoClusterWait = 30 * time.Second
)

// runCluster shows a cluster of three processes whose leader is killed.
func (c *demoCmd) runCluster(sh *shell) (err error) {
	dir, err := os.MkdirTemp("", "harepost-demo-")
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	s, err := openClusterStage(sh, dir)
	if err == nil {
		err = s.play()
	}
	if err == nil && !c.Once {
		err = s.stayUp()
	}
	s.close()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	return nil
}

// A clusterStage is three nodes, a receiver, and senders that do not give up.
type clusterStage struct {
	sh     *shell
	p      painter
	nodes  []*demoNode
	target *http.Server
	at     string        // URL of target
	served chan struct{} // closed when target is gone
	key    string        // of the account
	began  time.Time

	mu       sync.Mutex
	accepted map[string]bool // queue ids
	arrived  map[string]int  // how often, by queue id
	refused  int             // sends that were told to try again
	silent   int             // sends without an answer
	accepts  lull
	arrivals lull
}

// A lull finds the longest pause between events.
type lull struct {
	last    time.Time
	longest time.Duration
}

func (l *lull) event(now time.Time) {
	if !l.last.IsZero() {
		l.longest = max(l.longest, now.Sub(l.last))
	}
	l.last = now
}

// begin forgets the pauses so far.
func (l *lull) begin(now time.Time) { l.last, l.longest = now, 0 }

// openClusterStage starts everything. What it returns is to be closed, also with an
// error.
func openClusterStage(sh *shell, dir string) (*clusterStage, error) {
	s := &clusterStage{
		sh: sh, p: painterFor(sh.out), began: time.Now(), served: make(chan struct{}),
		accepted: map[string]bool{}, arrived: map[string]int{},
	}
	if err := s.openTarget(); err != nil {
		return s, err
	}
	free, err := freeAddresses(2 * demoNodes)
	if err != nil {
		return s, err
	}
	addresses, apis := free[:demoNodes], free[demoNodes:]
	for i, address := range addresses {
		s.nodes = append(s.nodes, &demoNode{
			id: fmt.Sprintf("n%d", i+1), dir: filepath.Join(dir, fmt.Sprintf("n%d", i+1)), address: address, join: strings.Join(addresses, ","), api: apis[i],
		})
	}
	// Each serves only when all are there.
	started := make(chan error, demoNodes)
	for _, n := range s.nodes {
		go func() { started <- n.start(sh.ctx) }()
	}
	for range s.nodes {
		err = errors.Join(err, <-started)
	}
	return s, err
}

// freeAddresses are loopback ports that nobody listens on at this moment, below those
// that the kernel gives to whoever asks for any: a node gets its own again when it is
// started again.
func freeAddresses(n int) ([]string, error) {
	var addresses []string
	for tries := 0; len(addresses) < n; tries++ {
		ln, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 20_000+rand.IntN(10_000)))
		if err != nil && tries < 100 {
			continue
		}
		if err != nil {
			return nil, err
		}
		defer ln.Close() // all at the end, so that no two are the same
		addresses = append(addresses, ln.Addr().String())
	}
	return addresses, nil
}

func (s *clusterStage) openTarget() error {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		close(s.served)
		return err
	}
	s.at = "http://" + ln.Addr().String()
	s.target = receiverServer(&receiver{
		answer: func(*received) answer { return answer{Status: http.StatusOK} },
		got:    s.arrive,
	}, 0)
	go func() {
		defer close(s.served)
		s.target.Serve(ln) // ends with ErrServerClosed by close
	}()
	return nil
}

func (s *clusterStage) arrive(r *received) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrived[r.DeliveryID]++
	s.arrivals.event(r.At)
}

// close ends everything, and waits.
func (s *clusterStage) close() {
	for _, n := range s.nodes {
		n.kill()
	}
	if s.target != nil {
		s.target.Close()
	}
	<-s.served
}

// play shows it all.
func (s *clusterStage) play() error {
	out, ctx := s.sh.out, s.sh.ctx
	fmt.Fprintf(out, "\n%s   three processes of this program, and a receiver\n\n", s.p.bold("harepost demo --cluster"))
	t := newTable("NODE", "PROCESS", "API", "CLUSTER PORT")
	for _, n := range s.nodes {
		t.add(plain(n.id), plain(fmt.Sprint(n.cmd.Process.Pid)), plain(n.url), plain(n.address))
	}
	t.write(out, s.p, "  ")
	if err := s.signUp(ctx); err != nil {
		return fmt.Errorf("create an account: %w", err)
	}
	leader, err := s.leader(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s   %s leads; %d sends a second go to all three in turn\n\n", s.p.bold("1  Everything runs"), s.p.bold(leader.id), demoRate)
	sending, stop := context.WithCancel(ctx)
	defer stop()
	var senders sync.WaitGroup
	senders.Go(func() { s.send(sending) })
	defer senders.Wait()
	defer stop()
	if err := s.watch(ctx, demoBefore); err != nil {
		return err
	}
	if err := s.loseLeader(ctx, leader); err != nil {
		return err
	}
	if err := s.comeBack(ctx, leader); err != nil {
		return err
	}
	stop()
	senders.Wait()
	return s.settle(ctx)
}

// loseLeader kills the node that leads, and watches the others go on.
func (s *clusterStage) loseLeader(ctx context.Context, leader *demoNode) error {
	fmt.Fprintf(s.sh.out, "\n%s   kill -9 %d, without a warning\n\n", s.p.bold("2  "+leader.id+" is killed"), leader.cmd.Process.Pid)
	s.mu.Lock()
	refused, silent := s.refused, s.silent
	s.accepts.begin(time.Now())
	s.arrivals.begin(time.Now())
	s.mu.Unlock()
	leader.kill()
	next, err := s.leader(ctx)
	if err != nil {
		return err
	}
	if err := s.watch(ctx, demoAfter); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	fmt.Fprintf(s.sh.out, "\n   %s leads now. Nothing was accepted for %s, nothing delivered for %s;\n   %d tries were told to try again, %d found nobody at %s or got no answer: each was repeated with its idempotency key\n",
		s.p.bold(next.id), s.p.bold(shortDuration(s.accepts.longest)), s.p.bold(shortDuration(s.arrivals.longest)), s.refused-refused, s.silent-silent, leader.id)
	return nil
}

// comeBack starts the node again that was killed.
func (s *clusterStage) comeBack(ctx context.Context, n *demoNode) error {
	fmt.Fprintf(s.sh.out, "\n%s   it gets what it has missed\n\n", s.p.bold("3  "+n.id+" is started again"))
	began := time.Now()
	if err := n.start(ctx); err != nil {
		return err
	}
	err := s.await(ctx, "the node has caught up", func() bool {
		st, err := n.status(ctx)
		return err == nil && st.LeaderID != nil && st.LagEntries == 0 && st.LastIndex > 0
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(s.sh.out, "   %s follows again, %s after its start\n", s.p.bold(n.id), shortDuration(time.Since(began)))
	return nil
}

// settle waits for everything that was accepted to arrive, and judges.
func (s *clusterStage) settle(ctx context.Context) error {
	missing := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		n := 0
		for id := range s.accepted {
			if s.arrived[id] == 0 {
				n++
			}
		}
		return n
	}
	err := s.await(ctx, "all has arrived", func() bool { return missing() == 0 })
	s.mu.Lock()
	defer s.mu.Unlock()
	twice := 0
	for id := range s.accepted {
		if s.arrived[id] > 1 {
			twice++
		}
	}
	fmt.Fprintf(s.sh.out, "\n%s   accepted %s, arrived %s, of these more than once %d\n", s.p.bold("4  Counted"),
		countText(int64(len(s.accepted))), countText(int64(len(s.accepted)-s.lostLocked())), twice)
	if err != nil {
		return fmt.Errorf("%d accepted sends have not arrived: %w", s.lostLocked(), err)
	}
	fmt.Fprintf(s.sh.out, "\n%s in %s\n\n", s.p.green("Everything that was accepted has arrived,"), shortDuration(time.Since(s.began)))
	return nil
}

func (s *clusterStage) lostLocked() int {
	n := 0
	for id := range s.accepted {
		if s.arrived[id] == 0 {
			n++
		}
	}
	return n
}

// await looks until a condition holds.
func (s *clusterStage) await(ctx context.Context, what string, holds func() bool) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	over := time.NewTimer(demoClusterWait)
	defer over.Stop()
	for !holds() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return errInterrupted
		case <-over.C:
			return fmt.Errorf("after %s it is not so that %s%s", demoClusterWait, what, s.complaints())
		}
	}
	return nil
}

// complaints are the last words of the nodes.
func (s *clusterStage) complaints() string {
	var b strings.Builder
	for _, n := range s.nodes {
		fmt.Fprintf(&b, "\n%s: %s", n.id, n.lastWords())
	}
	return b.String()
}

// leader is the node that leads, when there is one that knows so itself.
func (s *clusterStage) leader(ctx context.Context) (found *demoNode, err error) {
	err = s.await(ctx, "a node leads", func() bool {
		for _, n := range s.nodes {
			if !n.alive() {
				continue
			}
			if st, err := n.status(ctx); err == nil && st.Role == "leader" {
				found = n
				return true
			}
		}
		return false
	})
	return found, err
}

// watch shows how it goes, for so long.
func (s *clusterStage) watch(ctx context.Context, d time.Duration) error {
	every := time.NewTicker(time.Second)
	defer every.Stop()
	over := time.NewTimer(d + 100*time.Millisecond)
	defer over.Stop()
	for {
		select {
		case <-every.C:
			s.mu.Lock()
			fmt.Fprintf(s.sh.out, "   %s  accepted %6d   delivered %6d   to be repeated %d\n", s.p.dim(fmt.Sprintf("%5.1f s", time.Since(s.began).Seconds())),
				len(s.accepted), len(s.arrived), s.refused+s.silent)
			s.mu.Unlock()
		case <-over.C:
			return nil
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

func (s *clusterStage) signUp(ctx context.Context) error {
	return s.await(ctx, "an account can be made", func() bool {
		open, err := client.New(s.nodes[0].url, "", client.Options{Timeout: demoPatience})
		if err != nil {
			return false
		}
		defer open.CloseIdleConnections()
		made, err := open.CreateAccount(ctx, "demo")
		s.key = made.APIKey
		return err == nil
	})
}

// send sends at the demo's rate until ctx ends, and then returns when all that was
// begun has been accepted, or the demo is over.
func (s *clusterStage) send(ctx context.Context) {
	numbers := make(chan int) // from here to the senders
	var senders sync.WaitGroup
	for range demoSenders {
		senders.Go(func() {
			apis := s.clients()
			for n := range numbers {
				s.sendOne(apis, n)
			}
			for _, api := range apis {
				api.CloseIdleConnections()
			}
		})
	}
	defer senders.Wait()
	defer close(numbers)
	tick := time.NewTicker(time.Second / demoRate)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		select {
		case numbers <- n: // when all senders wait for an answer, none is begun
		case <-ctx.Done():
			return
		}
	}
}

// clients are one for each node.
func (s *clusterStage) clients() []*client.Client {
	var apis []*client.Client
	for _, n := range s.nodes {
		api, err := client.New(n.url, s.key, client.Options{Timeout: demoPatience})
		if err != nil {
			panic(fmt.Sprintf("harepost: the URL of a node of ours: %v", err))
		}
		apis = append(apis, api)
	}
	return apis
}

// demoPause is between two tries of a send.
const demoPause = 100 * time.Millisecond

// sendOne sends one request until a node has accepted it.
func (s *clusterStage) sendOne(apis []*client.Client, number int) {
	send := client.Send{
		Target: s.at + pathOrders, Body: map[string]int{"order": number}, IdempotencyKey: fmt.Sprintf("order-%d", number),
		Delivery: &client.Policy{BaseDelayMS: 100},
	}
	for try := 0; s.sh.ctx.Err() == nil; try++ {
		n := (number + try) % demoNodes
		receipt, err := apis[n].Send(s.sh.ctx, send)
		if err == nil {
			s.mu.Lock()
			s.accepted[receipt.QueueID] = true
			s.accepts.event(time.Now())
			s.mu.Unlock()
			return
		}
		s.mu.Lock()
		if _, answered := errors.AsType[*client.Error](err); answered {
			s.refused++
		} else {
			s.silent++
		}
		s.mu.Unlock()
		select {
		case <-time.After(demoPause):
		case <-s.sh.ctx.Done():
		}
	}
}

// stayUp shows how to go on and waits for the user to end it.
func (s *clusterStage) stayUp() error {
	fmt.Fprintf(s.sh.out, "%s\n\n", s.p.bold("Still up. Go on with:"))
	fmt.Fprintf(s.sh.out, "  HAREPOST_ADMIN_TOKEN=%s harepost cluster status --url %s\n", demoToken, s.nodes[0].url)
	fmt.Fprintf(s.sh.out, "  curl -sS %s/v1/send -H 'Authorization: Bearer %s' -d '{\"target\":\"%s%s\",\"body\":{\"hello\":\"world\"}}'\n", s.nodes[1].url, s.key, s.at, pathOrders)
	fmt.Fprintf(s.sh.out, "  kill -9 %d\n\n  %s\n\n", s.nodes[2].cmd.Process.Pid, s.p.dim("Ctrl-C ends and removes everything."))
	<-s.sh.ctx.Done()
	return nil
}

// demoToken is the admin token of the demo's nodes, which listen on loopback.
const demoToken = "admin-token-of-the-demo"

// A demoNode is a node in a process of its own.
type demoNode struct {
	id, dir, address, join, api string

	url   string // of its API, the same after a restart
	cmd   *exec.Cmd
	ended chan struct{} // closed when the process is gone; nil before the first start

	mu    sync.Mutex
	words []string // the last of its log, at most demoWords
}

const demoWords = 5

// start starts the process and returns when it serves.
func (n *demoNode) start(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	n.cmd = exec.Command(self, "serve", "--dev", "--node-id", n.id, "--cluster-addr", n.address, "--join", n.join,
		"--bootstrap-expect", fmt.Sprint(demoNodes), "--data-dir", n.dir, "--listen", n.api, "--log-format", "json")
	n.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "HAREPOST_") }), "HAREPOST_ADMIN_TOKEN="+demoToken)
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the demo, which ends them
	logs, err := n.cmd.StderrPipe()
	if err != nil {
		return err
	}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.id, err)
	}
	serving, ended := make(chan string, 1), make(chan struct{})
	n.ended = ended
	go func() {
		defer close(ended)
		n.read(logs, serving)
		n.cmd.Wait() // its status is of no interest: it was killed, or lastWords tells
	}()
	over := time.NewTimer(demoClusterWait)
	defer over.Stop()
	select {
	case n.url = <-serving:
		return nil
	case <-ended:
		return fmt.Errorf("%s ended: %s", n.id, n.lastWords())
	case <-ctx.Done():
		return errInterrupted
	case <-over.C:
		return fmt.Errorf("%s does not serve after %s: %s", n.id, demoClusterWait, n.lastWords())
	}
}

// read keeps the end of the log, and tells of the line that says that it serves.
func (n *demoNode) read(logs io.Reader, serving chan<- string) {
	lines := bufio.NewReader(logs)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var entry struct{ Msg, URL string }
			if json.Unmarshal(line, &entry) == nil && entry.Msg == "serving" {
				serving <- entry.URL
			}
			n.mu.Lock()
			if len(n.words) == demoWords {
				n.words = slices.Delete(n.words, 0, 1)
			}
			n.words = append(n.words, string(bytes.TrimSpace(line)))
			n.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (n *demoNode) lastWords() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.words, "\n    ")
}

func (n *demoNode) alive() bool {
	select {
	case <-n.ended:
		return false
	default:
		return true
	}
}

// kill ends the process as a power cut would, and waits until it is gone.
func (n *demoNode) kill() {
	if n.ended == nil {
		return
	}
	n.cmd.Process.Kill() // fails when it is gone
	<-n.ended
}

// status is what the node says of itself.
func (n *demoNode) status(ctx context.Context) (client.ClusterStatus, error) {
	api, err := client.New(n.url, "", client.Options{AdminToken: demoToken, Timeout: time.Second})
	if err != nil {
		return client.ClusterStatus{}, err
	}
	defer api.CloseIdleConnections()
	return api.Cluster(ctx)
}
