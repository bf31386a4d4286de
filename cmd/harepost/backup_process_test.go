package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/backup"
)

const testAdminToken = "a-long-and-secret-token"

func operatorOf(t *testing.T, url string) user {
	return user{t, []string{"HAREPOST_URL=" + url, "HAREPOST_ADMIN_TOKEN=" + testAdminToken}}
}

// Backups of a server under load: each is sound, and a server on what is restored
// of it knows every delivery that was acknowledged before the backup began.
func TestBackupsUnderLoadHoldEverything(t *testing.T) {
	t.Parallel()
	s := startSiege(t, "--admin-token", testAdminToken)
	s.load(8, 10*time.Millisecond)
	admin := operatorOf(t, s.url)
	dir := t.TempDir()
	var before [][]string
	for i := range 3 {
		for range 20 {
			s.acknowledged()
		}
		before = append(before, s.ledger.acknowledged())
		admin.prints("as of log index", exitOK, "backup", filepath.Join(dir, fmt.Sprint(i, ".tar")))
	}
	s.rest()
	s.drain()
	s.report(s.audit()) // and nothing was lost or repeated for it

	for i, ids := range before {
		file, data := filepath.Join(dir, fmt.Sprint(i, ".tar")), filepath.Join(dir, fmt.Sprint("data", i))
		admin.prints("sound", exitOK, "check", file)
		admin.prints("as of log index", exitOK, "restore", file, data)
		admin.prints("sound", exitOK, "check", data)
		restored := startServer(t, "--dev", "--data-dir", data)
		api := newAPIClient(t)
		for _, id := range ids {
			req, err := http.NewRequest("GET", restored.URL+"/v1/deliveries/"+id, nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Authorization", "Bearer "+s.key)
			resp, err := api.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			documented(t, "GET", "/v1/deliveries/"+id, resp, text)
			if resp.StatusCode != http.StatusOK {
				t.Fatalf("%s was acknowledged before backup %d began: %s", id, i, resp.Status)
			}
		}
		t.Logf("backup %d holds all of %d", i, len(ids))
		if status := restored.stop(); status != exitOK {
			t.Errorf("status %d", status)
		}
	}
}

// The server is killed in the middle of a backup. What the client has is no
// backup, and the server's next life knows nothing of it.
func TestKillDuringABackup(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--dev", "--admin-token", testAdminToken)
	u := newUser(t, s.URL, s.devKey())
	body := noise(800_000) // in all more than the sockets hold, and it must not compress
	file := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for i := range 20 {
		ids = append(ids, u.sent(exitOK, fmt.Sprintf("http://127.0.0.1:19999/%d", i), "--delay", "1h", "-d", "@"+file))
	}
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testAdminToken)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatal(resp, err)
	}
	documented(t, "GET", "/v1/backup", resp, nil)
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	unfinished := filepath.Join(s.DataDir, backupTemporary)
	if _, err := os.Stat(unfinished); err != nil {
		t.Fatalf("no backup is under way: %v", err)
	}
	s.kill9()
	rest, err := io.ReadAll(resp.Body)
	if err == nil {
		t.Error("the answer ended as if it were whole")
	}
	if _, err := backup.Read(io.MultiReader(bytes.NewReader(first), bytes.NewReader(rest)), nil); err == nil {
		t.Error("what came passes for a backup")
	}

	s = startServer(t, "--dev", "--admin-token", testAdminToken, "--data-dir", s.DataDir)
	if _, err := os.Stat(unfinished); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the next life left %s: %v", unfinished, err)
	}
	u = newUser(t, s.URL, s.devKey())
	for _, id := range ids {
		u.prints("queued", exitOK, "deliveries", "get", id)
	}
	operatorOf(t, s.URL).prints("as of log index", exitOK, "backup", filepath.Join(t.TempDir(), "x.tar"))
}

// A backup that does not arrive whole leaves no file, under whichever name, and
// one that was there before stays as it was.
func TestABackupThatBreaksOffLeavesNoFile(t *testing.T) {
	var whole bytes.Buffer
	w, err := backup.NewWriter(&whole, backup.Manifest{Index: 7})
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Repeat("x", 100_000)
	if err := errors.Join(w.Add("state/a", int64(len(text)), strings.NewReader(text)), w.Close()); err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole.Bytes())
	flipped[50_000] ^= 4
	answers := map[string]http.HandlerFunc{
		"cut off, as if that were the end": func(w http.ResponseWriter, _ *http.Request) { w.Write(whole.Bytes()[:50_000]) },
		"broken off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", fmt.Sprint(whole.Len()))
			w.Write(whole.Bytes()[:50_000])
		},
		"flipped": func(w http.ResponseWriter, _ *http.Request) { w.Write(flipped) },
		"refused": func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusConflict)
			io.WriteString(w, `{"error":"a backup is already running"}`)
		},
	}
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(answer)
			defer server.Close()
			dir := t.TempDir()
			old := filepath.Join(dir, "old.tar")
			if err := os.WriteFile(old, []byte("the old one"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, args := range [][]string{{"backup", filepath.Join(dir, "new.tar")}, {"backup", "--force", old}} {
				var out, errOut bytes.Buffer
				sh := &shell{ctx: context.Background(), in: strings.NewReader(""), out: &out, err: &errOut}
				t.Setenv("HAREPOST_URL", server.URL)
				t.Setenv("HAREPOST_ADMIN_TOKEN", testAdminToken)
				if status := run(sh, args); status == exitOK {
					t.Errorf("%q: status 0\n%s", args, out.String())
				}
				t.Log(strings.TrimSpace(errOut.String()))
			}
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != 1 {
				t.Errorf("left: %v, %v", entries, err)
			}
			if b, _ := os.ReadFile(old); string(b) != "the old one" {
				t.Errorf("the old backup is now %d bytes", len(b))
			}
		})
	}
}

// A damaged backup is not restored, and nothing of it is left.
func TestADamagedBackupIsNotRestored(t *testing.T) {
	s := startServer(t, "--dev", "--admin-token", testAdminToken)
	u := newUser(t, s.URL, s.devKey())
	u.sent(exitOK, "http://127.0.0.1:19999/x", "--delay", "1h", "-d", "precious")
	dir := t.TempDir()
	file := filepath.Join(dir, "x.tar")
	admin := operatorOf(t, s.URL)
	admin.runs(exitOK, "backup", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	i := bytes.Index(whole, []byte("precious"))
	if i < 0 {
		i = len(whole) / 2 // compressed
	}
	damaged := bytes.Clone(whole)
	damaged[i] ^= 1
	for name, b := range map[string][]byte{"flipped": damaged, "cut": whole[:len(whole)*2/3]} {
		bad := filepath.Join(dir, name)
		if err := os.WriteFile(bad, b, 0o600); err != nil {
			t.Fatal(err)
		}
		admin.prints("damaged", exitFailed, "check", bad)
		admin.prints("damaged", exitFailed, "restore", bad, filepath.Join(dir, "made"))
		for _, left := range []string{"made", "made" + restoringSuffix} {
			if _, err := os.Stat(filepath.Join(dir, left)); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s is there: %v", name, left, err)
			}
		}
	}
	admin.prints("not empty", exitUsage, "restore", file, dir)
	admin.prints("as of log index", exitOK, "restore", file, filepath.Join(dir, "made"))
}
