package client_test

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/harepost/harepost/client"
)

// server answers each request with the next of its answers, over a real
// connection, and keeps what it was asked.
type server struct {
	t       *testing.T
	url     string
	mu      sync.Mutex
	answers []answer
	asked   []asked
}

type answer struct {
	status int
	header string // one header, "Name: value"; empty: none
	body   string
}

type asked struct {
	line          string // method and URI
	authorization string
	body          string
}

func serve(t *testing.T, answers ...answer) *server {
	t.Helper()
	s := &server{t: t, answers: answers}
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	s.url = h.URL
	return s
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Errorf("read request: %v", err)
	}
	if len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
		s.t.Errorf("%s %s has Content-Type %q", r.Method, r.URL, r.Header.Get("Content-Type"))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, asked{r.Method + " " + r.RequestURI, r.Header.Get("Authorization"), strings.TrimSuffix(string(body), "\n")})
	if len(s.answers) == 0 {
		s.t.Errorf("%s %s was not expected", r.Method, r.URL)
		w.WriteHeader(http.StatusTeapot)
		return
	}
	a := s.answers[0]
	s.answers = s.answers[1:]
	if name, value, ok := strings.Cut(a.header, ": "); ok {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	io.WriteString(w, a.body)
}

func (s *server) client(o client.Options) *client.Client {
	s.t.Helper()
	c, err := client.New(s.url+"/", "hp_live_k", o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.CloseIdleConnections)
	return c
}

// wants checks the requests that came.
func (s *server) wants(want ...asked) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.asked, want) {
		s.t.Errorf("asked\n%+v, want\n%+v", s.asked, want)
	}
}

func at(text string) time.Time {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		panic(err)
	}
	return t
}

func ptr[T any](v T) *T { return &v }

const key = "Bearer hp_live_k"

func same[T any](t *testing.T, got T, err error, want T) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got\n%+v, want\n%+v", got, want)
	}
}

func TestCreateAccountShowsTheAdminToken(t *testing.T) {
	s := serve(t, answer{201, "", `{"account_id":"acc_1","name":"Ada","api_key":"hp_live_x","signing_secret":"whsec_x","created_at":"2026-06-10T14:22:10Z"}`})
	a, err := s.client(client.Options{AdminToken: "admin"}).CreateAccount(t.Context(), "Ada")
	same(t, a, err, client.NewAccount{AccountID: "acc_1", Name: "Ada", APIKey: "hp_live_x", SigningSecret: "whsec_x", CreatedAt: at("2026-06-10T14:22:10Z")})
	s.wants(asked{"POST /v1/accounts", "Bearer admin", `{"name":"Ada"}`})
}

func TestSignUpWithoutAnAdminTokenShowsNoKey(t *testing.T) {
	s := serve(t, answer{201, "", `{}`})
	if _, err := s.client(client.Options{}).CreateAccount(t.Context(), "Ada"); err != nil {
		t.Fatal(err)
	}
	s.wants(asked{"POST /v1/accounts", "", `{"name":"Ada"}`})
}

func TestKeysAndSecret(t *testing.T) {
	s := serve(t,
		answer{200, "", `{"data":[{"id":"key_1","prefix":"hp_live_ab","created_at":"2026-06-10T14:22:10Z","last_used_at":null}]}`},
		answer{201, "", `{"id":"key_2","prefix":"hp_live_cd","created_at":"2026-06-10T14:22:10Z","api_key":"hp_live_cdef"}`},
		answer{204, "", ``},
		answer{200, "", `{"signing_secret":"whsec_abc"}`})
	c := s.client(client.Options{})
	created := at("2026-06-10T14:22:10Z")
	keys, err := c.Keys(t.Context())
	same(t, keys, err, []client.Key{{ID: "key_1", Prefix: "hp_live_ab", CreatedAt: created}})
	made, err := c.CreateKey(t.Context())
	same(t, made, err, client.NewKey{Key: client.Key{ID: "key_2", Prefix: "hp_live_cd", CreatedAt: created}, APIKey: "hp_live_cdef"})
	if err := c.DeleteKey(t.Context(), "key_2/../x"); err != nil {
		t.Fatal(err)
	}
	secret, err := c.SigningSecret(t.Context())
	same(t, secret, err, "whsec_abc")
	s.wants(
		asked{"GET /v1/keys", key, ""},
		asked{"POST /v1/keys", key, ""},
		asked{"DELETE /v1/keys/key_2%2F..%2Fx", key, ""},
		asked{"GET /v1/signing-secret", key, ""})
}

