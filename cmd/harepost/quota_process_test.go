package main

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The data directory of a server with a limit stays within it while more than
// that goes through: what finished makes room. What is pending does not, and then
// sends are refused until it has been delivered.
func TestMaxDataBytes(t *testing.T) {
	t.Parallel()
	const limit = leastDataBytes
	up := startListen(t)
	s := startServer(t, "--dev", "--max-data-bytes", fmt.Sprint(limit))
	key := s.devKey()
	api := newAPIClient(t)
	// A hundred sends of 60 KB that do not compress, in one request.
	batch := func(target string) (accepted int, refusal string) {
		t.Helper()
		noise := make([]byte, 45<<10)
		rand.Read(noise)
		body := base64.StdEncoding.EncodeToString(noise)
		var lines strings.Builder
		for i := range 100 {
			fmt.Fprintf(&lines, `{"target":%q,"body":"%d %s","delivery":{"max_attempts":25,"base_delay_ms":1000,"max_delay_ms":1000}}`+"\n", target, i, body[i:])
		}
		req, err := http.NewRequest("POST", s.URL+"/v1/send/batch", strings.NewReader(lines.String()))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+key)
		req.Header.Set("Content-Type", "application/x-ndjson")
		resp, err := api.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusAccepted {
			t.Fatalf("%s %s %v", resp.Status, answer, err)
		}
		documented(t, http.MethodPost, "/v1/send/batch", resp, answer)
		if i := strings.Index(string(answer), `"storage limit reached"`); i >= 0 {
			refusal = string(answer[i:min(i+200, len(answer))])
		}
		return strings.Count(string(answer), `"queue_id"`), refusal
	}
	give := time.After(6 * processPatience) // for all of the waits together
	wait := func(what string) {
		select {
		case <-time.After(200 * time.Millisecond): // the keeper's second is the real one
		case <-give:
			t.Fatalf("%s: not in time\n%s", what, s.stderr.String())
		}
	}
	u := newUser(t, s.URL, key)
	sent := 0
	// Nothing is delivered: it is full when that is all there is.
	u.runs(exitOK, "destinations", "pause", up.url)
	refusal := ""
	// One refusal may be for the moment only, until the log is cut.
	for inARow := 0; inARow < 25; inARow++ {
		var n int
		if n, refusal = batch(up.url); n > 0 || refusal == "" {
			inARow = -1
		}
		sent += n * 60 << 10
		wait("refusals that last, when nothing is finished")
	}
	if !strings.Contains(refusal, "nothing was accepted") || !strings.Contains(refusal, "507") {
		t.Errorf("the refusal says %s", refusal)
	}
	u.prints("507|storage limit reached", exitNotNow, "send", up.url, "-d", "x")
	u.runs(exitOK, "destinations", "resume", up.url)
	for sent < 2*limit {
		n, _ := batch(up.url)
		if sent += n * 60 << 10; n == 0 {
			wait("room for what follows the finished")
		}
	}
	for !strings.Contains(s.stderr.String(), "for their size") {
		wait("the log says what was dropped")
	}
	// For moments there is more: what is dropped, and not yet given back.
	for directoryBytes(t, s.DataDir) > 2*limit {
		wait("the directory is near its limit")
	}
	// What finished makes room for what does not, too.
	u.runs(exitOK, "destinations", "pause", up.url)
	for taken := 0; taken < 2; {
		n, _ := batch(up.url)
		if taken += n / 100; n == 0 {
			wait("room for what is pending")
		}
	}
}

func directoryBytes(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // files come and go
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}
