package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A terminal is a pseudo-terminal with a command at it.
type terminal struct {
	t      *testing.T
	master *os.File
	cmd    *exec.Cmd
	screen syncBuffer
	read   chan struct{} // closed when the command has closed its side
}

// startAtTerminal runs the program with a terminal of so many columns as its
// standard input, output and error.
func startAtTerminal(t *testing.T, columns int, env []string, args ...string) *terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	fd := int(master.Fd())
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		err = unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: uint16(columns)})
	}
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	defer slave.Close()
	ctx, cancel := context.WithTimeout(t.Context(), processPatience)
	t.Cleanup(cancel)
	term := &terminal{t: t, master: master, cmd: exec.CommandContext(ctx, harepostBinary(t), args...), read: make(chan struct{})}
	term.cmd.Env = append(cleanEnvironment(), append([]string{"TERM=xterm", "NO_COLOR="}, env...)...)
	term.cmd.Stdin, term.cmd.Stdout, term.cmd.Stderr = slave, slave, slave
	term.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := term.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(term.read)
		io.Copy(&term.screen, master) // ends with EIO when nobody is at the other side
	}()
	return term
}

func (term *terminal) answer(text string) {
	term.t.Helper()
	if _, err := term.master.WriteString(text); err != nil {
		term.t.Fatal(err)
	}
}

// end waits for the command and returns its status and all that it showed.
func (term *terminal) end() (status int, screen string) {
	term.t.Helper()
	err := term.cmd.Wait()
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited {
		term.t.Fatal(err)
	}
	<-term.read
	return term.cmd.ProcessState.ExitCode(), term.screen.String()
}

// cannedAPI serves answers until the test ends, and gives the environment that
// leads commands to it.
func cannedAPI(t *testing.T, answers map[string][]string) (*canned, []string) {
	t.Helper()
	api := &canned{answers: answers}
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	return api, []string{"HAREPOST_URL=" + server.URL, "HAREPOST_API_KEY=hp_live_test"}
}

const jobAnswer = ` {"job_id":"job_1","kind":"purge","status":%q,"matched":10,"done":%d,"skipped":0,"created_at":"2025-06-10T14:22:10Z","updated_at":"2025-06-10T14:22:10Z"}`

// At a terminal a purge asks, shows a bar, and does what it was told.
func TestAPurgeAsksAtATerminal(t *testing.T) {
	f := func(answer string, want int, asked int) string {
		t.Helper()
		api, env := cannedAPI(t, map[string][]string{
			"DELETE /v1/dead-letters?all=true&dry_run=true": {`200 {"dry_run":true,"matched":10}`},
			"DELETE /v1/dead-letters?all=true":              {"202" + fmt.Sprintf(jobAnswer, "running", 0)},
			"GET /v1/jobs/job_1":                            {"200" + fmt.Sprintf(jobAnswer, "running", 5), "200" + fmt.Sprintf(jobAnswer, "done", 10)},
		})
		term := startAtTerminal(t, 120, env, "dead-letters", "purge")
		eventually(t, "[y/N]", term.screen.String)
		term.answer(answer)
		status, screen := term.end()
		if status != want || len(api.takeAsked()) != asked {
			t.Errorf("%q: status %d, want %d:\n%s", answer, status, want, screen)
		}
		return screen
	}
	if screen := f("\n", exitFailed, 1); !strings.Contains(screen, "This would purge 10 deliveries.") || !strings.Contains(screen, "nothing was done") {
		t.Error(screen)
	}
	f("n\n", exitFailed, 1)
	f("\x04", exitFailed, 1) // the end of the input
	screen := f("y\n", exitOK, 4)
	for _, want := range []string{"[...............", "[###############...............]", "5 of 10 (50 %)", "\x1b[32mdone\x1b[0m"} {
		if !strings.Contains(screen, want) {
			t.Errorf("%q is not in\n%q", want, screen)
		}
	}
}

// Colour and width are the terminal's, and NO_COLOR is respected.
func TestATableAtATerminal(t *testing.T) {
	page := `200 {"data":[{"queue_id":"hr_1","target":"https://your-app.com/` + strings.Repeat("long/", 40) + `","method":"POST","status":"delivered","created_at":"2025-06-10T14:22:10Z","updated_at":"2025-06-10T14:22:12Z","attempts":1}],"next_cursor":null}`
	f := func(variable string, colour bool) {
		t.Helper()
		_, env := cannedAPI(t, map[string][]string{"GET /v1/deliveries?limit=25": {page}})
		status, screen := startAtTerminal(t, 90, append(env, variable), "deliveries", "list").end()
		if status != exitOK || strings.Contains(screen, "\x1b[32mdelivered\x1b[0m") != colour || strings.Contains(screen, "\x1b[") != colour {
			t.Errorf("%s: status %d, want colours %v\n%q", variable, status, colour, screen)
		}
		for line := range strings.Lines(screen) {
			line = strings.NewReplacer("\x1b[2m", "", "\x1b[32m", "", "\x1b[0m", "").Replace(strings.TrimSpace(line))
			if n := len([]rune(line)); n > 90 {
				t.Errorf("%d characters in a line of 90: %s", n, line)
			}
		}
	}
	f("NO_COLOR=", true)
	f("NO_COLOR=1", false)
	f("TERM=dumb", false)
}

// Ctrl-C ends the watching, not the operation.
func TestInterruptedWatchingSaysHowToGoOn(t *testing.T) {
	_, env := cannedAPI(t, map[string][]string{"GET /v1/jobs/job_1": {"200" + fmt.Sprintf(jobAnswer, "running", 5)}})
	term := startAtTerminal(t, 120, env, "replays", "watch", "job_1")
	eventually(t, "50 %", term.screen.String)
	term.cmd.Process.Signal(os.Interrupt)
	status, screen := term.end()
	if status != exitFailed || !strings.Contains(screen, "job_1 goes on: harepost replays watch job_1") {
		t.Errorf("status %d\n%q", status, screen)
	}
}

// Ctrl-C at a question is a no.
func TestAnInterruptAtAQuestionIsANo(t *testing.T) {
	api, env := cannedAPI(t, map[string][]string{"DELETE /v1/dead-letters?all=true&dry_run=true": {`200 {"dry_run":true,"matched":10}`}})
	term := startAtTerminal(t, 120, env, "dead-letters", "purge")
	eventually(t, "[y/N]", term.screen.String)
	term.cmd.Process.Signal(os.Interrupt)
	status, screen := term.end()
	if status != exitFailed || len(api.takeAsked()) != 1 || !strings.Contains(screen, "interrupted: nothing was done") {
		t.Errorf("status %d\n%q", status, screen)
	}
}