func TestDomains(t *testing.T) {
	const pending = `{"domain":"your-app.com","status":"pending","record":{"type":"TXT","name":"_harepost-challenge.your-app.com","value":"harepost-verify=abc123"}`
	s := serve(t,
		answer{201, "", pending + `}`},
		answer{409, "", pending + `,"error":"not found","detail":"no TXT record there yet"}`},
		answer{200, "", `{"domain":"your-app.com","status":"verified","verified_at":"2026-06-10T14:30:00Z"}`},
		answer{200, "", `{"data":[{"domain":"your-app.com","status":"verified","created_at":"2026-06-10T14:22:10Z","verified_at":"2026-06-10T14:30:00Z"},{"domain":"b.org","status":"pending","created_at":"2026-06-10T14:22:10Z","verified_at":null}]}`},
		answer{200, "", pending + `}`},
		answer{204, "", ``})
	c := s.client(client.Options{})
	waiting := client.Domain{Domain: "your-app.com", Status: "pending",
		Record: &client.Record{Type: "TXT", Name: "_harepost-challenge.your-app.com", Value: "harepost-verify=abc123"}}
	verifiedAt, created := at("2026-06-10T14:30:00Z"), at("2026-06-10T14:22:10Z")

	d, err := c.AddDomain(t.Context(), "your-app.com")
	same(t, d, err, waiting)
	_, err = c.VerifyDomain(t.Context(), "your-app.com")
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != 409 || e.Message != "not found" || e.Detail != "no TXT record there yet" {
		t.Fatalf("verify: %v", err)
	}
	if d, ok := e.PendingDomain(); !ok || !reflect.DeepEqual(d, waiting) {
		t.Errorf("pending domain %+v (%t)", d, ok)
	}
	d, err = c.VerifyDomain(t.Context(), "your-app.com")
	same(t, d, err, client.Domain{Domain: "your-app.com", Status: "verified", VerifiedAt: &verifiedAt})
	list, err := c.Domains(t.Context())
	same(t, list, err, []client.Domain{
		{Domain: "your-app.com", Status: "verified", CreatedAt: created, VerifiedAt: &verifiedAt},
		{Domain: "b.org", Status: "pending", CreatedAt: created},
	})
	d, err = c.Domain(t.Context(), "your-app.com")
	same(t, d, err, waiting)
	if err := c.DeleteDomain(t.Context(), "your-app.com"); err != nil {
		t.Fatal(err)
	}
	body := `{"domain":"your-app.com"}`
	s.wants(
		asked{"POST /v1/domains", key, body},
		asked{"POST /v1/domains/verify", key, body},
		asked{"POST /v1/domains/verify", key, body},
		asked{"GET /v1/domains", key, ""},
		asked{"GET /v1/domains/your-app.com", key, ""},
		asked{"DELETE /v1/domains/your-app.com", key, ""})
}

func TestSendSaysWhatTheContractSays(t *testing.T) {
	s := serve(t,
		answer{202, "", `{"queue_id":"hr_1","status":"queued","created_at":"2026-06-10T14:22:10Z"}`},
		answer{202, "", `{"queue_id":"hr_1","status":"queued","created_at":"2026-06-10T14:22:10Z","idempotency_key":"k","duplicate":true,"warnings":["w"]}`})
	c := s.client(client.Options{})
	r, err := c.Send(t.Context(), client.Send{Target: "https://your-app.com/webhook"})
	same(t, r, err, client.Receipt{QueueID: "hr_1", Status: "queued", CreatedAt: at("2026-06-10T14:22:10Z")})
	r, err = c.Send(t.Context(), client.Send{
		Target:         "https://your-app.com/webhook?a=1&b=<2>",
		Method:         "PUT",
		Headers:        map[string]string{"X-A": "1"},
		Body:           struct{ Order string }{"<1&2>"},
		Delivery:       &client.Policy{MaxAttempts: 3, Backoff: "fixed", BaseDelayMS: 200, MaxDelayMS: 2000, Jitter: "none", TimeoutMS: 1000, RespectRetryAfter: ptr(false)},
		IdempotencyKey: "k",
		Sign:           true,
		Metadata:       json.RawMessage(`{"m":1}`),
		Labels:         []string{"a"},
		DelayMS:        5,
		NotBefore:      at("2026-06-10T14:22:10Z"),
		ExpiresAt:      at("2026-06-11T14:22:10Z"),
		FlowKey:        "f",
		Rate:           0.5,
		Parallelism:    2,
	})
	same(t, r, err, client.Receipt{QueueID: "hr_1", Status: "queued", CreatedAt: at("2026-06-10T14:22:10Z"),
		IdempotencyKey: "k", Duplicate: true, Warnings: []string{"w"}})
	s.wants(
		asked{"POST /v1/send", key, `{"target":"https://your-app.com/webhook"}`},
		asked{"POST /v1/send", key, `{"target":"https://your-app.com/webhook?a=1&b=<2>","method":"PUT","headers":{"X-A":"1"},"body":{"Order":"<1&2>"},` +
			`"delivery":{"max_attempts":3,"backoff":"fixed","base_delay_ms":200,"max_delay_ms":2000,"jitter":"none","timeout_ms":1000,"respect_retry_after":false},` +
			`"idempotency_key":"k","sign":true,"metadata":{"m":1},"labels":["a"],"delay_ms":5,"not_before":"2026-06-10T14:22:10Z","expires_at":"2026-06-11T14:22:10Z",` +
			`"flow_key":"f","rate":0.5,"parallelism":2}`})
}

