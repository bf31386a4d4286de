package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/harepost/harepost/client"
)

type topCmd struct {
	owned    `embed:""`
	Interval time.Duration `name:"interval" default:"1s" help:"How often to look, at least 100ms."`
	Rows     int           `name:"rows" placeholder:"N" help:"How many destinations, 1 to 100. Default: as many as the terminal shows, or 20."`
	Once     bool          `name:"once" help:"Look once. With --json this is the server's answer."`
}

// Help is shown by kong under the usage line.
func (c *topCmd) Help() string {
	return `Ends on Ctrl-C, and on q at a terminal. Where the output is no terminal, each look is printed below the one before.`
}

// leastInterval keeps a slip of the finger from asking a server all the time.
const leastInterval = 100 * time.Millisecond

// Validate refuses what the server would not take.
func (c *topCmd) Validate() error {
	switch {
	case c.Interval < leastInterval:
		return fmt.Errorf("--interval must be at least %s, not %s", leastInterval, c.Interval)
	case c.Rows < 0 || c.Rows > client.MaxPage:
		return fmt.Errorf("--rows must be from 1 to %d, not %d", client.MaxPage, c.Rows)
	case c.JSON && !c.Once:
		return fmt.Errorf("--json is for --once")
	}
	return nil
}

// Run looks until the user has seen enough.
func (c *topCmd) Run(sh *shell) error {
	api, err := c.dial()
	if err != nil {
		return err
	}
	if c.Once {
		return c.once(sh, api)
	}
	ctx, screen, err := openScreen(sh)
	if err != nil {
		return err
	}
	defer screen.close()
	tick := time.NewTicker(c.Interval)
	defer tick.Stop()
	for {
		if err := c.look(ctx, api, screen); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *topCmd) once(sh *shell, api *session) error {
	page, err := api.DestinationsPage(sh.ctx, c.filter(sh.out))
	if err != nil {
		return c.explain(err)
	}
	if c.JSON {
		return printJSON(sh.out, api.raw())
	}
	_, err = io.WriteString(sh.out, topFrame(painterFor(sh.out), terminalWidth(sh.out), c.URL, time.Now(), page.Data))
	return err
}

// look draws one frame. A server that does not answer at the moment is shown as
// such, and asked again.
func (c *topCmd) look(ctx context.Context, api *session, s *screen) error {
	page, err := api.DestinationsPage(ctx, c.filter(s.out))
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil:
		explained := c.explain(err)
		if statusOf(explained) != exitNotNow {
			return explained
		}
		s.draw(fmt.Sprintf("%s  %v\n", time.Now().Format(time.TimeOnly), explained))
		return nil
	}
	s.draw(topFrame(s.painter, terminalWidth(s.out), c.URL, time.Now(), page.Data))
	return nil
}

// topRows is how many destinations are shown where there is no terminal.
const topRows = 20

func (c *topCmd) filter(out io.Writer) client.DestinationFilter {
	rows := c.Rows
	if rows == 0 {
		rows = topRows
		if height := terminalHeight(out); height > 0 {
			rows = min(max(height-topHeadLines, 1), client.MaxPage)
		}
	}
	return client.DestinationFilter{ByPending: true, Limit: rows}
}

// topHeadLines are the lines of a frame beside its destinations, and the cursor's.
const topHeadLines = 4

// topFrame is what is shown of one look.
func topFrame(p painter, width int, url string, now time.Time, list []client.Destination) string {
	var b strings.Builder
	pending, flying := int64(0), 0
	for i := range list {
		pending += list[i].Pending
		flying += list[i].InFlight
	}
	shown := "1 destination" // of how many the server does not say
	if len(list) != 1 {
		shown = fmt.Sprintf("%d destinations", len(list))
	}
	head := fmt.Sprintf("%s  %s  %s: %s pending, %s under way", now.Format(time.TimeOnly), url, shown, countText(pending), countText(int64(flying)))
	if width > 0 && utf8.RuneCountInString(head) > width {
		head = string([]rune(head)[:width])
	}
	fmt.Fprintf(&b, "%s\n\n", p.bold(head))
	t := newDestinationTable()
	addDestinations(t, p, list)
	t.writeWithin(width, &b, p, "")
	return b.String()
}

