package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A process is a program that the harness started. The last of what it wrote to
// standard error explains its failure.
type process struct {
	name   string
	cmd    *exec.Cmd
	errors tail
}

// stopWait bounds how long a process may take to end when asked to.
const stopWait = 30 * time.Second

// newProcess prepares a process that ends with ctx: it is asked to by SIGTERM,
// and killed when it does not.
func newProcess(ctx context.Context, name string, command []string) *process {
	p := &process{name: name, cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	p.cmd.Stderr = &p.errors
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopWait
	return p
}

func (p *process) start() error {
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("bench: start the %s: %w", p.name, err)
	}
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// explain adds what the process wrote last to an error about it.
func (p *process) explain(doing string, err error) error {
	if text := p.errors.String(); text != "" {
		return fmt.Errorf("bench: %s: %s: %w; it wrote:\n%s", p.name, doing, err, text)
	}
	return fmt.Errorf("bench: %s: %s: %w", p.name, doing, err)
}

// A tail is a writer that keeps the last 4 KiB. Its zero value is ready.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, p...)
	if over := len(t.text) - tailBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// A part is a process that plays a role of the harness, see Child.
type part struct {
	*process
	asking sync.Mutex // those who ask take turns
	in     io.WriteCloser
	enc    *json.Encoder
	dec    *json.Decoder
}

// startPart starts the program of a role and gives it its options.
func startPart(ctx context.Context, child []string, role string, options any) (*part, error) {
	command := append(append([]string{}, child...), role)
	p := &part{process: newProcess(ctx, role, command)}
	in, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: start the %s: %w", role, err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("bench: start the %s: %w", role, err)
	}
	p.in, p.enc, p.dec = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := p.start(); err != nil {
		return nil, err
	}
	if err := p.enc.Encode(options); err != nil {
		return nil, errors.Join(p.explain("give options", err), p.close())
	}
	return p, nil
}

// hear reads the next line that the part says.
func (p *part) hear(what string, answer any) error {
	if err := p.dec.Decode(answer); err != nil {
		return p.explain(what, err)
	}
	return nil
}

func (p *part) ask(r request, answer any) error {
	p.asking.Lock()
	defer p.asking.Unlock()
	if err := p.enc.Encode(r); err != nil {
		return p.explain(r.Do, err)
	}
	return p.hear(r.Do, answer)
}

// close ends the conversation and waits for the process.
func (p *part) close() error {
	err := p.in.Close()
	if waitErr := p.cmd.Wait(); waitErr != nil {
		err = p.explain("end", waitErr)
	}
	return err
}