func TestBodiesGoOutAsTheyAre(t *testing.T) {
	check := func(body any, want string) {
		t.Helper()
		b, err := json.Marshal(client.Send{Target: "t", Body: body})
		if err != nil {
			t.Error(err)
		}
		var got struct{ Body json.RawMessage }
		if err := json.Unmarshal(b, &got); err != nil || string(got.Body) != want {
			t.Errorf("body %#v is sent as %s, want %s (%v)", body, got.Body, want, err)
		}
	}
	check(nil, "")
	check("", `""`)
	check("a\x00é\"", `"a\u0000é\""`)
	check([]byte("text"), `"text"`) // not base64
	check([]int{1, 2}, `[1,2]`)
	check(json.RawMessage(`{"a": 1}`), `{"a":1}`)
	check(json.RawMessage(nil), "")
	check(map[string]string{"a": "b"}, `{"a":"b"}`)
	for _, body := range []any{"\xff", []byte("\xff")} {
		if _, err := json.Marshal(client.Send{Body: body}); err == nil {
			t.Errorf("body %q would arrive changed and is not refused", body)
		}
	}
}

type (
	named string
	coded string
)

func (c coded) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString([]byte(c))), nil }

// What is neither a string nor bytes goes out as JSON, also where its JSON is a
// string: in the API's body that would be bare text.
func TestABodyThatIsAStringInJSONGoesOutAsJSON(t *testing.T) {
	check := func(s client.Send, want, contentType string) {
		t.Helper()
		b, err := json.Marshal(s)
		if err != nil {
			t.Error(err)
		}
		var got struct {
			Body    string
			Headers map[string]string
		}
		if err := json.Unmarshal(b, &got); err != nil || got.Body != want || got.Headers["Content-Type"] != contentType {
			t.Errorf("body %#v is sent as %s, want %s and %q (%v)", s.Body, b, want, contentType, err)
		}
	}
	const jsonType = "application/json"
	text := "a<b"
	check(client.Send{Body: named("x")}, `"x"`, jsonType)
	check(client.Send{Body: &text}, `"a<b"`, jsonType)
	check(client.Send{Body: coded("\xff")}, `"ff"`, jsonType)
	check(client.Send{Body: json.RawMessage(` "x" `)}, `"x"`, jsonType)
	check(client.Send{Body: at("2026-06-10T14:22:10Z")}, `"2026-06-10T14:22:10Z"`, jsonType)
	check(client.Send{Body: text}, `a<b`, "")
	check(client.Send{Method: "GET", Body: named("x")}, `"x"`, "") // which has no body
	check(client.Send{Body: named("x"), Headers: map[string]string{"content-type": "text/x"}}, `"x"`, "")

	headers := map[string]string{"X-A": "1"}
	check(client.Send{Body: named("x"), Headers: headers}, `"x"`, jsonType)
	if len(headers) != 1 {
		t.Errorf("the caller's headers are now %v", headers)
	}

	if b, err := json.Marshal(client.Send{Body: (*string)(nil)}); err != nil || string(b) != `{"target":"","body":null}` {
		t.Errorf("%s, %v", b, err)
	}

	broken := "\xff"
	for _, body := range []any{named("\xff"), &broken, json.RawMessage("\"\xff\""), json.RawMessage("{\"a\":\"\xff\"}")} {
		if b, err := json.Marshal(client.Send{Body: body}); err == nil {
			t.Errorf("body %q would arrive changed, as %s", body, b)
		}
	}
}

