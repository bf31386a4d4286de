package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// A fullDisk takes so many writes and refuses the others as a device does.
type fullDisk struct {
	writes int
	err    error
}

func (d *fullDisk) Write(p []byte) (int, error) {
	if d.writes--; d.writes < 0 {
		return 0, &os.PathError{Op: "write", Path: "/dev/stdout", Err: d.err}
	}
	return len(p), nil
}

// Whatever was asked for and could not be printed, the command has failed.
func TestOutputThatIsLostIsAFailure(t *testing.T) {
	page := `200 {"data":[{"queue_id":"hr_1","target":"https://your-app.com/","method":"POST","status":"delivered","created_at":"2025-06-10T14:22:10Z","updated_at":"2025-06-10T14:22:12Z","attempts":1}],"next_cursor":null}`
	account := `{"account_id":"acc_1","name":"zz","api_key":"hp_live_x","signing_secret":"whsec_x","created_at":"2025-06-10T14:22:10Z"}`
	api := &canned{answers: map[string][]string{
		"POST /v1/keys":               {`201 {"id":"key_1","prefix":"hp_live_abcd","api_key":"hp_live_abcdefgh","created_at":"2025-06-10T14:22:10Z"}`},
		"POST /v1/accounts":           {"201 " + account},
		"GET /v1/accounts/acc_1":      {"200 " + account},
		"GET /v1/signing-secret":      {`200 {"signing_secret":"whsec_abc"}`},
		"POST /v1/send":               {`202 {"queue_id":"hr_1","status":"queued"}`},
		"GET /v1/deliveries?limit=25": {page},
		"GET /v1/jobs":                {`200 {"data":[]}`},
		"GET /v1/domains":             {`200 {"data":[]}`},
	}}
	server := httptest.NewServer(api)
	defer server.Close()
	t.Setenv("HAREPOST_URL", server.URL)
	t.Setenv("HAREPOST_API_KEY", "hp_live_test")
	t.Setenv("HAREPOST_ADMIN_TOKEN", "test-token")
	f := func(want string, args ...string) {
		t.Helper()
		for _, c := range []struct {
			err  error
			want string
		}{{syscall.ENOSPC, want + "the output could not be written: no space left on device\n"}, {syscall.EPIPE, ""}} {
			var errs bytes.Buffer
			status := run(&shell{ctx: t.Context(), in: strings.NewReader(""), out: &fullDisk{err: c.err}, err: &errs}, args)
			if status != exitFailed || errs.String() != c.want {
				t.Errorf("%q, %v: status %d, want 1\n%q, want\n%q", args, c.err, status, errs.String(), c.want)
			}
		}
	}
	const us = "harepost: "
	f(us+"the key key_1 was made and is lost, revoke it (harepost keys revoke key_1): ", "keys", "create")
	f(us+"the key key_1 was made and is lost, revoke it (harepost keys revoke key_1): ", "keys", "create", "--json")
	f(us+"the account acc_1 was made and its key is lost, delete it (harepost accounts delete acc_1): ", "accounts", "create", "zz")
	f(us+"the account acc_1 was made and its key is lost, delete it (harepost accounts delete acc_1): ", "accounts", "create", "zz", "--json")
	f(us, "accounts", "get", "acc_1")
	f(us, "secret", "show")
	f(us, "secret", "show", "--json")
	f(us, "send", "https://your-app.com/")
	f(us, "deliveries", "list", "--limit", "25")
	f(us, "replays", "list")
	f(us, "domains", "list")
	f(us, "version")
	f(us, "version", "--json")
	f(us, "encryption-key")
	f(us, "completion", "bash")
	f(us, "completion", "words", "--", "se")
	f(us, "send", "--help")
	f(us, "--help")
}

// A list of many pages is not fetched for nobody.
func TestAListEndsWithItsOutput(t *testing.T) {
	const page = `200 {"data":[{"queue_id":"hr_1","target":"https://your-app.com/","method":"POST","status":"delivered","created_at":"2025-06-10T14:22:10Z","updated_at":"2025-06-10T14:22:12Z","attempts":1}],"next_cursor":"c1"}`
	api := &canned{answers: map[string][]string{"GET /v1/deliveries?limit=100": {page}, "GET /v1/deliveries?cursor=c1&limit=100": {page}}}
	server := httptest.NewServer(api)
	defer server.Close()
	var errs bytes.Buffer
	sh := &shell{ctx: t.Context(), in: strings.NewReader(""), out: &fullDisk{writes: 2, err: syscall.ENOSPC}, err: &errs}
	status := run(sh, []string{"deliveries", "list", "--all", "--limit", "100", "--url", server.URL, "--api-key", "k"})
	if status != exitFailed || !strings.Contains(errs.String(), "no space left on device") {
		t.Errorf("status %d\n%s", status, errs.String())
	}
	if asked := api.takeAsked(); len(asked) != 2 {
		t.Errorf("it was asked for %q after its second page could not be printed", asked)
	}
}

// What a command says of itself is kept where its output was not lost, and
// storage that failed goes before an output that did.
func TestTheVerdictOfAnOutput(t *testing.T) {
	refused := exitWith(exitRefused, errors.New("400 no"))
	f := func(name string, lost bool, err error, want int) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		o := &output{w: io.Discard, stop: stop}
		if lost {
			o.w = &fullDisk{err: syscall.ENOSPC}
		}
		io.WriteString(o, "x")
		if got := statusOf(o.verdict(err)); got != want || (ctx.Err() != nil) != lost {
			t.Errorf("%s: status %d, want %d; ended %v", name, got, want, ctx.Err())
		}
	}
	f("done", false, nil, exitOK)
	f("refused", false, refused, exitRefused)
	f("done, and lost", true, nil, exitFailed)
	f("refused, and lost", true, refused, exitFailed)
	f("the storage failed, and lost", true, exitWith(exitStorageFailed, nil), exitStorageFailed)
}

// The same with a device that is full, and with a directory to check.
func TestOutputToAFullDevice(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skipf("no full device here: %v", err)
	}
	defer full.Close()
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	f := func(args ...string) {
		t.Helper()
		var errs bytes.Buffer
		cmd := exec.CommandContext(t.Context(), harepostBinary(t), args...)
		cmd.Env = append(cleanEnvironment(), u.env...)
		cmd.Stdout, cmd.Stderr = full, &errs
		cmd.Run() // its error is the exit status
		if status := cmd.ProcessState.ExitCode(); status != exitFailed || !strings.Contains(errs.String(), "no space left on device") {
			t.Errorf("%q: status %d, want 1\n%s", args, status, errs.String())
		}
	}
	f("keys", "create")
	f("accounts", "create", "zz")
	f("deliveries", "list")
	s.stop()
	f("check", s.DataDir)
	f("serve", "--dev", "--data-dir", s.DataDir, "--listen", "127.0.0.1:0")
}
