package main

import (
	"os"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

func TestUsageErrorsAreExplainedWithStatusTwo(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		status, _, stderr := runHere(t, args...)
		if status != exitUsage || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, stderr %q; want status 2 and %q", args, status, stderr, want)
		}
	}
	f("unknown flag --nope", "--nope")
	f("unexpected argument nonsense", "nonsense")
	f("unknown flag --nope", "version", "--nope")
	f(`Run "harepost version --help"`, "version", "--nope")
	f(`Run "harepost domains add --help"`, "domains", "add")
	f("expected \"<target>\"", "send")
	f("not in whole seconds", "secret", "rotate", "--overlap", "1500ms")
	f("nothing to change", "accounts", "set", "acc_1")
	f("can't be used together", "accounts", "set", "acc_1", "--suspend", "--resume")
	f("can't be used together", "accounts", "set", "acc_1", "--rate-limit", "1", "--default-rate-limit")
	f("no admin token", "accounts", "list")
	f("from 1 to 100, not 0", "deliveries", "list", "--limit", "0", "--api-key", "k")
	f("from 1 to 100, not 101", "dead-letters", "list", "--limit", "101", "--api-key", "k")
	f("--wait-timeout is for --wait", "send", "http://127.0.0.1/", "--wait-timeout", "1m", "--api-key", "k")
	f("--wait-timeout is for --wait", "send", "--batch", "x", "--wait-timeout", "1s", "--api-key", "k")
	f("--wait-timeout is for --wait", "deliveries", "get", "hr_1", "--wait-timeout", "1s", "--api-key", "k")
	f("must not be empty", "deliveries", "list", "--label", "", "--api-key", "k")
	f("--batch stands alone", "send", "http://127.0.0.1/", "--batch", "x")
	f("--batch stands alone", "send", "--batch", "x", "--sign")
	f("--batch stands alone", "send", "--batch", "x", "--wait")
	f("--batch: open", "send", "--batch", "/nonexistent/file", "--api-key", "k")
	f("exclude each other", "deliveries", "cancel", "hr_1", "--label", "x")
	f("must not be empty", "dead-letters", "purge", "--yes", "--label", "", "--api-key", "k")
	f("must not be negative", "dead-letters", "replay", "--rate=-1")
	f("must not be negative", "dead-letters", "replay", "--rate", "-1")
	f("must not be negative", "listen", "--delay", "-1s")
	f("must be above 0, not -1", "serve", "--data-dir", "x", "--max-in-flight", "-1")
	f("must be above 0, not -5s", "deliveries", "list", "--api-key", "k", "--timeout", "-5s")
	f("unknown flag -1", "deliveries", "list", "-1")
	f("no API key", "send", "http://127.0.0.1/")
	f("no API key", "deliveries", "list")
	f("is not a URL", "deliveries", "list", "--api-key", "k", "--url", "localhost:8080")
	f("--data and --data-file can't be used together", "send", "http://127.0.0.1/", "--data", "a", "--data-file", "b")
	f("is not NAME:VALUE", "send", "http://127.0.0.1/", "--api-key", "k", "-H", "nonsense")
	f("given twice", "send", "http://127.0.0.1/", "--api-key", "k", "-H", "a: 1", "-H", "A: 2")
	f("--metadata is not JSON", "send", "http://127.0.0.1/", "--api-key", "k", "--metadata", "{")
	f("not from 0 to 1", "listen", "--fail", "2")
	f("--seed is for --fail", "listen", "--seed", "7")
	f("give --status", "listen", "--fail-status", "500")
	f("answers that are not 2xx", "listen", "--retry-after", "5")
	f("--status would do nothing", "listen", "--forward", "http://127.0.0.1:3000", "--status", "503")
	f("is not a URL like", "listen", "--forward", "127.0.0.1:3000")
	f("not in whole seconds", "listen", "--fail", "1", "--retry-after", "1.5s")
	f("not in whole seconds", "listen", "--fail", "1", "--retry-after=-5")
	f("does not begin with whsec_", "listen", "--secret", "hp_live_x")
	f("--fail-status 200 is a success", "listen", "--fail-first", "1", "--fail-status", "200")
}

func TestANegativeValueBelongsToItsFlag(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		if got := strings.Join(joinNegatives(args), " "); got != want {
			t.Errorf("%q: %s, want %s", args, got, want)
		}
	}
	f("send --delay=-1s -d-5 u", "send", "--delay", "-1s", "-d", "-5", "u")
	f("send --delay=1s -1 -", "send", "--delay=1s", "-1", "-")
	f("send --sign -d x", "send", "--sign", "-d", "x")
	f("words -- --rate -1", "words", "--", "--rate", "-1")
	f("-1", "-1")
}

func TestHelpEndsWithStatusZero(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"-h"}, {"version", "--help"}, {"serve", "-h"}, {"domains", "--help"}} {
		status, stdout, stderr := runHere(t, args...)
		if status != exitOK || stderr != "" || !strings.Contains(stdout, "Usage: harepost") {
			t.Errorf("%q: status %d, stdout %q, stderr %q", args, status, stdout, stderr)
		}
	}
}

