package api

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/harepost/harepost/engine/backup"
)

// askBackup begins GET /v1/backup on a connection of its own.
func (s *testServer) askBackup() (*http.Response, io.Closer) {
	s.t.Helper()
	conn := s.dial()
	fmt.Fprintf(conn, "GET /v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", adminToken)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	documented(s.t, "GET", "/v1/backup", resp, nil)
	return resp, conn
}

// noise is text that the state's compression cannot make small.
func noise(bytes int) string {
	raw := make([]byte, bytes/2)
	rand.Read(raw)
	return hex.EncodeToString(raw)
}

func TestBackupIsWhole(t *testing.T) {
	s, key := startDev(t)
	good := startReceiver(t, 200)
	for range 20 {
		s.sendOK(key, `{"target":"`+good.url+`"}`)
	}
	resp, conn := s.askBackup()
	defer conn.Close()
	if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/x-tar" ||
		!strings.HasPrefix(resp.Header.Get("Content-Disposition"), `attachment; filename="harepost-2`) || resp.Header.Get("X-Request-Id") == "" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	seen, err := backup.Read(resp.Body, nil)
	if err != nil {
		t.Fatal(err)
	}
	if seen.Manifest.Index < 20 || seen.Manifest.Version != s.o.Version || seen.Files < 4 {
		t.Errorf("%+v", seen)
	}
	if a := s.do("HEAD", "/v1/backup", adminToken, ""); a.status != 200 || len(a.body) > 0 {
		t.Errorf("HEAD: %d with %d bytes", a.status, len(a.body))
	}
	s.do("GET", "/v1/backup", key, "").refused(401)
	s.do("GET", "/v1/backup", "", "").refused(401)
}

// A client that goes away in the middle leaves nothing behind: the next may begin.
func TestBackupOfAClientThatGoesAway(t *testing.T) {
	s, key := startDev(t)
	good := startReceiver(t, 200)
	for range 12 { // more than what sockets hold
		s.sendOK(key, fmt.Sprintf(`{"target":%q,"body":%q}`, good.url, noise(640_000)))
	}
	resp, conn := s.askBackup()
	if _, err := io.CopyN(io.Discard, resp.Body, 1000); err != nil {
		t.Fatal(err)
	}
	if a := s.do("GET", "/v1/backup", adminToken, ""); a.status != 409 || !strings.Contains(a.body, "already running") {
		t.Fatalf("beside another: %d %s", a.status, a.body)
	}
	conn.Close()
	eventually(t, "the backup has ended", func() bool { return s.do("GET", "/v1/backup", adminToken, "").status == 200 })
}

// What breaks off in the middle is not taken for the end.
func TestBackupThatBreaksOff(t *testing.T) {
	s, key := startDev(t)
	good := startReceiver(t, 200)
	for range 12 {
		s.sendOK(key, fmt.Sprintf(`{"target":%q,"body":%q}`, good.url, noise(640_000)))
	}
	resp, conn := s.askBackup()
	defer conn.Close()
	first := make([]byte, 1000)
	if _, err := io.ReadFull(resp.Body, first); err != nil {
		t.Fatal(err)
	}
	s.cancel() // as a shutdown that has run out of time
	rest, err := io.ReadAll(resp.Body)
	if err == nil {
		t.Fatal("the answer ended as if it were whole")
	}
	if _, err := backup.Read(io.MultiReader(bytes.NewReader(first), bytes.NewReader(rest)), nil); !errors.Is(err, backup.ErrDamaged) {
		t.Errorf("what came: %v", err)
	}
}
