package main

import (
	"strings"
	"testing"
)

// A variable that was read from a file with another system's line ends is a
// mistake at this end: nobody should go and look at the server.
func TestAKeyWithALineBreakIsAMistakeInTheCommand(t *testing.T) {
	f := func(variable, flag string, args ...string) {
		t.Helper()
		t.Setenv("HAREPOST_API_KEY", "hp_live_x\r")
		t.Setenv("HAREPOST_ADMIN_TOKEN", "sesame\n")
		status, _, stderr := runHere(t, args...)
		if status != exitUsage || !strings.Contains(stderr, variable) || !strings.Contains(stderr, flag) || !strings.Contains(stderr, "line break") {
			t.Errorf("%q: status %d\n%s", args, status, stderr)
		}
		if strings.Contains(stderr, "hp_live_x") || strings.Contains(stderr, "sesame") {
			t.Errorf("%q: the key is shown\n%s", args, stderr)
		}
	}
	f("HAREPOST_API_KEY", "--api-key", "deliveries", "list")
	f("HAREPOST_API_KEY", "--api-key", "send", "https://a.example/")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "accounts", "list")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "accounts", "create", "shop")
	f("HAREPOST_ADMIN_TOKEN", "--admin-token", "backup", t.TempDir()+"/x.tar")
}