// Every flag can be set by a variable, and no two commands share one by
// accident: a shared variable is one whose tag says so.
func TestEveryFlagHasItsVariable(t *testing.T) {
	shared := map[string]bool{
		"HAREPOST_URL": true, "HAREPOST_TIMEOUT": true, "HAREPOST_JSON": true, "HAREPOST_CA_FILE": true,
		"HAREPOST_API_KEY": true, "HAREPOST_ADMIN_TOKEN": true, "HAREPOST_DATA_DIR": true, "HAREPOST_NODE_ID": true, "HAREPOST_ENCRYPTION_KEY_FILE": true, "HAREPOST_ACCOUNT_ID": true,
	}
	owner := make(map[string]string)
	var c cli
	k, err := kong.New(&c, parserOptions(&shell{out: os.Stdout, err: os.Stderr})...)
	if err != nil {
		t.Fatal(err)
	}
	visitFlags(k, func(n *kong.Node, f *kong.Flag) {
		if f.Name == "help" {
			return
		}
		if len(f.Envs) != 1 || !strings.HasPrefix(f.Envs[0], "HAREPOST_") {
			t.Errorf("%s --%s: variables %q", n.FullPath(), f.Name, f.Envs)
			return
		}
		if other, taken := owner[f.Envs[0]]; taken && !shared[f.Envs[0]] {
			t.Errorf("%s belongs to %s and %s", f.Envs[0], other, n.FullPath())
		}
		owner[f.Envs[0]] = n.FullPath()
	})
	for env, want := range map[string]string{
		"HAREPOST_LISTEN": "harepost serve", "HAREPOST_DRAIN_TIMEOUT": "harepost serve",
		"HAREPOST_SEND_DATA": "harepost send", "HAREPOST_LISTEN_ADDR": "harepost listen",
		"HAREPOST_DELIVERIES_LIST_STATUS": "harepost deliveries list",
	} {
		if owner[env] != want {
			t.Errorf("%s belongs to %q, want %q", env, owner[env], want)
		}
	}
}

func TestHelpShowsDefaultsAndVariables(t *testing.T) {
	_, help, _ := runHere(t, "serve", "--help")
	for _, want := range []string{`--listen="127.0.0.1:8080"`, "$HAREPOST_LISTEN", "30s", "$HAREPOST_DRAIN_TIMEOUT", "$HAREPOST_ADMIN_TOKEN"} {
		if !strings.Contains(help, want) {
			t.Errorf("serve --help does not show %s:\n%s", want, help)
		}
	}
}

// kong shows a default in the place of the value, unless the flag names the
// value itself. Then nobody would see the default.
func TestHelpHidesNoDefault(t *testing.T) {
	var c cli
	k, err := kong.New(&c, parserOptions(&shell{out: os.Stdout, err: os.Stderr})...)
	if err != nil {
		t.Fatal(err)
	}
	visitFlags(k, func(n *kong.Node, f *kong.Flag) {
		if f.Default != "" && f.PlaceHolder != "" {
			t.Errorf("%s --%s: the help shows %s and not the default %s", n.FullPath(), f.Name, f.PlaceHolder, f.Default)
		}
	})
}

// Only statuses that the command's server takes are offered.
func TestHelpNamesTheStatusesThatThereAre(t *testing.T) {
	f := func(want string, args ...string) {
		t.Helper()
		_, help, _ := runHere(t, append(args, "--help")...)
		if help = strings.Join(strings.Fields(help), " "); !strings.Contains(help, "Only these: "+want+" (") {
			t.Errorf("%q: want %q in\n%s", args, want, help)
		}
	}
	f("queued, retrying, delivered, rejected, dead_letter, canceled", "deliveries", "list")
	f("queued, retrying", "deliveries", "cancel")
	f("dead_letter, rejected", "dead-letters", "list")
	f("dead_letter, rejected", "dead-letters", "replay")
	f("dead_letter, rejected", "dead-letters", "purge")
}

// A variable for --wait-timeout may be there for the commands that wait.
func TestTheVariableOfWaitTimeoutDoesNotWait(t *testing.T) {
	t.Setenv("HAREPOST_SEND_WAIT_TIMEOUT", "5m")
	if status, _, stderr := runHere(t, "send", "http://127.0.0.1/"); !strings.Contains(stderr, "no API key") {
		t.Errorf("status %d\n%s", status, stderr)
	}
}

func visitFlags(k *kong.Kong, see func(*kong.Node, *kong.Flag)) {
	var walk func(n *kong.Node)
	walk = func(n *kong.Node) {
		for _, f := range n.Flags {
			see(n, f)
		}
		for _, child := range n.Children {
			walk(child)
		}
	}
	walk(k.Model.Node)
}

// parsedServe parses a whole command line, environment and file included.
func parsedServe(t *testing.T, args ...string) *serveCmd {
	t.Helper()
	var c cli
	k, err := kong.New(&c, parserOptions(&shell{out: os.Stdout, err: os.Stderr})...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Parse(args); err != nil {
		t.Fatal(err)
	}
	return &c.Serve
}
