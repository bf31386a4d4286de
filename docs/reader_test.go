package docs_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A reader follows one document: types what it says, and looks at what comes.
type reader struct {
	t         *testing.T
	dir       string
	env       []string
	ports     map[string]string // of the document: those in use
	terminals []*terminal
	skipped   bool // the last command was passed over, and so is its output
	output    string

	mu   sync.Mutex
	seen map[string]string // prefix of an id, key or secret: the last one printed
}

// blockTime bounds one block, so that a document cannot hold up the tests.
const blockTime = patience

func newReader(t *testing.T) *reader {
	r := &reader{t: t, dir: t.TempDir(), ports: map[string]string{}, seen: map[string]string{}}
	for _, p := range append([]string{"8080"}, strings.Fields("9000 9001 9002 9003 9004 9005 9006 9007 9008 9009")...) {
		r.ports[p] = freePort(t)
	}
	r.env = r.environment()
	r.prepareDir()
	t.Cleanup(r.stop)
	return r
}

// freePort is a port that nobody listens on, of those that the system gives to
// nobody by itself: it stays free until the document's program takes it. No two
// calls return the same one.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := strconv.Itoa(int(lastPort.Add(1)))
		if ln, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port)); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return ""
}

// lastPort begins somewhere else in every process, for those that run at the
// same time, and stays below the ports that tests of other packages take.
var lastPort = func() *atomic.Int32 {
	var p atomic.Int32
	p.Store(10_000 + int32(os.Getpid()%7_000))
	return &p
}()

// environment is this process's, without settings of the developer's own.
// Nothing outside this machine is asked: Go takes modules from its cache.
func (r *reader) environment() []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "HAREPOST_") || strings.HasSuffix(strings.ToLower(name), "_proxy") || name == "PATH" || name == "GOFLAGS" {
			continue
		}
		env = append(env, e)
	}
	return append(env, "PATH="+filepath.Dir(harepost)+":"+os.Getenv("PATH"),
		"HAREPOST_LISTEN=127.0.0.1:"+r.ports["8080"], "HAREPOST_URL=http://127.0.0.1:"+r.ports["8080"],
		"HAREPOST_LISTEN_ADDR=127.0.0.1:"+r.ports["9000"],
		// The documents say who leads. On a busy machine another node would soon be elected.
		"HAREPOST_ELECTION_TIMEOUT=5s",
		"GOPROXY=off", "GOFLAGS=-mod=mod", "GOWORK=off", "LC_ALL=C.UTF-8")
}

// prepareDir has what a reader has by then: the program under bin, and a module
// that uses ours.
func (r *reader) prepareDir() {
	root, err := filepath.Abs("..")
	if err == nil {
		err = errors.Join(os.Mkdir(filepath.Join(r.dir, "bin"), 0o700), os.Symlink(harepost, filepath.Join(r.dir, "bin", "harepost")))
	}
	if err == nil {
		module := "module example\n\ngo 1.26.0\n\nrequire github.com/harepost/harepost v0.0.0\n\nreplace github.com/harepost/harepost => " + root + "\n"
		err = os.WriteFile(filepath.Join(r.dir, "go.mod"), []byte(module), 0o600)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// follow does what the document says, block by block.
func (r *reader) follow(name string, blocks []block) {
	for _, b := range blocks {
		at := fmt.Sprintf("%s:%d", name, b.line)
		switch {
		case b.lang == "stop":
			r.stop()
		case b.norun:
			r.skipped = true
		case b.file != "":
			r.write(at, b)
		case b.lang == "sh" && !r.has(at, b):
			r.skipped = true
		case b.server:
			r.open(at, b)
		case b.lang == "sh":
			r.skipped = false
			r.run(at, b)
		case b.from != "":
			r.await(at, b)
		case (b.lang == "text" || b.lang == "json") && b.afterShell && !r.skipped:
			if !pattern(b.text).MatchString(r.original(r.output)) {
				r.t.Fatalf("%s: the document says\n%s\nbut it prints\n%s", at, b.text, r.original(r.output))
			}
		}
	}
}

func (r *reader) has(at string, b block) bool {
	for _, program := range b.needs {
		if _, err := exec.LookPath(program); err != nil {
			r.t.Logf("%s: not run, there is no %s", at, program)
			return false
		}
	}
	return true
}

func (r *reader) write(at string, b block) {
	file := filepath.Join(r.dir, filepath.FromSlash(b.file))
	err := os.MkdirAll(filepath.Dir(file), 0o700)
	if err == nil {
		err = os.WriteFile(file, []byte(r.actual(b.text)), 0o600)
	}
	if err != nil {
		r.t.Fatalf("%s: %v", at, err)
	}
}

// Variables that were exported last from one block to the next.
const shellBefore = `[ ! -f .exported ] || . ./.exported
set -euo pipefail
trap 'export -p >.exported' EXIT
`

func (r *reader) command(ctx context.Context, script string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "bash", "-c", script)
	cmd.Dir, cmd.Env = r.dir, r.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	return cmd
}

func (r *reader) run(at string, b block) {
	ctx, cancel := context.WithTimeout(r.t.Context(), blockTime)
	defer cancel()
	cmd := r.command(ctx, shellBefore+r.actual(b.text))
	out, errs := &console{reader: r}, &console{reader: r}
	cmd.Stdout, cmd.Stderr = out, errs
	err := cmd.Run()
	if ctx.Err() != nil {
		r.t.Fatalf("%s: does not end:\n%s%s%s%s", at, b.text, out, errs, r.terminalsText())
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		r.t.Fatalf("%s: %v", at, err)
	}
	if status := cmd.ProcessState.ExitCode(); status != b.exit {
		r.t.Fatalf("%s: status %d instead of %d:\n%s\n%s%s%s", at, status, b.exit, b.text, out, errs, r.terminalsText())
	}
	r.output = out.String() + errs.String()
}

// actual turns the document's examples into what there is.
func (r *reader) actual(text string) string {
	text = documentPort.ReplaceAllStringFunc(text, func(port string) string { return r.ports[port] })
	r.mu.Lock()
	defer r.mu.Unlock()
	return example.ReplaceAllStringFunc(text, func(s string) string {
		prefix := s[:strings.LastIndexByte(s, '_')+1]
		if last, ok := r.seen[prefix]; ok {
			return last
		}
		return s
	})
}

// original turns ports back.
func (r *reader) original(text string) string {
	for port, mine := range r.ports {
		text = strings.ReplaceAll(text, "127.0.0.1:"+mine, "127.0.0.1:"+port)
	}
	return text
}

var (
	documentPort = regexp.MustCompile(`\b(?:8080|900\d)\b`)

	example = regexp.MustCompile(`\b(?:hp_live_|whsec_|hr_|job_|key_|acct?_)\.\.\.`)
	printed = regexp.MustCompile(`\b(?:hp_live_[0-9A-Za-z]{32}|whsec_[0-9A-Za-z+/]{43}=|hr_[0-9a-z]{26}|(?:job|key|acct?)_[0-9a-z]{10,})`)
)

// notice remembers the last of each kind that was printed.
func (r *reader) notice(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, id := range printed.FindAllString(text, -1) {
		r.seen[id[:strings.LastIndexByte(id, '_')+1]] = id
	}
}

// A console keeps what a command prints and wakes who waits for it.
type console struct {
	reader *reader

	mu    sync.Mutex
	text  []byte
	grown chan struct{} // closed and replaced at each write; nil: nobody waits
}

func (c *console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, p...)
	c.reader.notice(string(c.text[max(0, len(c.text)-len(p)-200):])) // one may be cut by a write
	if c.grown != nil {
		close(c.grown)
		c.grown = nil
	}
	return len(p), nil
}