// terminalHeight is how many lines w's terminal has; 0 where there is none.
func terminalHeight(w io.Writer) int {
	if !isTerminal(w) {
		return 0
	}
	_, height, err := term.GetSize(int(unwrapped(w).(*os.File).Fd()))
	if err != nil {
		return 0
	}
	return height
}

// A screen shows one frame in place of the one before, at a terminal; elsewhere
// below it.
type screen struct {
	out     io.Writer
	painter painter
	live    bool // at a terminal that is not dumb

	cancel   context.CancelFunc
	keyboard *os.File // nil: no keys are read
	before   *term.State
	done     chan struct{} // closed when the keys are not read any more
}

// What a terminal does: clears the screen, hides the cursor or shows it, and cuts
// what is wider than it is or goes on in the next line. A table has a least width,
// and on a narrow terminal its lines would push the head of the frame out.
const (
	clearScreen = "\x1b[H\x1b[2J"
	hideCursor  = "\x1b[?25l"
	showCursor  = "\x1b[?25h"
	cutLines    = "\x1b[?7l"
	wrapLines   = "\x1b[?7h"
)

// openScreen takes the terminal over, until close. The context ends when the user
// wants no more.
func openScreen(sh *shell) (context.Context, *screen, error) {
	ctx, cancel := context.WithCancel(sh.ctx)
	s := &screen{out: sh.out, painter: painterFor(sh.out), live: isTerminal(sh.out) && os.Getenv("TERM") != "dumb", cancel: cancel}
	if !s.live {
		return ctx, s, nil
	}
	io.WriteString(s.out, hideCursor+cutLines)
	if !isTerminal(sh.in) {
		return ctx, s, nil
	}
	keyboard := unwrapped(sh.in).(*os.File)
	before, err := term.MakeRaw(int(keyboard.Fd()))
	if err != nil {
		s.close()
		return nil, nil, fmt.Errorf("read keys: %w", err)
	}
	s.keyboard, s.before, s.done = keyboard, before, make(chan struct{})
	go s.readKeys(ctx)
	return ctx, s, nil
}

// keyWait is how long readKeys waits for a key before it looks whether it is over.
const keyWait = 100 * time.Millisecond

// readKeys ends the context at q or Ctrl-C, which a raw terminal does not turn
// into a signal.
func (s *screen) readKeys(ctx context.Context) {
	defer close(s.done)
	defer s.cancel()
	fd := s.keyboard.Fd()
	for ctx.Err() == nil {
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(ready, int(keyWait.Milliseconds())); err != nil && err != unix.EINTR {
			return
		} else if n <= 0 {
			continue
		}
		var key [1]byte
		if n, err := s.keyboard.Read(key[:]); n == 0 || err != nil || key[0] == 'q' || key[0] == 'Q' || key[0] == '\x03' {
			return
		}
	}
}

// draw shows a frame.
func (s *screen) draw(frame string) {
	switch {
	case s.keyboard != nil: // raw: a new line is no return
		frame = clearScreen + strings.ReplaceAll(frame, "\n", "\r\n")
	case s.live:
		frame = clearScreen + frame
	default:
		frame += "\n"
	}
	io.WriteString(s.out, frame)
}

// close gives the terminal back as it was.
func (s *screen) close() {
	s.cancel()
	if s.keyboard != nil {
		<-s.done
		_ = term.Restore(int(s.keyboard.Fd()), s.before) // there is nobody left to tell
	}
	if s.live {
		io.WriteString(s.out, wrapLines+showCursor)
	}
}
