package bench

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/harepost/harepost/bench/report"
)

// A system is what a round measures. Those that are processes are started anew
// for every round.
type system struct {
	name string   // as in a report
	url  string   // of its API; empty for the direct POST
	keys []string // of its accounts
	pid  int      // 0: no process of ours
	more []int    // processes beside that one

	// profile writes a CPU profile of the next d to path; nil: it cannot.
	profile func(ctx context.Context, path string, d time.Duration) error
	stop    func() error
	kill    func() error // SIGKILL; nil: it cannot
}

func (s *system) usage() (usage, error) {
	var sum usage
	for _, pid := range s.pids() {
		u, err := readUsage(pid)
		if err != nil {
			return usage{}, err
		}
		sum.CPU += u.CPU
		sum.RSSBytes += u.RSSBytes
		sum.PeakRSSBytes += u.PeakRSSBytes
	}
	return sum, nil
}

// pids are all processes of the system that are ours.
func (s *system) pids() []int {
	if s.pid == 0 {
		return nil
	}
	return append([]int{s.pid}, s.more...)
}

// settle waits until the system's processes are idle, at most limit for each.
func (s *system) settle(ctx context.Context, limit time.Duration) error {
	for _, pid := range s.pids() {
		if err := settle(ctx, pid, limit); err != nil {
			return err
		}
	}
	return nil
}

// metrics is the system's metrics page. A server that somebody else runs may
// keep it to itself.
func (s *system) metrics(ctx context.Context) (page, error) {
	if s.url == "" || s.name == report.Forwarder {
		return nil, nil
	}
	p, err := scrape(ctx, s.url)
	if err != nil && s.name == report.Server {
		return nil, nil
	}
	return p, err
}

// startSystem starts the system that is wanted; dir is its own.
func startSystem(ctx context.Context, o Options, want stageOptions, dir string) (*system, error) {
	switch want.system {
	case report.Direct:
		return &system{name: report.Direct, stop: func() error { return nil }}, nil
	case report.Server:
		return &system{name: report.Server, url: strings.TrimRight(o.URL, "/"), keys: o.Keys, stop: func() error { return nil }}, nil
	case report.Forwarder:
		return startForwarder(ctx, o, want.workers)
	case report.Cluster:
		return startCluster(ctx, o, max(want.accounts, 1), dir)
	default:
		return startEngine(ctx, o, max(want.accounts, 1), dir)
	}
}

func startForwarder(ctx context.Context, o Options, connections int) (*system, error) {
	workers := cmp.Or(o.ForwarderWorkers, connections)
	p, err := startPart(ctx, o.Child, roleForwarder, ForwarderOptions{Workers: workers, QueueRequests: o.QueueRequests})
	if err != nil {
		return nil, err
	}
	var ready forwarderReady
	if err := p.hear("start", &ready); err != nil {
		return nil, errors.Join(err, p.close())
	}
	return &system{
		name: report.Forwarder,
		url:  "http://" + ready.Addr,
		pid:  p.pid(),
		profile: func(_ context.Context, path string, d time.Duration) error {
			path, err := filepath.Abs(path)
			if err != nil {
				return err
			}
			return p.ask(request{Do: doProfile, Path: path, Duration: d}, new(forwarderStatus))
		},
		stop: p.close,
	}, nil
}

// engineWait bounds how long the engine may take until it is ready.
const engineWait = 30 * time.Second

// startEngine starts the engine on a new data directory and makes accounts.
func startEngine(ctx context.Context, o Options, accounts int, dir string) (*system, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	command := append(append([]string{}, o.Engine...),
		"serve", "--dev", "--data-dir", filepath.Join(dir, "data"), "--listen", addr)
	pprofAddr := ""
	if o.ProfileDir != "" {
		if pprofAddr, err = freeAddr(); err != nil {
			return nil, err
		}
		command = append(command, "--pprof", pprofAddr)
	}
	p := newProcess(ctx, report.Engine, append(command, o.EngineFlags...))
	if err := p.start(); err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }() // ends with the process; stop reads it
	s := &system{
		name: report.Engine,
		url:  "http://" + addr,
		pid:  p.pid(),
		profile: func(ctx context.Context, path string, d time.Duration) error {
			return fetchProfile(ctx, pprofAddr, path, d)
		},
		stop: func() error { return stopEngine(p, ended) },
		kill: func() error { return killEngine(p, ended) },
	}
	if err := waitReady(ctx, addr, ended); err != nil {
		return nil, errors.Join(p.explain("start", err), s.stop())
	}
	for range accounts {
		key, err := createAccount(ctx, addr)
		if err != nil {
			return nil, errors.Join(p.explain("create an account", err), s.stop())
		}
		s.keys = append(s.keys, key)
	}
	return s, nil
}

