package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// A user is somebody at a shell, whose commands find the server and the key in
// the environment.
type user struct {
	t   *testing.T
	env []string
}

func newUser(t *testing.T, url, key string) user {
	return user{t, []string{"HAREPOST_URL=" + url, "HAREPOST_API_KEY=" + key}}
}

// runs runs a command that has to end with status, and returns what it printed.
func (u user) runs(status int, args ...string) processResult {
	u.t.Helper()
	r := runProcess(u.t, u.env, args...)
	if r.Status != status {
		u.t.Errorf("%q: status %d, want %d\n%s%s", args, r.Status, status, r.Stdout, r.Stderr)
	}
	return r
}

// prints is runs, and the output has to hold every want.
func (u user) prints(wants string, status int, args ...string) processResult {
	u.t.Helper()
	r := u.runs(status, args...)
	for want := range strings.SplitSeq(wants, "|") {
		if !strings.Contains(r.Stdout+r.Stderr, want) {
			u.t.Errorf("%q: %q is not in\n%s%s", args, want, r.Stdout, r.Stderr)
		}
	}
	return r
}

func TestAFirstAccountByTheCommandLine(t *testing.T) {
	s := startServer(t, "--admin-token", "a-long-and-secret-token", "--open-signup=false")
	admin := user{t, []string{"HAREPOST_URL=" + s.URL, "HAREPOST_ADMIN_TOKEN=a-long-and-secret-token"}}
	r := admin.runs(exitOK, "accounts", "create", "My team", "--json")
	var made struct {
		APIKey        string `json:"api_key"`
		SigningSecret string `json:"signing_secret"`
		Name          string `json:"name"`
	}
	if err := json.Unmarshal([]byte(r.Stdout), &made); err != nil || made.Name != "My team" {
		t.Fatalf("%v in\n%s", err, r.Stdout)
	}
	u := newUser(t, s.URL, made.APIKey)
	u.prints("DOMAIN", exitOK, "domains", "list")
	admin.prints("hp_live_|whsec_|not shown again", exitOK, "accounts", "create", "Another")

	nobody := newUser(t, s.URL, "hp_live_00000000000000000000000000000000")
	nobody.prints("401|HAREPOST_API_KEY|keys create", exitNotAllowed, "domains", "list")
	nobody.prints("401|HAREPOST_ADMIN_TOKEN", exitNotAllowed, "accounts", "create", "Mine")
}

func TestAnOperatorsDayByTheCommandLine(t *testing.T) {
	l := startListen(t)
	s := startServer(t, "--dev", "--admin-token", "a-long-and-secret-token", "--rate-limit", "100")
	admin := user{t, []string{"HAREPOST_URL=" + s.URL, "HAREPOST_ADMIN_TOKEN=a-long-and-secret-token"}}
	made := admin.runs(exitOK, "accounts", "create", "shop", "--json")
	var shop struct {
		ID  string `json:"account_id"`
		Key string `json:"api_key"`
	}
	if err := json.Unmarshal([]byte(made.Stdout), &shop); err != nil {
		t.Fatal(err)
	}
	u := newUser(t, s.URL, shop.Key)
	admin.prints(shop.ID+"|shop|active|default|dev", exitOK, "accounts", "list")
	admin.prints(shop.ID+"|shop|created", exitOK, "accounts", "get", shop.ID)
	admin.prints("1,200", exitOK, "accounts", "set", shop.ID, "--rate-limit", "1200", "--name", "The shop")
	admin.prints("no limit|The shop", exitOK, "accounts", "set", shop.ID, "--rate-limit", "0")
	admin.prints("default", exitOK, "accounts", "set", shop.ID, "--default-rate-limit")
	admin.prints("suspended", exitOK, "accounts", "set", shop.ID, "--suspend")
	u.prints("403|suspended", exitNotAllowed, "send", l.url, "-d", "x")
	admin.prints("active", exitOK, "accounts", "set", shop.ID, "--resume")
	u.runs(exitOK, "send", l.url, "-d", "x", "--wait")
	admin.prints("400", exitRefused, "accounts", "set", shop.ID, "--name", "")

	old := strings.TrimSpace(u.runs(exitOK, "secret", "show").Stdout)
	rotated := strings.TrimSpace(u.prints("sign until", exitOK, "secret", "rotate", "--overlap", "1h").Stdout)
	if now := strings.TrimSpace(u.runs(exitOK, "secret", "show").Stdout); rotated == old || now != rotated {
		t.Errorf("%q became %q, and %q is shown", old, rotated, now)
	}

	admin.prints("--yes", exitUsage, "accounts", "delete", shop.ID)
	u.runs(exitOK, "deliveries", "list")
	admin.prints("is deleted", exitOK, "accounts", "delete", shop.ID, "--yes")
	u.runs(exitNotAllowed, "deliveries", "list")
	admin.prints("404", exitNotFound, "accounts", "get", shop.ID)
	u.prints("no admin token", exitUsage, "accounts", "list")
	user{t, []string{"HAREPOST_URL=" + s.URL, "HAREPOST_ADMIN_TOKEN=another"}}.prints("401|HAREPOST_ADMIN_TOKEN", exitNotAllowed, "accounts", "list")
	l.end(t)
}

