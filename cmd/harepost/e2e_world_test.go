package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harepost/harepost/api"
	"github.com/harepost/harepost/api/apitest"
)

const worldAdminToken = "the-keeper-of-all-accounts"

// A world is the server as a user meets it: the built program, and around it,
// on loopback, what it meets itself: a name server, a certificate authority,
// and the targets that a test makes with [world.inbox] and [world.target].
// Nothing in it is simulated.
type world struct {
	t      testing.TB
	names  *nameServer
	ca     *authority
	server *serverProcess
	flags  []string
	client *http.Client
}

// startWorld starts the server with flags beside those that it needs to find
// its way about.
func startWorld(t testing.TB, flags ...string) *world {
	t.Helper()
	w := &world{t: t, names: startNameServer(t), ca: newAuthority(t)}
	caFile := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, w.ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	w.flags = append([]string{
		"--admin-token", worldAdminToken,
		"--egress-ca", caFile,
		"--dns-resolver", w.names.addr,
	}, flags...)
	if !hasFlag(flags, "--egress-allow") {
		w.flags = append(w.flags, "--egress-allow", "127.0.0.0/8")
	}
	if !hasFlag(flags, "--data-dir") {
		w.flags = append(w.flags, "--data-dir", filepath.Join(t.TempDir(), "data"))
	}
	w.client = newAPIClient(t)
	w.start()
	return w
}

// newAPIClient is a client with connections of its own, closed with the test.
func newAPIClient(t testing.TB) *http.Client {
	wires := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(wires.CloseIdleConnections)
	return &http.Client{Transport: wires, Timeout: processPatience}
}

// start starts the server, again if it has run before, on the same directory.
func (w *world) start() {
	w.t.Helper()
	w.server = startServer(w.t, w.flags...)
}

// A reply is an answer of the API, read to its end.
type reply struct {
	t      testing.TB
	what   string
	status int
	header http.Header
	body   []byte
}

// call makes one request of the API. headers are "Name: value".
func (w *world) call(t testing.TB, method, path, key, body string, headers ...string) reply {
	t.Helper()
	r, err := w.try(t, method, path, key, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return r
}

// try is call for a server that may not be there.
func (w *world) try(t testing.TB, method, path, key, body string, headers ...string) (reply, error) {
	req, err := http.NewRequestWithContext(t.Context(), method, w.server.URL+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	if key != "" {
		req.Header.Set("Authorization", "Bearer "+key)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := w.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		documented(t, method, path, resp, text)
	}
	return reply{t, method + " " + path, resp.StatusCode, resp.Header, text}, err
}

var theDocument = sync.OnceValues(func() (*apitest.Checker, error) { return apitest.New(api.OpenAPI()) })

// documented holds an answer against the OpenAPI document.
func documented(t testing.TB, method, path string, resp *http.Response, body []byte) {
	t.Helper()
	c, err := theDocument()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Check(method, path, resp.StatusCode, resp.Header, body); err != nil {
		t.Error(err)
	}
}

// want checks the status and that the answer is one JSON object, and returns
// it.
func (r reply) want(status int) map[string]any {
	r.t.Helper()
	if r.status != status {
		r.t.Fatalf("%s: %d %s; want %d", r.what, r.status, r.body, status)
	}
	if got := r.header.Get("Content-Type"); got != "application/json" {
		r.t.Errorf("%s: Content-Type %q", r.what, got)
	}
	var object map[string]any
	if err := strictJSON(r.body, &object); err != nil {
		r.t.Fatalf("%s: %v in %s", r.what, err, r.body)
	}
	return object
}

// refused checks a refusal: its code, its shape, and words that must be in it.
func (r reply) refused(status int, words ...string) map[string]any {
	r.t.Helper()
	object := r.want(status)
	if text, _ := object["error"].(string); text == "" {
		r.t.Errorf("%s: no error in %s", r.what, r.body)
	}
	if detail, has := object["detail"]; has {
		if text, _ := detail.(string); text == "" {
			r.t.Errorf("%s: detail is %v", r.what, detail)
		}
	}
	for _, word := range words {
		if !bytes.Contains(r.body, []byte(word)) {
			r.t.Errorf("%s: %s; want %q in it", r.what, r.body, word)
		}
	}
	return object
}

// strictJSON decodes one JSON value and nothing behind it.
func strictJSON(text []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(text))
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the value")
	}
	return nil
}

// wantKeys checks that an object has exactly these members.
func wantKeys(t testing.TB, what string, object map[string]any, keys ...string) {
	t.Helper()
	var got []string
	for k := range object {
		got = append(got, k)
	}
	slices.Sort(got)
	slices.Sort(keys)
	if !slices.Equal(got, keys) {
		t.Errorf("%s has the members %q, want %q", what, got, keys)
	}
}

// A tenant is an account with its first key.
type tenant struct {
	w      *world
	key    string
	secret string // whsec_...
}