// freeAddr returns an address of 127.0.0.1 that nobody listens on, below those that
// the kernel gives to whoever asks for any. No two calls return the same one. Another
// process may take it first; then the engine does not start, and says so.
func freeAddr() (string, error) {
	for tries := 0; ; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 30_000+portsTried.Add(1)%2_700))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		if tries == 100 {
			return "", fmt.Errorf("bench: find a free port: %w", err)
		}
	}
}

// portsTried begins somewhere else in every process, for those that run at the same
// time.
var portsTried = func() *atomic.Uint32 {
	p := new(atomic.Uint32)
	p.Store(rand.Uint32())
	return p
}()

// stopEngine asks the engine to end. It must, in time and with success: a drain
// that fails is a finding.
func stopEngine(p *process, ended chan error) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return p.explain("stop", err)
	}
	timeout := time.NewTimer(stopWait)
	defer timeout.Stop()
	select {
	case err := <-ended:
		if err != nil {
			return p.explain("stop", err)
		}
		return nil
	case <-timeout.C:
		err := p.cmd.Process.Kill()
		<-ended
		return p.explain("stop", errors.Join(fmt.Errorf("not ended %s after SIGTERM", stopWait), err))
	}
}

// killEngine gives the engine no time for anything.
func killEngine(p *process, ended chan error) error {
	if err := p.cmd.Process.Kill(); err != nil {
		return p.explain("kill", err)
	}
	<-ended // its status is that it was killed
	return nil
}

// waitReady polls /readyz until it says 200, the process ends or time is up.
func waitReady(ctx context.Context, addr string, ended chan error) error {
	ctx, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	last := errors.New("not asked yet")
	for {
		select {
		case <-ticker.C:
		case err := <-ended:
			ended <- err // for stop
			return errors.Join(errors.New("it ended"), err)
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", last)
		}
		if _, last = call(ctx, http.MethodGet, "http://"+addr+"/readyz", nil, http.StatusOK); last == nil {
			return nil
		}
	}
}

func createAccount(ctx context.Context, addr string) (key string, err error) {
	answer, err := call(ctx, http.MethodPost, "http://"+addr+"/v1/accounts", []byte(`{"name":"bench"}`), http.StatusCreated)
	if err != nil {
		return "", err
	}
	var account struct {
		APIKey string `json:"api_key"`
	}
	if err := json.Unmarshal(answer, &account); err != nil {
		return "", err
	}
	if account.APIKey == "" {
		return "", errors.New("the answer has no api_key")
	}
	return account.APIKey, nil
}

// fetchProfile writes the CPU profile of a pprof listener to path.
func fetchProfile(ctx context.Context, addr, path string, d time.Duration) error {
	url := fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, max(1, int(d.Seconds())))
	profile, err := call(ctx, http.MethodGet, url, nil, http.StatusOK)
	if err != nil {
		return fmt.Errorf("bench: profile the engine: %w", err)
	}
	if err := os.WriteFile(path, profile, 0o644); err != nil {
		return fmt.Errorf("bench: profile the engine: %w", err)
	}
	return nil
}

// control is the client of the few calls beside the load. It keeps no
// connection: one left open would make a server wait when it is stopped.
var control = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}

// call makes one request and returns the answer of the wanted status.
func call(ctx context.Context, method, url string, body []byte, want int) ([]byte, error) {
	return callAs(ctx, "", method, url, body, want)
}

// callAs is call with a key or the operator's token.
func callAs(ctx context.Context, key, method, url string, body []byte, want int) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	if key != "" {
		r.Header.Set("Authorization", "Bearer "+key)
	}
	answer, err := control.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	const answerLimit = 64 << 20 // a profile may be some MiB
	text, err := io.ReadAll(io.LimitReader(answer.Body, answerLimit))
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != want {
		return nil, fmt.Errorf("%s %s: %s: %.200s", method, url, answer.Status, text)
	}
	return text, nil
}