func TestARevokedKeyIsRefused(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	made := u.prints("hp_live_|not shown again", exitOK, "keys", "create")
	id, key := strings.Fields(made.Stdout)[0], strings.Fields(made.Stdout)[1]
	u.prints(id+"|LAST USED", exitOK, "keys", "list")
	newUser(t, s.URL, key).runs(exitOK, "deliveries", "list")
	u.prints(id+" is revoked", exitOK, "keys", "revoke", id)
	newUser(t, s.URL, key).runs(exitNotAllowed, "deliveries", "list")
	u.runs(exitNotFound, "keys", "revoke", id)
}

func TestADomainIsPendingUntilItsRecordIsPublished(t *testing.T) {
	zone := startDNS(t)
	s := startServer(t, "--dev", "--dns-resolver", zone.address)
	u := newUser(t, s.URL, s.devKey())
	r := u.runs(exitOK, "domains", "add", "your-app.com", "--json")
	var added struct {
		Record struct{ Name, Value string }
	}
	if err := json.Unmarshal([]byte(r.Stdout), &added); err != nil || added.Record.Value == "" {
		t.Fatalf("%v in\n%s", err, r.Stdout)
	}
	u.prints("_harepost-challenge.your-app.com|TXT|"+added.Record.Value, exitOK, "domains", "add", "your-app.com")
	u.prints("still pending", exitNotNow, "domains", "verify", "your-app.com")
	u.prints("pending", exitOK, "domains", "list")
	u.prints("not verified", exitNotAllowed, "send", "https://your-app.com/hook", "-d", "{}")

	zone.publish(added.Record.Name, added.Record.Value)
	// The pending answer may be cached for some seconds.
	eventually(t, "is verified", func() string {
		return runProcess(t, u.env, "domains", "verify", "your-app.com").Stdout
	})
	u.prints("your-app.com|verified", exitOK, "domains", "list")
	u.prints("is verified|added", exitOK, "domains", "get", "your-app.com")
	u.prints("400", exitRefused, "domains", "add", "*.your-app.com")
	u.prints("404", exitNotFound, "domains", "verify", "never-added.com")
	u.prints("is removed", exitOK, "domains", "delete", "your-app.com")
	u.prints("404", exitNotFound, "domains", "get", "your-app.com")
}

// A zone answers TXT lookups of one name on loopback.
type zone struct {
	address string
	record  atomic.Pointer[dns.TXT]
}

func startDNS(t *testing.T) *zone {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	z := &zone{address: conn.LocalAddr().String()}
	srv := &dns.Server{PacketConn: conn, Handler: z}
	done := make(chan struct{})
	go func() { defer close(done); srv.ActivateAndServe() }()
	t.Cleanup(func() { srv.Shutdown(); conn.Close(); <-done })
	return z
}

func (z *zone) publish(name, value string) {
	z.record.Store(&dns.TXT{
		Hdr: dns.RR_Header{Name: dns.Fqdn(name), Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1},
		Txt: []string{value},
	})
}

// ServeDNS is part of dns.Handler.
func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg).SetReply(q)
	if r := z.record.Load(); r != nil && q.Question[0].Qtype == dns.TypeTXT && strings.EqualFold(q.Question[0].Name, r.Hdr.Name) {
		m.Answer = append(m.Answer, r)
	} else if !strings.HasSuffix(strings.ToLower(q.Question[0].Name), "your-app.com.") {
		m.Rcode = dns.RcodeNameError
	}
	w.WriteMsg(m)
}