func TestABodyThatIsNotTextIsRefusedBeforeItIsSent(t *testing.T) {
	s := serve(t)
	if _, err := s.client(client.Options{}).Send(t.Context(), client.Send{Body: "\xff"}); err == nil {
		t.Error("no error")
	}
	s.wants()
}

func TestDeliveryLookup(t *testing.T) {
	s := serve(t,
		answer{200, "", `{"queue_id":"hr_1","target":"https://your-app.com/webhook","method":"POST","status":"delivered","last_status":200,` +
			`"idempotency_key":"ord_123-paid","created_at":"2026-06-10T14:22:10Z","updated_at":"2026-06-10T14:22:12Z",` +
			`"attempts":[{"attempt":1,"outcome":"failed","http_status":null,"latency_ms":84,"error":"timeout: no response","created_at":"2026-06-10T14:22:12Z",` +
			`"started_at":"2026-06-10T14:22:11Z","next_attempt_at":"2026-06-10T14:22:13Z","timing":{"dns_ms":0.25,"connect_ms":1,"tls_ms":2,"first_byte_ms":0,"reused":false},` +
			`"remote_ip":"203.0.113.9","response_body":"/w==","response_body_encoding":"base64","response_body_truncated":true}],` +
			`"metadata":{"a":1},"labels":["x"],"max_attempts":5,"next_attempt_at":null,"expires_at":null,"body_bytes":2,"headers":{"X-A":"1"},"body":"hi","new_field":1}`},
		answer{404, "X-Request-Id: req_7", `{"error":"not found"}`})
	c := s.client(client.Options{})
	d, err := c.DeliveryWithPayload(t.Context(), "hr_1")
	same(t, d, err, client.Delivery{
		QueueID: "hr_1", Target: "https://your-app.com/webhook", Method: "POST", Status: "delivered", LastStatus: ptr(200),
		IdempotencyKey: ptr("ord_123-paid"), CreatedAt: at("2026-06-10T14:22:10Z"), UpdatedAt: at("2026-06-10T14:22:12Z"),
		Attempts: []client.Attempt{{
			Attempt: 1, Outcome: "failed", LatencyMS: 84, Error: ptr("timeout: no response"), CreatedAt: at("2026-06-10T14:22:12Z"),
			StartedAt: at("2026-06-10T14:22:11Z"), NextAttemptAt: ptr(at("2026-06-10T14:22:13Z")),
			Timing: client.Timing{DNSMS: 0.25, ConnectMS: 1, TLSMS: 2}, RemoteIP: ptr("203.0.113.9"),
			ResponseBody: "/w==", ResponseBodyEncoding: "base64", ResponseBodyTruncated: true,
		}},
		Metadata: json.RawMessage(`{"a":1}`), Labels: []string{"x"}, MaxAttempts: 5, BodyBytes: 2,
		Headers: map[string]string{"X-A": "1"}, Body: "hi",
	})
	payload, err := d.Payload()
	same(t, string(payload), err, "hi")
	response, err := d.Attempts[0].Response()
	same(t, string(response), err, "\xff")

	_, err = c.Delivery(t.Context(), "hr_2")
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != 404 || e.RequestID != "req_7" || e.Error() != "404 not found" {
		t.Errorf("lookup of nothing: %#v", err)
	}
	s.wants(asked{"GET /v1/deliveries/hr_1?include=payload", key, ""}, asked{"GET /v1/deliveries/hr_2", key, ""})
}

func TestAnUnknownEncodingIsNotTakenForText(t *testing.T) {
	d := client.Delivery{Body: "abc", BodyEncoding: "rot13"}
	if b, err := d.Payload(); err == nil {
		t.Errorf("payload %q", b)
	}
	d.BodyEncoding = "base64"
	if b, err := d.Payload(); err == nil {
		t.Errorf("payload %q", b)
	}
}

