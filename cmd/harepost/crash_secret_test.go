package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/harepost/harepost/client/webhook"
	"github.com/harepost/harepost/engine/account"
)

// A shop is an account of its own, and the secrets that its receivers know.
type shop struct {
	w       *casualty
	name    string
	key     string
	secrets []string // all that are live, the newest first
}

func (w *casualty) shop(name string) *shop {
	w.t.Helper()
	made := w.until("POST", "/v1/accounts", fmt.Sprintf(`{"name":%q}`, name), func(code int, _ map[string]any) bool { return code == http.StatusCreated })
	return &shop{w, name, made["api_key"].(string), []string{made["signing_secret"].(string)}}
}

// as makes one request of the shop's that must be answered with status.
func (s *shop) as(method, path, body string, status int) map[string]any {
	s.w.t.Helper()
	c := s.w.trace(method, path, s.key, body, nil)
	if c.status != status {
		s.w.t.Fatalf("%s: %s %s: %d %v", s.name, method, path, c.status, c.answer)
	}
	return c.answer
}

func (s *shop) current() string {
	s.w.t.Helper()
	return s.as("GET", "/v1/signing-secret", "", http.StatusOK)["signing_secret"].(string)
}

const rotation = `{"overlap_seconds":86400}`

// signs sends one signed delivery: every live secret must have signed it, and no
// other.
func (s *shop) signs() {
	s.w.t.Helper()
	const body = "to be signed"
	id := s.as("POST", "/v1/send", sendBody(s.w.target("/signed"), fmt.Sprintf(`"body":%q,"sign":true`, body)), http.StatusAccepted)["queue_id"].(string)
	until(s.w.t, "the signed delivery arrives", func() (bool, string) { return len(s.w.arrivals(id)) > 0, id })
	header := s.w.arrivals(id)[0].header
	for i, secret := range s.secrets {
		if err := webhook.Verify(header, []byte(body), []string{secret}, -1, time.Now()); err != nil {
			s.w.t.Errorf("%s: of %d live secrets, the one that is %d rotations old: %v", s.name, len(s.secrets), i, err)
		}
	}
	if n := strings.Count(header.Get("X-Harepost-Signature"), "v1="); n != len(s.secrets) {
		s.w.t.Errorf("%s: %d secrets have signed, want %d", s.name, n, len(s.secrets))
	}
}

// rotates rotates the secret, and whatever comes of that is noted by found.
func (s *shop) rotates() call {
	return s.w.trace("POST", "/v1/signing-secret/rotate", s.key, rotation, nil)
}

// found looks which secret is in force after a rotation that ended as c: the one
// that was answered with; without an answer a new one, or the one before. It
// reports whether it is a new one.
func (s *shop) found(c call) (made bool) {
	s.w.t.Helper()
	now := s.current()
	made = !slices.Contains(s.secrets, now)
	switch answered, _ := c.answer["signing_secret"].(string); {
	case c.status == http.StatusOK && (now != answered || !made):
		s.w.t.Errorf("%s: answered with one secret, in force is another; new: %v", s.name, made)
	case c.status != http.StatusOK && c.status != 0:
		s.w.t.Errorf("%s: %d %v", s.name, c.status, c.answer)
	case c.status == 0 && !made && now != s.secrets[0]:
		s.w.t.Errorf("%s: without an answer, an older secret than the last is in force", s.name)
	}
	if made {
		s.secrets = append([]string{now}, s.secrets...)
	}
	return made
}

