package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The account of --dev is the same for as long as it exists, with its deliveries,
// whatever becomes of its key and of the file that has it. Where it is another
// key, or another account, that is said.
func TestTheDevAccountOutlivesItsKey(t *testing.T) {
	t.Parallel()
	data := filepath.Join(t.TempDir(), "data")
	file := filepath.Join(data, devAccountFile)
	start := func() *serverProcess {
		t.Helper()
		return startServer(t, "--dev", "--data-dir", data, "--admin-token", testAdminToken)
	}
	kept := func() devAccount {
		t.Helper()
		a, err := readDevAccount(file)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	s := start()
	first, key := kept(), s.devKey()
	id := s.send(key, "http://127.0.0.1:1024/")
	_, text := s.request(http.MethodGet, "/v1/keys", key, "")
	var keys struct{ Data []struct{ ID string } }
	if err := json.Unmarshal([]byte(text), &keys); err != nil || len(keys.Data) != 1 {
		t.Fatalf("%v in %s", err, text)
	}
	s.request(http.MethodPost, "/v1/keys", key, "")
	if status, text := s.request(http.MethodDelete, "/v1/keys/"+keys.Data[0].ID, key, ""); status != http.StatusNoContent {
		t.Fatalf("revoked: %d %s", status, text)
	}
	s.stop()

	same := func(why, note string) {
		t.Helper()
		s := start()
		now := s.devKey()
		if status, text := s.request(http.MethodGet, "/v1/deliveries/"+id, now, ""); status != http.StatusOK {
			t.Errorf("%s: its delivery: %d %s", why, status, text)
		}
		if a := kept(); a.AccountID != first.AccountID || a.APIKey != now || (now == key) != (note == "") {
			t.Errorf("%s: the file has %+v, %s was printed, it was %s; want account %s", why, a, now, key, first.AccountID)
		}
		if text := s.stdout.String(); !strings.Contains(text, note) || note == "" && strings.Contains(text, "acc_") {
			t.Errorf("%s: %q is not said in\n%s", why, note, text)
		}
		if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: the file with the key: %v, %v", why, info, err)
		}
		if _, text := s.request(http.MethodGet, "/v1/accounts", testAdminToken, ""); strings.Count(text, `"account_id"`) != 1 {
			t.Errorf("%s: there are others: %s", why, text)
		}
		key = now
		s.stop()
	}
	same("its key was revoked", "The key of "+first.AccountID+" was revoked")
	same("and then not", "")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	same("restored, which the file is not", "There was no dev-account.json beside the account dev ("+first.AccountID+")")
	stale := devAccount{AccountID: "acc_0000000000000", APIKey: "hp_live_00000000000000000000000000000000"}
	if err := writeDevAccount(file, stale); err != nil {
		t.Fatal(err)
	}
	same("restored, beside the file of another", "The account acc_0000000000000, which dev-account.json named, does not exist any more: this is a new key of "+first.AccountID)

	s = start()
	if status, text := s.request(http.MethodDelete, "/v1/accounts/"+first.AccountID, testAdminToken, ""); status != http.StatusNoContent && status != http.StatusAccepted {
		t.Fatalf("deleted: %d %s", status, text)
	}
	s.stop()
	s = start()
	if status, text := s.request(http.MethodGet, "/v1/deliveries", s.devKey(), ""); status != http.StatusOK {
		t.Errorf("the new account's key: %d %s", status, text)
	}
	want := "The account " + first.AccountID + ", which dev-account.json named, does not exist any more: this is a new account"
	if text := s.stdout.String(); !strings.Contains(text, want) || kept().AccountID == first.AccountID {
		t.Errorf("%q is not said in\n%s", want, text)
	}
}

// What --dev prints to be pasted works as it is, however the API is reached.
func TestTheCurlLineOfDevWorks(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed")
	}
	ca := newAuthority(t)
	tls := func(host string) []string {
		cert, key := ca.pairFor(ca.sign(host, time.Now().Add(time.Hour)))
		dir := filepath.Join(t.TempDir(), "it's here")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(dir, "cert.pem"), cert)
		writeFile(t, filepath.Join(dir, "key.pem"), key)
		return []string{"--tls-cert", filepath.Join(dir, "cert.pem"), "--tls-key", filepath.Join(dir, "key.pem")}
	}
	f := func(name string, args ...string) {
		t.Helper()
		s := startServer(t, append([]string{"--dev"}, args...)...)
		s.devKey()
		eventually(t, `"sign":true}'`, s.stdout.String)
		_, text, _ := strings.Cut(s.stdout.String(), "Send in another:")
		cmd := exec.CommandContext(t.Context(), "sh", "-c", text)
		cmd.Env = append(cleanEnvironment(), "no_proxy=*")
		answer, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(answer), `"queue_id":"hr_`) {
			t.Errorf("%s: %v: %s\nafter%s", name, err, answer, text)
		}
		s.stop()
	}
	f("over TCP")
	f("over TCP and a Unix socket", "--unix-socket", filepath.Join(socketDir(t), "api.sock"))
	f("over a Unix socket", "--listen", "", "--unix-socket", filepath.Join(socketDir(t), "our api.sock"))
	f("over TLS", tls("127.0.0.1")...)
	f("over TLS with a name", tls("harepost.example")...)
	f("over TLS with any name", tls("*.harepost.example")...)
}