func TestListOfDeliveriesGoesOnWithItsCursor(t *testing.T) {
	item := func(id string) string {
		return `{"queue_id":"` + id + `","target":"t","method":"POST","status":"queued","last_status":null,"idempotency_key":null,` +
			`"created_at":"2026-06-10T14:22:10Z","updated_at":"2026-06-10T14:22:10Z","attempts":3}`
	}
	s := serve(t,
		answer{200, "", `{"data":[` + item("hr_3") + `,` + item("hr_2") + `],"next_cursor":"c+1"}`},
		answer{200, "", `{"data":[],"next_cursor":"c2"}`},
		answer{200, "", `{"data":[` + item("hr_1") + `],"next_cursor":null}`})
	f := client.Filter{Status: "dead_letter", Target: "https://a/", Host: "a", Label: "l", IdempotencyKey: "k",
		Since: at("2026-06-10T14:22:10+02:00"), Until: at("2026-06-11T00:00:00Z"), Limit: 2}
	var ids []string
	for d, err := range s.client(client.Options{}).Deliveries(t.Context(), f) {
		if err != nil {
			t.Fatal(err)
		}
		if d.Attempts != 3 {
			t.Errorf("%d attempts, want the count 3", d.Attempts)
		}
		ids = append(ids, d.QueueID)
	}
	if want := []string{"hr_3", "hr_2", "hr_1"}; !slices.Equal(ids, want) {
		t.Errorf("listed %v, want %v", ids, want)
	}
	query := func(cursor string) string {
		return "GET /v1/deliveries?" + cursor + "host=a&idempotency_key=k&label=l&limit=2&since=2026-06-10T12%3A22%3A10Z&status=dead_letter&target=https%3A%2F%2Fa%2F&until=2026-06-11T00%3A00%3A00Z"
	}
	s.wants(asked{query(""), key, ""}, asked{query("cursor=c%2B1&"), key, ""}, asked{query("cursor=c2&"), key, ""})
}

func TestAListEndsWithItsError(t *testing.T) {
	s := serve(t, answer{400, "", `{"error":"bad cursor"}`})
	n := 0
	for _, err := range s.client(client.Options{}).Deliveries(t.Context(), client.Filter{}) {
		if n++; err == nil || n > 1 {
			t.Fatalf("element %d: %v", n, err)
		}
	}
	s.wants(asked{"GET /v1/deliveries?limit=100", key, ""})
}

func TestErrorsSayWhatTheServerSaid(t *testing.T) {
	check := func(a answer, want client.Error, text string) {
		t.Helper()
		s := serve(t, a)
		_, err := s.client(client.Options{}).Send(t.Context(), client.Send{Target: "t"})
		e, ok := errors.AsType[*client.Error](err)
		want.Body = []byte(a.body)
		if !ok || !reflect.DeepEqual(*e, want) || e.Error() != text {
			t.Errorf("%+v: %#v (%v)", a, err, err)
		}
	}
	check(answer{403, "", `{"error":"destination domain is not verified","detail":"Verify a.com"}`},
		client.Error{Status: 403, Message: "destination domain is not verified", Detail: "Verify a.com"},
		"403 destination domain is not verified: Verify a.com")
	check(answer{429, "Retry-After: 7", `{"error":"slow down"}`},
		client.Error{Status: 429, Message: "slow down", RetryAfter: 7 * time.Second}, "429 slow down")
	check(answer{503, "Retry-After: -1", `{"error":"x"}`}, client.Error{Status: 503, Message: "x"}, "503 x")
	check(answer{502, "", `<html>proxy</html>`}, client.Error{Status: 502, Message: "Bad Gateway"}, "502 Bad Gateway")
	check(answer{302, "Location: https://elsewhere.example/", ``}, client.Error{Status: 302, Message: "Found"}, "302 Found")
}

func TestAnAnswerThatIsNotJSONIsAnError(t *testing.T) {
	s := serve(t, answer{202, "", `<html>`})
	if _, err := s.client(client.Options{}).Send(t.Context(), client.Send{Target: "t"}); err == nil {
		t.Error("no error")
	}
}