// A kill in the middle of rotations, of many accounts at once since each takes
// only a moment: the secret that was answered with is the one that is in force;
// without an answer it is a new one or the one before. Those from before still
// sign, in either case.
func TestKillDuringARotation(t *testing.T) {
	t.Parallel()
	w := startCasualty(t)
	shops := make([]*shop, 12)
	for i := range shops {
		shops[i] = w.shop(fmt.Sprint("shop ", i))
	}
	ended := make([]call, len(shops))
	began := time.Now()
	race(len(shops), func(i int) { ended[i] = shops[i].rotates() })
	took := max(time.Since(began), 2*time.Millisecond)
	for i, s := range shops {
		s.found(ended[i])
	}

	answered, unanswered, kept := 0, 0, 0
	w.kills("a rotation", 4, func(round int) (inside bool) {
		for i, s := range shops {
			if len(s.secrets) == account.MostSecrets {
				shops[i] = w.shop(fmt.Sprint("shop ", i, " from round ", round))
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			race(len(shops), func(i int) { ended[i] = shops[i].rotates() })
		}()
		w.moment(took)
		w.kill()
		<-done
		w.start()
		for i, s := range shops {
			made := s.found(ended[i])
			s.signs()
			switch c := ended[i]; {
			case c.status != 0:
				answered++
			case c.wrote:
				inside = true
				unanswered++
				if made {
					kept++
				}
			}
		}
		return inside
	})
	t.Logf("%d rotations were answered before a kill, %d were not, and %d of these had been made", answered, unanswered, kept)

	// As many may be live as the server says, whatever the kills did.
	s := shops[0]
	for len(s.secrets) < account.MostSecrets {
		s.found(s.rotates())
	}
	if c := s.rotates(); c.status != http.StatusBadRequest {
		t.Errorf("with %d live secrets another rotation gets %d", len(s.secrets), c.status)
	}
	s.signs()
	w.endsSound()
}

// keyLine is a new line for --encryption-key-file.
func keyLine(t *testing.T, id string) string {
	t.Helper()
	r := runProcess(t, nil, "encryption-key", "--id", id)
	if r.Status != exitOK {
		t.Fatalf("status %d: %s", r.Status, r.Stderr)
	}
	return r.Stdout
}

// Kills while a new master key takes over, at the start and under load: what was
// sealed under the old key stays readable, and once the new one has begun to
// serve the old one is not needed any more.
func TestKillDuringAMasterKeyRotation(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "keys")
	writeKeys := func(lines ...string) {
		if err := os.WriteFile(file, []byte(strings.Join(lines, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := keyLine(t, "k0")
	writeKeys(old)
	w := startCasualty(t, "--encryption-key-file", file)
	for i := range 20 { // a data key each
		w.shop(fmt.Sprint("neighbour ", i))
	}
	secret := w.get("/v1/signing-secret")["signing_secret"]
	bodies := map[string]string{} // by id
	send := func(n int) {
		for i := range n {
			body := fmt.Sprintf("sealed %d %d", len(bodies), i)
			if c := w.trace("POST", "/v1/send", w.key, sendBody(w.target("/later"), fmt.Sprintf(`"body":%q,"delay_ms":3600000`, body)), nil); c.status == http.StatusAccepted {
				bodies[c.answer["queue_id"].(string)] = body
			}
		}
	}
	readable := func(when string) {
		t.Helper()
		if got := w.get("/v1/signing-secret")["signing_secret"]; got != secret {
			t.Errorf("%s: the signing secret is another one", when)
		}
		for id, body := range bodies {
			if d := w.get("/v1/deliveries/" + id + "?include=payload"); d["body"] != body {
				t.Fatalf("%s: %s reads %v, want %q", when, id, d["body"], body)
			}
		}
	}
	send(20)
	w.kills("the start with a new master key", 3, func(round int) (inside bool) {
		began := time.Now()
		w.kill()
		w.start()
		took := time.Since(began)
		w.kill()

		line := keyLine(t, fmt.Sprintf("k%d", round+1))
		writeKeys(line, old)
		inside = w.startAndKill(time.Duration(w.random.Int64N(int64(took))))
		w.start()
		readable("after a kill at the start")
		stop := w.freshSends(2, "/beside")
		send(10)
		w.kill() // it has served once, under load
		w.start()
		fresh := stop()
		readable("after a kill under load")
		w.awaited("sent beside the rotation", fresh)
		w.kill()

		writeKeys(line)
		w.start()
		readable("without the old master key")
		old = line
		return inside
	})
	w.endsSound()
}

// startAndKill starts a life and kills it after a while, whatever it is doing by
// then. It reports whether it was before it served.
func (w *casualty) startAndKill(after time.Duration) (before bool) {
	w.t.Helper()
	w.life.Add(1)
	logs := killedStart(w.t, w.flags, after)
	w.settle()
	return !bytes.Contains(logs, []byte(`"serving"`))
}