func TestSendingByTheCommandLine(t *testing.T) {
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	secret := signingSecret(t, s)
	l := startListen(t, "--secret", secret, "--json")

	body := `{"order": "ord_1"}` + "\n"
	file := filepath.Join(t.TempDir(), "body.json")
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	r := u.prints("delivered|200|ATTEMPT", exitOK, "send", l.url+"/orders?x=1", "--data-file", file, "--sign", "--wait",
		"-H", "X-Trace: abc", "-X", "PUT", "--idempotency-key", "ord_1", "--label", "orders", "--metadata", `{"a":1}`)
	id := strings.Fields(r.Stdout)[0]

	var got struct {
		Method, URI string
		Headers     map[string][]string
		Body        []byte `json:"body_base64"`
		Harepost    string `json:"harepost_signature"`
		Standard    string `json:"standard_webhooks_signature"`
	}
	if err := json.Unmarshal([]byte(l.stdout.String()), &got); err != nil {
		t.Fatal(err)
	}
	if got.Method != "PUT" || got.URI != "/orders?x=1" || string(got.Body) != body || got.Harepost != "valid" || got.Standard != "valid" ||
		got.Headers["X-Trace"][0] != "abc" || got.Headers["Content-Type"][0] != "application/json" {
		t.Errorf("received %+v", got)
	}

	u.prints(id+"|duplicate", exitOK, "send", l.url+"/orders?x=1", "--data-file", file, "-X", "PUT", "--idempotency-key", "ord_1")
	u.prints("warning: |Authorization", exitOK, "send", l.url, "-H", "Authorization: Bearer x")
	u.prints(id+"|delivered", exitOK, "deliveries", "get", id)
	u.prints(id, exitOK, "deliveries", "list", "--label", "orders", "--status", "delivered")
	u.prints(`"attempts": [`, exitOK, "deliveries", "get", id, "--json")
	u.prints("X-Trace: abc|"+strings.TrimSpace(body), exitOK, "deliveries", "get", id, "--payload")
	u.prints("whsec_", exitOK, "secret", "show")
	u.prints("queued", exitOK, "send", l.url, "--not-before", "1h", "--expires-at", "2h", "--ignore-retry-after")
	u.prints("expires_at", exitRefused, "send", l.url, "--not-before", "2h", "--expires-at", "1h")
	u.prints("404", exitNotFound, "deliveries", "get", "hr_00000000000000000000000000")
	u.prints("400", exitRefused, "deliveries", "list", "--status", "lost")
	u.prints("400", exitRefused, "send", "https://10.0.0.1/")
	if status := l.end(t); status != exitFailed {
		t.Errorf("listen --secret ended with status %d after unsigned requests, want 1", status)
	}
}

func TestWaitTellsHowADeliveryEnded(t *testing.T) {
	t.Parallel() // it mostly waits
	refusing := startListen(t, "--status", "422")
	failing := startListen(t, "--status", "500")
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	u.prints(`rejected|422|answer to attempt 1|{"error":"refused on purpose"}`, exitUndelivered, "send", refusing.url, "--wait")
	u.prints("dead_letter|500", exitUndelivered, "send", failing.url, "--wait", "--max-attempts", "2", "--base-delay", "100ms")
	r := u.prints("still retrying", exitStillPending, "send", failing.url, "--wait", "--wait-timeout", "300ms", "--base-delay", "1m", "--jitter", "none")
	id := strings.Fields(r.Stdout)[0]
	u.prints(id+"|still retrying", exitStillPending, "deliveries", "get", id, "--wait", "--wait-timeout", "100ms")
	refusing.end(t)
	failing.end(t)
}

func TestListsGoOnWhereTheCursorSays(t *testing.T) {
	l := startListen(t)
	s := startServer(t, "--dev")
	u := newUser(t, s.URL, s.devKey())
	for range 3 {
		u.runs(exitOK, "send", l.url, "-d", "x")
	}
	u.prints("TARGET", exitOK, "deliveries", "list", "--until", "1h")
	if none := u.runs(exitOK, "deliveries", "list", "--until", "1h"); strings.Contains(none.Stdout, "hr_") {
		t.Errorf("none is an hour old:\n%s", none.Stdout)
	}
	all := u.runs(exitOK, "deliveries", "list", "--all", "--json", "--since", "1h")
	if lines := strings.Split(strings.TrimSpace(all.Stdout), "\n"); len(lines) != 3 || !json.Valid([]byte(lines[2])) {
		t.Errorf("--all --json:\n%s", all.Stdout)
	}
	if n := strings.Count(u.runs(exitOK, "deliveries", "list", "--all").Stdout, "\n"); n != 4 {
		t.Errorf("--all printed %d lines, want a head and 3", n)
	}
	first := u.prints("--cursor ", exitOK, "deliveries", "list", "--limit", "2")
	cursor := strings.Fields(first.Stderr[strings.Index(first.Stderr, "--cursor "):])[1]
	second := u.runs(exitOK, "deliveries", "list", "--limit", "2", "--cursor", cursor)
	if a, b := strings.Count(first.Stdout, "hr_"), strings.Count(second.Stdout, "hr_"); a != 2 || b != 1 {
		t.Errorf("pages of %d and %d deliveries, want 2 and 1:\n%s%s", a, b, first.Stdout, second.Stdout)
	}
	l.end(t)
}

func TestAServerThatIsNotThereIsSaidSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + ln.Addr().String()
	ln.Close()
	newUser(t, url, "hp_live_x").prints("no answer from "+url, exitNotNow, "deliveries", "list")
}

// What is sent is what was given, to the byte, from wherever it came.
func TestTheBodyIsSentAsItWasGiven(t *testing.T) {
	text := func(s string) *string { return &s }
	f := func(name string, c sendCmd, stdin string, want any, contentType string) {
		t.Helper()
		got, err := c.build(strings.NewReader(stdin), time.Now())
		if err != nil || got.Body != want || got.Headers["Content-Type"] != contentType {
			t.Errorf("%s: %+v, %v; want body %q and Content-Type %q", name, got, err, want, contentType)
		}
	}
	f("none", sendCmd{}, "unread", nil, "")
	f("empty", sendCmd{Data: text("")}, "", "", "")
	f("JSON with its blanks", sendCmd{Data: text(" {\"a\": 1}\n")}, "", " {\"a\": 1}\n", "application/json")
	f("no JSON", sendCmd{Data: text("a=1")}, "", "a=1", "")
	f("the caller's type", sendCmd{Data: text("{}"), Headers: []string{"content-type: text/x"}}, "", "{}", "")
	file := filepath.Join(t.TempDir(), "body")
	writeFile(t, file, []byte("[2]\n"))
	f("a file", sendCmd{Data: text("@" + file)}, "", "[2]\n", "application/json")
	f("standard input as data", sendCmd{Data: text("-")}, "[1]\n", "[1]\n", "application/json")
	f("standard input with an @", sendCmd{Data: text("@-")}, "[1]\n", "[1]\n", "application/json")
	f("standard input", sendCmd{DataFile: "-"}, "[1]\n", "[1]\n", "application/json")

	if _, err := (&sendCmd{DataFile: "-"}).build(strings.NewReader("\xff"), time.Now()); err == nil {
		t.Error("bytes that JSON cannot carry were taken")
	}
	if _, err := (&sendCmd{DataFile: filepath.Join(t.TempDir(), "absent")}).build(nil, time.Now()); err == nil {
		t.Error("a file that is not there was taken")
	}
}

func TestRateLimitIsNotNow(t *testing.T) {
	l := startListen(t)
	s := startServer(t, "--dev", "--rate-limit", "1")
	u := newUser(t, s.URL, s.devKey())
	u.runs(exitOK, "send", l.url, "-d", "x")
	u.prints("429|try again in", exitNotNow, "send", l.url, "-d", "x")
	l.end(t)
}

func TestCheckFindsASoundDirectorySound(t *testing.T) {
	s := startServer(t, "--dev")
	s.send(s.devKey(), "http://127.0.0.1:1024/")
	locked := runProcess(t, nil, "check", "--data-dir", s.DataDir)
	if locked.Status != exitFailed || !strings.Contains(locked.Stderr, "a server has") {
		t.Errorf("under a running server: status %d\n%s%s", locked.Status, locked.Stdout, locked.Stderr)
	}
	s.kill9()
	for range 2 { // it changes nothing
		r := runProcess(t, nil, "check", "--data-dir", s.DataDir, "--json")
		var report checkReport
		if err := json.Unmarshal([]byte(r.Stdout), &report); err != nil || r.Status != exitOK {
			t.Fatalf("status %d, %v:\n%s%s", r.Status, err, r.Stdout, r.Stderr)
		}
		if report.Log.Entries < 2 || len(report.Damage) != 0 || report.State == nil {
			t.Errorf("%+v", report)
		}
	}
	text := runProcess(t, []string{"HAREPOST_DATA_DIR=" + s.DataDir}, "check")
	if text.Status != exitOK || !strings.Contains(text.Stdout, "sound") {
		t.Errorf("status %d\n%s%s", text.Status, text.Stdout, text.Stderr)
	}
	if r := runProcess(t, nil, "check", "--data-dir", t.TempDir()); r.Status != exitFailed || !strings.Contains(r.Stderr, "is not a data directory") {
		t.Errorf("an empty directory: status %d\n%s%s", r.Status, r.Stdout, r.Stderr)
	}
}

func signingSecret(t *testing.T, s *serverProcess) string {
	t.Helper()
	_, text := s.request("GET", "/v1/signing-secret", s.devKey(), "")
	var answer struct {
		Secret string `json:"signing_secret"`
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return answer.Secret
}
