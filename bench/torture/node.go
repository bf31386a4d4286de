package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A node is a server process on its own network and disk, that is ended and started
// again. The conductor alone calls its methods.
type node struct {
	id     string
	index  int
	net    network
	disk   disk
	binary string
	flags  []string // of every start
	url    string   // of its API

	cmd    *exec.Cmd
	ended  chan struct{} // closed when the process is gone; nil before the first start
	paused bool
	lives  atomic.Int64
	logs   keptLog
}

func (n *node) dataDir() string { return filepath.Join(n.disk.dir(), "data") }

// start begins another life. It does not wait until the node serves.
func (n *node) start(flags ...string) error {
	cmd := exec.Command(n.binary, append(append([]string{"serve"}, n.flags...), flags...)...)
	cmd.Env = environment()
	cmd.Stdout, cmd.Stderr = &n.logs, &n.logs
	fmt.Fprintf(&n.logs, "--- life %d of %s, %s\n", n.lives.Add(1), n.id, time.Now().UTC().Format(time.RFC3339Nano))
	if err := n.net.start(n.index, cmd); err != nil {
		return fmt.Errorf("torture: start %s: %w", n.id, err)
	}
	n.cmd, n.ended, n.paused = cmd, make(chan struct{}), false
	go func(ended chan<- struct{}) {
		cmd.Wait() // its error is the exit status, see status
		close(ended)
	}(n.ended)
	return nil
}

// environment is ours without the variables that the program reads.
func environment() (env []string) {
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, "HAREPOST_") {
			env = append(env, e)
		}
	}
	return env
}

// gone reports whether the process has ended.
func (n *node) gone() bool {
	select {
	case <-n.ended:
		return true
	default:
		return n.ended == nil
	}
}

// how is how the process ended, in words.
func (n *node) how() string {
	if !n.gone() {
		return "it runs"
	}
	return n.cmd.ProcessState.String()
}

// kill ends a life without warning.
func (n *node) kill() {
	if n.ended == nil {
		return
	}
	n.cmd.Process.Kill()
	<-n.ended
}

// stop ends a life in order, and says what was wrong with that.
func (n *node) stop(ctx context.Context) error {
	if n.gone() {
		return fmt.Errorf("%s had ended: %s", n.id, n.how())
	}
	n.cmd.Process.Signal(syscall.SIGTERM)
	if err := n.wait(ctx); err != nil {
		n.kill()
		return err
	}
	if status := n.cmd.ProcessState.ExitCode(); status != 0 {
		return fmt.Errorf("%s ended with status %d on SIGTERM", n.id, status)
	}
	return nil
}

// wait waits until the process has ended.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-n.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s does not end: %w", n.id, context.Cause(ctx))
	}
}

func (n *node) pause() error {
	n.paused = true
	return n.cmd.Process.Signal(syscall.SIGSTOP)
}

func (n *node) wake() error {
	n.paused = false
	err := n.cmd.Process.Signal(syscall.SIGCONT)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// keptLogBytes is how much is kept of what a node has logged last.
const keptLogBytes = 256 << 10

// A keptLog is the end of what was written to it; all of it is in the file, if
// there is one.
type keptLog struct {
	file *os.File

	mu  sync.Mutex
	buf []byte
}

func (k *keptLog) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.file != nil {
		if _, err := k.file.Write(p); err != nil {
			return 0, err
		}
	}
	k.buf = append(k.buf, p...)
	if over := len(k.buf) - keptLogBytes; over > keptLogBytes {
		k.buf = append(k.buf[:0], k.buf[over:]...)
	}
	return len(p), nil
}

// since is what was written after a text, if that is kept.
func (k *keptLog) since(text string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, after, _ := bytes.Cut(k.buf, []byte(text))
	return string(after)
}

// tail is the last lines.
func (k *keptLog) tail(lines int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := len(k.buf)
	for range lines + 1 {
		if at = bytes.LastIndexByte(k.buf[:max(at, 0)], '\n'); at < 0 {
			break
		}
	}
	return string(k.buf[at+1:])
}

// waitFor waits for a moment, which is part of the experiment.
func waitFor(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
