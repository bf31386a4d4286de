package main

import (
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// words are the offers without what they mean.
func completionWords(t *testing.T, line ...string) []string {
	t.Helper()
	status, stdout, stderr := runHere(t, append([]string{"completion", "words", "--"}, line...)...)
	if status != exitOK || stderr != "" {
		t.Fatalf("%q: status %d, %s", line, status, stderr)
	}
	var words []string
	for offer := range strings.Lines(stdout) {
		word, _, _ := strings.Cut(strings.TrimSuffix(offer, "\n"), "\t")
		words = append(words, word)
	}
	return words
}

func TestCompletionOffersWhatTheParserTakes(t *testing.T) {
	f := func(want string, line ...string) {
		t.Helper()
		if got := strings.Join(completionWords(t, line...), " "); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
	f("dead-letters deliveries demo destinations", "de")
	f("secret send serve", "se")
	f("completion", "comp")
	f("bash fish zsh", "completion", "")
	f("--max-attempts --max-delay", "send", "http://a/", "--max-")
	f("exponential", "send", "--backoff", "e")
	f("exponential", "send", "--backoff", "=", "e")
	f("exponential fixed", "send", "--backoff", "=")
	f("debug", "serve", "--dev", "--log-level", "d")
	f("--log-format --log-level", "serve", "--dev", "--log-")
	f(":files", "send", "--data-file", "x")
	f(":files", "serve", "--tls-cert", "")
	f(":files", "serve", "--config", "")
	f(":files", "serve", "--encryption-key-file", "=", "")
	f(":files", "serve", "--unix-socket", "")
	f(":files", "check", "")
	f(":files", "check", "--json", "mon")
	f(":files", "check", "--data-dir", "")
	f("", "check", "monday.tar", "")
	f(":files", "restore", "")
	f(":files", "restore", "monday.tar", "")
	f(":files", "restore", "-", "")
	f(":files", "restore", "--", "")
	f("", "restore", "monday.tar", "dir", "")
	f(":files", "backup", "--timeout", "1s", "")
	f("", "domains", "add", "")
	f("queued retrying delivered rejected dead_letter canceled", "deliveries", "list", "--status", "")
	f("delivered dead_letter", "dead-letters", "purge", "--yes", "--status", "de")
	f("--status=delivered", "deliveries", "list", "--status=del")
	f("--backoff=fixed", "send", "--backoff=f")
	f("", "serve", "--config=x")
	f("", "send", "--nonsense=x")
	f("", "listen", "--status", "")
	f("", "send", "--label", "x")
	f("", "send", "--", "--la")
	f("--label", "send", "--wait", "--la")
	f("", "nonsense", "zzz")
	if all := completionWords(t, ""); !slices.Contains(all, "serve") || slices.Contains(all, "words") {
		t.Errorf("of everything: %q", all)
	}
}

// A shell that is not installed cannot be asked; bash is wherever Go's tests
// run.
func TestShellsLoadTheirCompletion(t *testing.T) {
	binary := harepostBinary(t)
	f := func(want, shell string, args ...string) {
		t.Helper()
		path, err := exec.LookPath(shell)
		if err != nil {
			t.Logf("%s is not installed, its script is not tried", shell)
			return
		}
		cmd := exec.CommandContext(t.Context(), path, args...)
		cmd.Env = append(cleanEnvironment(), "PATH="+filepath.Dir(binary)+":/usr/bin:/bin", "HOME="+t.TempDir(), "TERM=dumb")
		text, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(text), want) {
			t.Errorf("%s: %v\n%s\nwant %q", shell, err, text, want)
		}
	}
	const bash = `set -e; source <(harepost completion bash); `
	f("complete -F _harepost harepost", "bash", "-c", bash+"complete -p harepost")
	f("<demo>", "bash", "-c", bash+`COMP_WORDS=(harepost de) COMP_CWORD=1; _harepost; printf '<%s>' "${COMPREPLY[@]}"`)
	f("<exponential>", "bash", "-c", bash+`COMP_WORDS=(harepost send --backoff e) COMP_CWORD=3; _harepost; printf '<%s>' "${COMPREPLY[@]}"`)
	f("_harepost", "zsh", "-f", "-c", `autoload -U compinit; compinit -u -D; source <(harepost completion zsh); print $_comps[harepost]`)
	f("demo", "zsh", "-f", "-c", `autoload -U compinit; compinit -u -D; source <(harepost completion zsh)
		_describe() { print -l $candidates }; words=(harepost de) CURRENT=2; _harepost`)
	f("demo", "fish", "--no-config", "-c", `harepost completion fish | source; complete -C "harepost de"`)
	f("exponential", "fish", "--no-config", "-c", `harepost completion fish | source; complete -C "harepost send --backoff e"`)
}