func TestAnEndlessAnswerIsCutOff(t *testing.T) {
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := make([]byte, 1<<16)
		for {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer h.Close()
	c, err := client.New(h.URL, "k", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	if _, err := c.SigningSecret(t.Context()); !errors.Is(err, client.ErrResponseTooLarge) {
		t.Errorf("%v, want %v", err, client.ErrResponseTooLarge)
	}
}

func TestTimeoutsAndCancellationEndACall(t *testing.T) {
	arrived, release := make(chan struct{}, 1), make(chan struct{})
	h := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		arrived <- struct{}{}
		<-release
	}))
	defer h.Close()
	defer close(release)
	open := func(o client.Options) *client.Client {
		c, err := client.New(h.URL, "k", o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	if _, err := open(client.Options{}).SigningSecret(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	var timeout interface{ Timeout() bool }
	if _, err := open(client.Options{Timeout: time.Millisecond}).SigningSecret(t.Context()); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("after Options.Timeout: %v", err)
	}
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	refused := func(base string, o client.Options) {
		t.Helper()
		if _, err := client.New(base, "", o); err == nil {
			t.Errorf("New(%q, %+v) is accepted", base, o)
		} else if strings.Contains(err.Error(), "sesame") {
			t.Errorf("New(%q): the password is in %q", base, err)
		}
	}
	refused("", client.Options{})
	refused("harepost.example", client.Options{})
	refused("ftp://harepost.example", client.Options{})
	refused("https://", client.Options{})
	refused("https://u:sesame@harepost.example", client.Options{})
	refused("https://harepost.example?x=1", client.Options{})
	refused("https://harepost.example/#x", client.Options{})
	refused("https://harepost.example", client.Options{Retries: -1})
	refused("https://harepost.example", client.Options{HTTPClient: http.DefaultClient, Timeout: time.Second})
}

// A key that no header can carry must not pass for a server that is away, nor
// be repeated in what is logged.
func TestNewRefusesAKeyThatNoHeaderCanCarry(t *testing.T) {
	for _, end := range []string{"\r", "\n", "\r\n", "\x00", "\x7f"} {
		_, err := client.New("https://harepost.example", "sesame"+end, client.Options{})
		if e, ok := errors.AsType[*client.KeyError](err); !ok || e.What != "API key" || strings.Contains(err.Error(), "sesame") {
			t.Errorf("a key that ends with %q: %v", end, err)
		}
		_, err = client.New("https://harepost.example", "", client.Options{AdminToken: "sesame" + end})
		if e, ok := errors.AsType[*client.KeyError](err); !ok || e.What != "admin token" || strings.Contains(err.Error(), "sesame") {
			t.Errorf("a token that ends with %q: %v", end, err)
		}
	}
}

func TestAGivenHTTPClientIsUsedAndLeftAlone(t *testing.T) {
	s := serve(t, answer{302, "Location: /elsewhere", ""})
	used := false
	given := &http.Client{Transport: roundTripper(func(r *http.Request) (*http.Response, error) {
		used = true
		return http.DefaultTransport.RoundTrip(r)
	})}
	_, err := s.client(client.Options{HTTPClient: given}).SigningSecret(t.Context())
	http.DefaultClient.CloseIdleConnections()
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Status != 302 || !used || given.CheckRedirect != nil {
		t.Errorf("%v, used %t, changed %t", err, used, given.CheckRedirect != nil)
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A body that is gone must not pass for an empty one.
func TestADroppedBodyIsNoEmptyBody(t *testing.T) {
	s := serve(t, answer{200, "", `{"queue_id":"hr_1","body_bytes":7,"headers":{},"body":null,"body_dropped":true}`}, answer{200, "", `{"queue_id":"hr_2","headers":{},"body":""}`})
	c := s.client(client.Options{})
	d, err := c.DeliveryWithPayload(t.Context(), "hr_1")
	if body, gone := d.Payload(); err != nil || !d.BodyDropped || body != nil || !errors.Is(gone, client.ErrBodyDropped) {
		t.Errorf("%+v, %v: %q, %v", d, err, body, gone)
	}
	d, err = c.DeliveryWithPayload(t.Context(), "hr_2")
	if body, gone := d.Payload(); err != nil || d.BodyDropped || len(body) != 0 || gone != nil {
		t.Errorf("%+v, %v: %q, %v", d, err, body, gone)
	}
}

// Who passes answers on gets them as they came, and no refusals.
func TestAnswersAreHandedOverAsTheyCame(t *testing.T) {
	var got []string
	s := serve(t, answer{200, "", `{"queue_id":"hr_1", "new":1.50}`}, answer{404, "", `{"error":"not found"}`}, answer{204, "", ""})
	c := s.client(client.Options{Answered: func(body []byte) { got = append(got, string(body)) }})
	if _, err := c.Delivery(t.Context(), "hr_1"); err != nil {
		t.Error(err)
	}
	if _, err := c.Delivery(t.Context(), "hr_2"); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
	if err := c.DeleteKey(t.Context(), "key_1"); err != nil {
		t.Error(err)
	}
	if want := []string{`{"queue_id":"hr_1", "new":1.50}`, ""}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