func (c *console) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.text)
}

// changes returns the text, and what is closed when there is more.
func (c *console) changes() (string, <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.grown == nil {
		c.grown = make(chan struct{})
	}
	return string(c.text), c.grown
}

// A terminal runs a command that stays up.
type terminal struct {
	at, text string
	cmd      *exec.Cmd
	console  *console
	ended    chan struct{}
}

// ready is what our programs say when they can be reached.
var ready = regexp.MustCompile(`"msg":"serving"|msg=serving|Listening on |forwarding|listening`)

func (r *reader) open(at string, b block) {
	ctx, cancel := context.WithCancel(context.Background()) // the test's own ends before stop has asked it to
	term := &terminal{at: at, text: b.text, console: &console{reader: r}, ended: make(chan struct{})}
	term.cmd = r.command(ctx, "[ ! -f .exported ] || . ./.exported\n"+r.actual(b.text))
	term.cmd.Stdout, term.cmd.Stderr = term.console, term.console
	if err := term.cmd.Start(); err != nil {
		cancel()
		r.t.Fatalf("%s: %v", at, err)
	}
	r.terminals = append(r.terminals, term)
	go func() {
		term.cmd.Wait() // its error is the exit status, which nobody asks for
		cancel()
		close(term.ended)
	}()
	if !r.sees(term, ready.MatchString) {
		r.t.Fatalf("%s: is not ready:\n%s\n%s", at, b.text, term.console)
	}
}

// sees waits until the terminal's text is as wanted.
func (r *reader) sees(term *terminal, wanted func(string) bool) bool {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	for {
		text, grown := term.console.changes()
		if wanted(text) {
			return true
		}
		select {
		case <-grown:
		case <-term.ended:
			text, _ := term.console.changes()
			return wanted(text)
		case <-timeout.C:
			return false
		}
	}
}

// await waits for a terminal to print what the document says, somewhere.
func (r *reader) await(at string, b block) {
	for i := len(r.terminals) - 1; i >= 0; i-- {
		term := r.terminals[i]
		if !strings.Contains(term.text, b.from) {
			continue
		}
		want := pattern("...\n" + b.text + "\n...")
		if !r.sees(term, func(text string) bool { return want.MatchString("\n" + r.original(text) + "\n") }) {
			r.t.Fatalf("%s: the document says\n%s\nbut %s prints\n%s", at, b.text, term.at, r.original(term.console.String()))
		}
		return
	}
	r.t.Fatalf("%s: no terminal has %q in its command line", at, b.from)
}

// stop ends the terminals as Ctrl-C would, and waits.
func (r *reader) stop() {
	for _, term := range r.terminals {
		syscall.Kill(-term.cmd.Process.Pid, syscall.SIGINT)
	}
	for _, term := range r.terminals {
		select {
		case <-term.ended:
		case <-time.After(patience):
			syscall.Kill(-term.cmd.Process.Pid, syscall.SIGKILL)
			<-term.ended
			r.t.Errorf("%s: does not end:\n%s", term.at, term.console)
		}
	}
	r.terminals = nil
}

func (r *reader) terminalsText() string {
	var b strings.Builder
	for _, term := range r.terminals {
		fmt.Fprintf(&b, "\n--- the terminal of %s\n%s", term.at, term.console)
	}
	return b.String()
}
