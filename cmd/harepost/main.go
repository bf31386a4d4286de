package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/term"
)

func main() {
	ctx, stop := onSignal(context.Background())
	sh := &shell{ctx: ctx, in: os.Stdin, out: os.Stdout, err: os.Stderr}
	status := run(sh, os.Args[1:])
	stop()
	os.Exit(status)
}

// signalEcho is how long after the first signal another one is taken for the
// same: timeout(1) and some supervisors signal the process and then its group.
// Nobody presses a key twice as fast.
const signalEcho = 100 * time.Millisecond

// onSignal returns a context that ends at the first SIGINT, SIGTERM or SIGHUP. The
// second ends the process at once, with the status a shell would report. The
// goroutine lives as long as the process.
func onSignal(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancel(parent)
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup(1) has it
		signal.Notify(signals, syscall.SIGHUP) // the terminal was closed
	}
	go func() {
		<-signals
		cancel()
		for echoes := time.After(signalEcho); ; {
			select {
			case <-echoes:
				echoes = nil
			case second := <-signals:
				if echoes == nil {
					os.Exit(128 + int(second.(syscall.Signal)))
				}
			}
		}
	}()
	return ctx, func() { signal.Stop(signals); cancel() }
}

// A shell is everything of the outside world that a command may touch beside
// the network and the files its flags name.
type shell struct {
	ctx context.Context // ends when the user wants the command to end
	in  io.Reader
	out io.Writer // what the command was asked for
	err io.Writer // what it says about itself: logs, warnings, errors
}

// run is the program: it parses args, runs the command they name and returns
// the exit status. It keeps no state, so a test may call it many times.
func run(sh *shell, args []string) int {
	ctx, stop := context.WithCancel(sh.ctx)
	defer stop()
	out := &output{w: sh.out, stop: stop}
	sh = &shell{ctx: ctx, in: sh.in, out: out, err: sh.err}
	var c cli
	parser, err := kong.New(&c, parserOptions(sh)...)
	if err != nil {
		panic(fmt.Sprintf("harepost: command line definition: %v", err)) // a mistake in our own tags
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	kctx, err := parser.Parse(joinNegatives(args))
	switch {
	case errors.Is(err, errHelpShown):
		err = nil
	case err != nil:
		err = parseFailure(err)
	default:
		err = kctx.Run(sh)
	}
	err = out.verdict(err)
	if err != nil && !silent(err) {
		fmt.Fprintf(sh.err, "harepost: %v\n", err)
		if statusOf(err) == exitUsage {
			fmt.Fprintf(sh.err, "Run \"%s --help\" for what is accepted.\n", commandPath(parser.Model.Node, args))
		}
	}
	return statusOf(err)
}

// parseFailure gives kong's errors our usage status; errors of our own hooks
// keep theirs.
func parseFailure(err error) error {
	if e, ok := errors.AsType[*exitError](err); ok {
		return e
	}
	return exitWith(exitUsage, err)
}

// commandPath is the command that args name, as far as it can be told, for the
// hint that ends a usage error.
func commandPath(node *kong.Node, args []string) string {
	path := node.Name
	for _, a := range args {
		if node = childNamed(node, a); node == nil {
			break
		}
		path += " " + node.Name
	}
	return path
}

// isTerminal tells whether a person reads, or writes, what is given.
func isTerminal(stream any) bool {
	f, ok := unwrapped(stream).(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// terminalWidth is how many characters a line of w's terminal has; 0 where
// there is none, and lines are as long as they are.
func terminalWidth(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	width, _, err := term.GetSize(int(unwrapped(w).(*os.File).Fd()))
	if err != nil {
		return 0
	}
	return width
}