// tenant makes an account.
func (w *world) tenant(t testing.TB, name string) *tenant {
	t.Helper()
	made := w.call(t, "POST", "/v1/accounts", worldAdminToken, `{"name":"`+name+`"}`).want(http.StatusCreated)
	return &tenant{w, made["api_key"].(string), made["signing_secret"].(string)}
}

// verified makes the tenant own a domain, in the way everyone has to.
func (c *tenant) verified(t testing.TB, domain string) *tenant {
	t.Helper()
	added := c.call(t, "POST", "/v1/domains", `{"domain":"`+domain+`"}`).want(http.StatusCreated)
	record := added["record"].(map[string]any)
	c.w.names.txt(record["name"].(string), record["value"].(string))
	c.call(t, "POST", "/v1/domains/verify", `{"domain":"`+domain+`"}`).want(http.StatusOK)
	return c
}

func (c *tenant) call(t testing.TB, method, path, body string, headers ...string) reply {
	t.Helper()
	return c.w.call(t, method, path, c.key, body, headers...)
}

// post queues a delivery to target; fields are further members of the send, as
// JSON. The answer must be a 202.
func (c *tenant) post(t testing.TB, target, fields string, headers ...string) map[string]any {
	t.Helper()
	return c.call(t, "POST", "/v1/send", sendBody(target, fields), headers...).want(http.StatusAccepted)
}

func sendBody(target, fields string) string {
	if fields != "" {
		fields = "," + fields
	}
	return `{"target":"` + target + `"` + fields + `}`
}

// queue is post for who only wants the id.
func (c *tenant) queue(t testing.TB, target, fields string) string {
	t.Helper()
	return c.post(t, target, fields)["queue_id"].(string)
}

// A history is what a lookup says of a delivery.
type history struct {
	QueueID        string          `json:"queue_id"`
	Target         string          `json:"target"`
	Method         string          `json:"method"`
	Status         string          `json:"status"`
	LastStatus     *int            `json:"last_status"`
	IdempotencyKey *string         `json:"idempotency_key"`
	CreatedAt      time.Time       `json:"created_at"`
	UpdatedAt      time.Time       `json:"updated_at"`
	Attempts       []attemptOnFile `json:"attempts"`
	Metadata       json.RawMessage `json:"metadata"`
	Labels         []string        `json:"labels"`
	MaxAttempts    int             `json:"max_attempts"`
	NextAttemptAt  *time.Time      `json:"next_attempt_at"`
	BodyBytes      int             `json:"body_bytes"`

	text string // the whole answer
}

type attemptOnFile struct {
	Attempt       int        `json:"attempt"`
	Outcome       string     `json:"outcome"`
	HTTPStatus    *int       `json:"http_status"`
	LatencyMillis int        `json:"latency_ms"`
	Error         *string    `json:"error"`
	CreatedAt     time.Time  `json:"created_at"`
	StartedAt     time.Time  `json:"started_at"`
	NextAttemptAt *time.Time `json:"next_attempt_at"`
	RemoteIP      *string    `json:"remote_ip"`
	ResponseBody  *string    `json:"response_body"`
	BodyTruncated bool       `json:"response_body_truncated"`
}

// lookup reads a delivery.
func (c *tenant) lookup(t testing.TB, id string) history {
	t.Helper()
	r := c.call(t, "GET", "/v1/deliveries/"+id, "")
	r.want(http.StatusOK)
	h := history{text: string(r.body)}
	if err := json.Unmarshal(r.body, &h); err != nil {
		t.Fatalf("%s: %v in %s", r.what, err, r.body)
	}
	return h
}

// lookupWhen reads a delivery once it is as it should be.
func (c *tenant) lookupWhen(t testing.TB, id, what string, is func(history) bool) (h history) {
	t.Helper()
	until(t, "delivery "+id+" is "+what, func() (bool, string) {
		h = c.lookup(t, id)
		return is(h), h.text
	})
	return h
}

// final reads a delivery once nothing more will happen to it.
func (c *tenant) final(t testing.TB, id string) history {
	t.Helper()
	return c.lookupWhen(t, id, "final", func(h history) bool {
		return h.Status != "queued" && h.Status != "retrying"
	})
}

// attempted reads a delivery once n attempts are on record.
func (c *tenant) attempted(t testing.TB, id string, n int) history {
	t.Helper()
	return c.lookupWhen(t, id, "attempted", func(h history) bool { return len(h.Attempts) >= n })
}

// until waits for a condition that others bring about. The text says how
// things stand, for when they do not come about.
func until(t testing.TB, what string, condition func() (bool, string)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(processPatience)
	defer deadline.Stop()
	for {
		ok, text := condition()
		if ok {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("still not so after %s: %s\n%s", processPatience, what, text)
		}
	}
}

// race runs n calls of f at once and returns when all have.
func race(n int, f func(i int)) {
	var all sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		all.Go(func() {
			<-start
			f(i)
		})
	}
	close(start)
	all.Wait()
}
