package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/valyala/fasthttp"

	"github.com/harepost/harepost/engine"
)

// A fakeCluster is what a test says it is. Its methods of membership do what the
// id asks for: "gone" is not there, "needed" cannot go.
type fakeCluster struct {
	mu       sync.Mutex
	standing Standing
	reign    uint64
	doubtful bool // not certain
	changed  chan struct{}
	asked    []string // ids
	reply    func(ctx context.Context, req *fasthttp.Request, resp *fasthttp.Response) error
	certain  func() // called by Certain, if set

	transferring func() // called by Transfer, if set
}

// leading is a cluster in which the node n1 leads.
func leading() *fakeCluster {
	return &fakeCluster{
		standing: Standing{Node: "n1", Role: RoleLeader, Term: 3, Leader: "n1", Commit: 100, Applied: 100},
		reign:    3, changed: make(chan struct{}),
	}
}

// following is a cluster in which the node n1 knows that leader leads; none if that
// is empty.
func following(leader string) *fakeCluster {
	c := leading()
	c.standing.Role, c.standing.Leader, c.reign = RoleFollower, leader, 0
	c.standing.Contact = 20 * time.Millisecond
	return c
}

// change changes what there is to know, and tells.
func (f *fakeCluster) change(fn func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	fn()
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeCluster) Reign() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reign
}

func (f *fakeCluster) Certain() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.certain != nil {
		f.certain()
	}
	return !f.doubtful
}

func (f *fakeCluster) Leader() (string, bool, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.standing.Leader, f.standing.Leader == f.standing.Node, f.changed
}

func (f *fakeCluster) Ask(ctx context.Context, id string, req *fasthttp.Request, resp *fasthttp.Response) error {
	f.mu.Lock()
	f.asked = append(f.asked, id)
	reply := f.reply
	f.mu.Unlock()
	return reply(ctx, req, resp)
}

func (f *fakeCluster) timesAsked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

func (f *fakeCluster) Standing() Standing {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.standing
}

func (f *fakeCluster) Status() ClusterStatus {
	return ClusterStatus{
		Standing: f.Standing(), ClusterID: "8f0c", Last: 101, SnapshotIndex: 50, SnapshotAt: time.Unix(1_800_000_000, 0),
		Members: []Member{
			{ID: "n1", Address: "127.0.0.1:7401", API: "http://127.0.0.1:8081", Version: "1", Voter: true, Known: true, Reachable: true, LagBytes: 0},
			{ID: "n2", Address: "127.0.0.1:7402", Voter: true, Known: true, Contact: 3 * time.Second, LagEntries: 70_000, LagBytes: 9_000_000},
			{ID: "n3", Address: "127.0.0.1:7403"},
		},
	}
}

func (f *fakeCluster) Remove(_ context.Context, id string, force bool) error {
	switch {
	case id == "gone":
		return fmt.Errorf("%w: %s", ErrNoNode, id)
	case id == "needed" && !force:
		return fmt.Errorf("%w: of the 2 nodes that would be left only 1 answers", ErrRefused)
	}
	return nil
}

func (f *fakeCluster) Transfer(ctx context.Context, id string) error {
	f.mu.Lock()
	transferring := f.transferring
	f.mu.Unlock()
	if transferring != nil {
		transferring()
	}
	return f.Remove(ctx, id, false)
}

func (f *fakeCluster) Transferable(id string) error {
	if id == "gone" {
		return f.Remove(context.Background(), id, false)
	}
	return nil
}

func (f *fakeCluster) Snapshot(context.Context) (uint64, error) {
	if f.Standing().Role == RoleStopped {
		return 0, fmt.Errorf("%w: the node is stopped", ErrRefused)
	}
	return 100, nil
}

// startNode starts a server that is a node of that cluster.
func startNode(t testing.TB, c *fakeCluster) *testServer {
	return startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: 40 * time.Millisecond}, nil)
}

func (r *tour) cluster() {
	s := startNode(r.t, leading())
	r.ask(s, 200, "GET", "/v1/cluster", "", adminToken, "")
	r.ask(s, 200, "POST", "/v1/cluster/transfer", "", adminToken, `{"node_id":"n2"}`)
	r.ask(s, 200, "POST", "/v1/cluster/snapshot", "", adminToken, "")
	r.ask(s, 204, "DELETE", "/v1/cluster/nodes/{id}", "n2", adminToken, "")
}

func (r *tour) refusedCluster(alone, closed *testServer) {
	c := leading()
	s := startNode(r.t, c)
	r.ask(s, 404, "POST", "/v1/cluster/transfer", "", adminToken, `{"node_id":"gone"}`)
	r.ask(s, 409, "POST", "/v1/cluster/transfer", "", adminToken, `{"node_id":"needed"}`)
	r.ask(s, 404, "DELETE", "/v1/cluster/nodes/{id}", "gone", adminToken, "")
	r.ask(s, 409, "DELETE", "/v1/cluster/nodes/{id}", "needed", adminToken, "")
	r.ask(s, 400, "DELETE", "/v1/cluster/nodes/{id}?force=1", "n2", adminToken, "")
	c.change(func() { c.standing.Role = RoleStopped })
	r.ask(s, 409, "POST", "/v1/cluster/snapshot", "", adminToken, "")
	for method, path := range map[string]string{
		"GET": "/v1/cluster", "POST": "/v1/cluster/transfer", "DELETE": "/v1/cluster/nodes/{id}",
	} {
		r.ask(alone, 404, method, path, "n1", adminToken, "").refused(404, "not part of a cluster")
		r.ask(closed, 403, method, path, "n1", adminToken, "")
	}
	r.ask(alone, 404, "POST", "/v1/cluster/snapshot", "", adminToken, "")
	r.ask(closed, 403, "POST", "/v1/cluster/snapshot", "", adminToken, "")
}

func TestClusterStatus(t *testing.T) {
	s := startNode(t, leading())
	s.do("GET", "/v1/cluster", adminToken, "").shaped(`{"node_id":"n1","role":"leader","term":3,"leader_id":"n1",` +
		`"commit_index":100,"applied_index":100,"lag_entries":0,"leader_contact_ms":0,"cluster_id":"8f0c","version":"",` +
		`"last_index":101,"snapshot_index":50,"snapshot_at":"TIME","nodes":\[` +
		`{"node_id":"n1","address":"127.0.0.1:7401","api_url":"http://127.0.0.1:8081","version":"1","voter":true,"reachable":true,"contact_ms":0,"lag_entries":0,"lag_bytes":0},` +
		`{"node_id":"n2","address":"127.0.0.1:7402","api_url":null,"version":null,"voter":true,"reachable":false,"contact_ms":3000,"lag_entries":70000,"lag_bytes":9000000},` +
		`{"node_id":"n3","address":"127.0.0.1:7403","api_url":null,"version":null,"voter":false,"reachable":null,"contact_ms":null,"lag_entries":null,"lag_bytes":null}\]}`)
	if !s.do("DELETE", "/v1/cluster/nodes/needed?force=true", adminToken, "").want2xx() {
		t.Error("a forced removal is refused")
	}
	s.do("GET", "/v1/cluster", "", "").refused(401)
}

func (a *answer) want2xx() bool { return a.status/100 == 2 }

func TestReadyInCluster(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	a := s.do("GET", "/readyz", "", "").want(200)
	if node := a["node"].(map[string]any); node["role"] != "leader" || node["term"] != float64(3) || node["lag_entries"] != float64(0) {
		t.Errorf("%v", a)
	}
	f := func(want string, st Standing) {
		t.Helper()
		c.change(func() { c.standing, c.reign = st, 0 })
		got := s.notFollowing()
		if want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("%+v: %q, want %q", st, got, want)
		}
	}
	f("", Standing{Node: "n1", Role: RoleFollower, Term: 4, Leader: "n2", Commit: 1000, Applied: 0})
	f("1001 entries behind; node n1, role follower, term 4", Standing{Node: "n1", Role: RoleFollower, Term: 4, Leader: "n2", Commit: 1001, Applied: 0})
	f("no leader is known; node n1, role candidate, term 5", Standing{Node: "n1", Role: RoleCandidate, Term: 5})
	f("not ready to lead yet", Standing{Node: "n1", Role: RoleLeader, Term: 5, Leader: "n1"})
	f("stopped", Standing{Node: "n1", Role: RoleStopped, Leader: "n2"})
}

// What is read from a node that leads, and may not any more when it answers, is not
// answered; what was written is.
func TestUncertainReadIsDropped(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	key := s.account()
	s.do("GET", "/v1/deliveries", key, "").want(200)
	c.change(func() { c.doubtful = true })
	for _, path := range []string{"/v1/deliveries", "/v1/domains", "/v1/jobs", "/v1/deliveries/hr_x", "/v1/signing-secret"} {
		a := s.do("GET", path, key, "")
		a.refused(503, "may not lead any more")
		if a.header.Get("Retry-After") != "1" {
			t.Errorf("%s: Retry-After %q", path, a.header.Get("Retry-After"))
		}
	}
	s.do("GET", "/v1/deliveries", "hp_live_unknown", "").refused(503, "may not lead") // another node may know the key
	s.do("POST", "/v1/send", "hp_live_unknown", "{}").refused(503, "may not lead")
	s.do("POST", "/v1/deliveries/cancel", key, `{"filter":{},"dry_run":true}`).refused(503, "may not lead")
	s.do("POST", "/v1/domains", key, `{"domain":"your-app.com"}`).want(201)
	s.do("GET", "/v1/deliveries?consistency=stale", key, "").want(200)
	s.do("GET", "/v1/openapi.json", "", "").want(200)
}

// Within a batch the same holds for what is refused for what the state holds, and only
// for that.
func TestUncertainRefusalsOfABatchAreWithheld(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	key := s.account()
	const sends = `[{"target":"http://127.0.0.1:9999/"},{"target":"https://elsewhere.example/"},{"target":"nowhere"}]`
	for _, tt := range []struct {
		name     string
		doubtful bool
		want     [3]any
	}{
		{"certain", false, [3]any{"queued", 403.0, 400.0}},
		{"doubtful", true, [3]any{"queued", 503.0, 400.0}},
	} {
		c.change(func() { c.doubtful = tt.doubtful })
		for i, r := range results(t, s.do("POST", "/v1/send/batch", key, sends).want(202)) {
			if r["status"] != tt.want[i] {
				t.Errorf("%s: send %d: %v, want status %v", tt.name, i, r, tt.want[i])
			}
		}
	}
	c.change(func() { c.certain = func() { c.reign++ } })
	if r := results(t, s.do("POST", "/v1/send/batch", key, sends).want(202)); r[1]["status"] != 503.0 {
		t.Errorf("across reigns: %v", r[1])
	}
}

// A reign that has ended and another one that has begun do not hide that a third
// node may have led between them.
func TestReadAcrossReignsIsDropped(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	key := s.account()
	c.change(func() { c.certain = func() { c.reign++ } })
	s.do("GET", "/v1/deliveries", key, "").refused(503, "may not lead any more")
}

// When leadership goes on to another node, a read waits for that and is answered by
// it.
func TestReadIsAnsweredByTheNextLeader(t *testing.T) {
	c := leading()
	s := startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: time.Minute}, nil)
	key := s.account()
	c.change(func() { c.doubtful = true })
	done := make(chan *answer, 1)
	go func() { done <- s.do("GET", "/v1/signing-secret", key, "") }()
	eventually(t, "it waits", func() bool { return s.proxy.waiting.Load() == 1 })
	c.change(func() {
		c.standing, c.reign = following("n2").standing, 0
		c.reply = func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error {
			resp.SetStatusCode(401)
			resp.Header.SetContentType("application/json")
			resp.Header.Set("X-Request-Id", "x")
			resp.Header.Set("WWW-Authenticate", `Bearer realm="harepost"`)
			resp.SetBodyString(`{"error":"revoked"}`)
			return nil
		}
	})
	(<-done).refused(401, "revoked")
}

func TestConsistencyParameter(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	key := s.account()
	for query, want := range map[string]int{
		"?consistency=strong": 200, "?consistency=stale": 200, "?consistency=": 200, "?consistency=eventual": 400, "?consistency=Stale": 400,
	} {
		a := s.do("GET", "/v1/deliveries"+query, key, "")
		if a.status != want || strings.Contains(a.body, "warnings") {
			t.Errorf("%s: %d %s, want %d", query, a.status, a.body, want)
		}
		if index := a.header.Get(headerAppliedIndex); (index != "") != (query == "?consistency=stale") || index != "" && (index != "100" || a.header.Get("X-Harepost-Age-Ms") != "0") {
			t.Errorf("%s: applied index %q", query, index)
		}
		if got := a.header.Get(headerNode); got != "n1" {
			t.Errorf("%s: node %q", query, got)
		}
	}
	s.do("POST", "/v1/send?consistency=stale", key, "{}").refused(400, "consistency", "GET")
	alone := startServer(t, Options{Dev: true}, nil)
	key = alone.account()
	a := alone.do("GET", "/v1/jobs?consistency=stale", key, "")
	if a.want(200); strings.Contains(a.body, "warnings") || a.header.Get(headerNode) != "" || a.header.Get(headerAppliedIndex) != "" {
		t.Errorf("alone: %s %v", a.body, a.header)
	}
	alone.do("GET", "/v1/jobs?consistency=x", key, "").refused(400, "consistency")
}

// Of a node without a leader a request waits, for so long, and is then told that
// nothing was done.
func TestNoLeader(t *testing.T) {
	c := following("")
	s := startNode(t, c)
	a := s.do("POST", "/v1/send", "hp_live_x", "{}")
	a.refused(503, "no node leads", "nothing was done")
	if a.header.Get("Retry-After") != "1" {
		t.Errorf("Retry-After %q", a.header.Get("Retry-After"))
	}
	for _, path := range []string{"/healthz", "/metrics", "/v1/openapi.json"} {
		if a := s.do("GET", path, "", ""); a.status != http.StatusOK {
			t.Errorf("%s: %d", path, a.status)
		}
	}
	s.do("GET", "/v1/cluster", adminToken, "").want(200)
	s.do("POST", "/v1/cluster/snapshot", adminToken, "").want(200)
	s.do("GET", "/v1/nowhere", "", "").refused(404)
}

// A waiting request is answered as soon as the node itself leads, or knows who does.
func TestWaitsForLeader(t *testing.T) {
	c := following("")
	s := startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: time.Minute}, nil)
	elect := func(what string, change func()) {
		t.Helper()
		done := make(chan *answer, 1)
		go func() { done <- s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`) }()
		eventually(t, "it waits", func() bool { return s.proxy.waiting.Load() == 1 })
		c.change(func() { c.standing.Term++ }) // which is not it
		c.change(change)
		if a := <-done; a.status != 201 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	elect("itself", func() { c.standing, c.reign = leading().standing, 3 })
	c.change(func() { c.standing, c.reign = following("").standing, 0 })
	c.reply = func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error {
		resp.SetStatusCode(201)
		resp.Header.SetContentType("application/json")
		resp.SetBodyString(`{"account_id":"acc_04t9qm2x7c3e0","name":"x","api_key":"hp_live_` + strings.Repeat("0", 32) + `","signing_secret":"whsec_` + strings.Repeat("A", 43) + `=","created_at":"2026-06-10T14:22:10Z"}`)
		resp.Header.Set("Cache-Control", "no-store")
		resp.Header.Set("X-Request-Id", "x")
		return nil
	}
	elect("another", func() { c.standing.Leader = "n3" })
	if c.asked[0] != "n3" {
		t.Errorf("asked %q", c.asked)
	}
}

// More than LeaderWaiters do not wait.
func TestWaitersAreBounded(t *testing.T) {
	c := following("")
	s := startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: time.Minute, LeaderWaiters: 2}, nil)
	var waiting sync.WaitGroup
	for range 2 {
		waiting.Go(func() { s.do("GET", "/v1/jobs", "hp_live_x", "") })
	}
	eventually(t, "two wait", func() bool { return s.proxy.waiting.Load() == 2 })
	s.do("GET", "/v1/jobs", "hp_live_x", "").refused(503, "too many requests wait")
	c.change(func() { c.standing, c.reign = leading().standing, 3 })
	waiting.Wait()
}

// After an answer that says that nothing was done, and where a request cannot be
// sent, another node is asked, once there is one; after an unknown outcome none.
func TestAsksAgainOnlyWhenNothingWasDone(t *testing.T) {
	c := following("n2")
	s := startNode(t, c)
	reply := func(fn func(*fasthttp.Response) error) {
		c.change(func() {
			c.asked = nil
			c.reply = func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error { return fn(resp) }
		})
	}
	reply(func(*fasthttp.Response) error { return fmt.Errorf("%w: broken off", ErrUnanswered) })
	a := s.do("POST", "/v1/send", "hp_live_x", "{}")
	a.refused(503, "outcome unknown", "may have been accepted", "same idempotency key")
	if n := c.timesAsked(); n != 1 || a.header.Get("Retry-After") != "1" {
		t.Errorf("asked %d times, Retry-After %q", n, a.header.Get("Retry-After"))
	}
	says := map[string]string{"not sent": "the node that leads, n2, cannot be reached", "not leading": "no node leads"}
	for what, fn := range map[string]func(*fasthttp.Response) error{
		"not sent": func(*fasthttp.Response) error { return fmt.Errorf("%w: refused", ErrNotSent) },
		"not leading": func(resp *fasthttp.Response) error {
			resp.SetStatusCode(503)
			resp.Header.Set(headerNotLeading, "true")
			return nil
		},
	} {
		reply(fn)
		s.do("POST", "/v1/send", "hp_live_x", "{}").refused(503, says[what], "nothing was done")
		if n := c.timesAsked(); n != 1 {
			t.Errorf("%s: asked %d times", what, n)
		}
		c.change(func() { c.reply = elected(c) })
		c.change(func() { c.standing.Leader = "n2" })
		if a := s.do("GET", "/v1/jobs/job_x", "hp_live_x", ""); a.status != 404 {
			t.Errorf("%s: %d %s", what, a.status, a.body)
		}
	}
	metrics := s.do("GET", "/metrics", "", "").body
	for _, want := range []string{
		`harepost_api_proxied_requests_total{outcome="unknown"} 1`, `harepost_api_proxied_requests_total{outcome="not_sent"} 4`,
		`harepost_api_proxied_requests_total{outcome="no_leader"} 2`, `harepost_api_proxied_requests_total{outcome="answered"} 2`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("no %s", want)
		}
	}
}

// A node that hears of a leader and gets no request to it does not say that there is none,
// and tells why in its log: not with every request.
func TestLeaderOutOfReach(t *testing.T) {
	c := following("n2")
	c.reply = func(context.Context, *fasthttp.Request, *fasthttp.Response) error {
		return fmt.Errorf("%w: the certificate has expired", ErrNotSent)
	}
	s := startNode(t, c)
	for range 3 {
		s.do("POST", "/v1/send", "hp_live_x", "{}").refused(503, "the node that leads, n2, cannot be reached from this one", "nothing was done")
	}
	said := func(want int) {
		t.Helper()
		if log := s.log.String(); strings.Count(log, "the certificate has expired") != want {
			t.Errorf("the log does not say why %d times:\n%s", want, log)
		}
	}
	said(1)
	s.proxy.saidWhy.Add(-int64(sayWhyEvery))
	s.do("GET", "/v1/jobs", "hp_live_x", "").refused(503, "cannot be reached")
	said(2)
	// It does not lead any more when the request turns out not to reach it.
	c.change(func() {
		c.reply = func(context.Context, *fasthttp.Request, *fasthttp.Response) error {
			c.change(func() { c.standing.Leader = "" })
			return ErrNotSent
		}
	})
	s.do("GET", "/v1/jobs", "hp_live_x", "").refused(503, "no node leads")
}

// elected is a node that says that it does not lead, and tells who does, who then
// answers 404.
func elected(c *fakeCluster) func(context.Context, *fasthttp.Request, *fasthttp.Response) error {
	return func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error {
		if c.timesAsked()%2 == 0 {
			resp.SetStatusCode(503)
			resp.Header.Set(headerNotLeading, "true")
			c.change(func() { c.standing.Leader = "n3" })
			return nil
		}
		resp.SetStatusCode(404)
		resp.Header.SetContentType("application/json")
		resp.SetBodyString(`{"error":"not found"}`)
		resp.Header.Set("X-Request-Id", "x")
		return nil
	}
}

// startFollower starts a node whose engine never leads.
func startFollower(t testing.TB, c *fakeCluster) *testServer {
	return startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: 40 * time.Millisecond},
		func(o *engine.Options) { o.Replica = neverLeads{} })
}

// neverLeads opens logs of a node that is never elected.
type neverLeads struct{}

func (neverLeads) Prepare(vfs.FS, string) (string, error)        { return "", nil }
func (neverLeads) OpenLog(engine.LogOptions) (engine.Log, error) { return emptyLog{}, nil }
func (neverLeads) LeadsAlone() bool                              { return false }

// emptyLog has nothing, and takes nothing.
type emptyLog struct{}

func (emptyLog) Replay(uint64, func(engine.Committed) error) error { return nil }
func (emptyLog) FirstIndex() uint64                                { return 0 }
func (emptyLog) Start() error                                      { return nil }
func (emptyLog) Append(uint64, []byte, any) error                  { return engine.ErrNotLeader }
func (emptyLog) AppendBatch(uint64, []engine.Proposal) error       { return engine.ErrNotLeader }
func (emptyLog) AppendLater(uint64, []byte, any) error             { return engine.ErrNotLeader }
func (emptyLog) MayDispatch() bool                                 { return false }
func (emptyLog) Release(uint64) error                              { return nil }
func (emptyLog) CopyTo(string, uint64) (uint64, error)             { return 0, nil }
func (emptyLog) MostBytes() int                                    { return 1 << 20 }
func (emptyLog) Bytes() int64                                      { return 0 }
func (emptyLog) NoSpace() error                                    { return nil }
func (emptyLog) Close() error                                      { return nil }

// A follower is ready, and answers stale reads by itself.
func TestFollower(t *testing.T) {
	c := following("n2")
	c.reply = func(context.Context, *fasthttp.Request, *fasthttp.Response) error { return ErrUnanswered }
	s := startFollower(t, c)
	a := s.do("GET", "/readyz", "", "").want(200)
	if node := a["node"].(map[string]any); a["accepting_sends"] != true || node["role"] != "follower" || node["leader_id"] != "n2" || node["leader_contact_ms"] != float64(20) {
		t.Errorf("%v", a)
	}
	stale := s.do("GET", "/v1/accounts?consistency=stale", adminToken, "")
	if stale.want(200); stale.header.Get(headerAge) != "20" || stale.header.Get(headerAppliedIndex) != "100" {
		t.Errorf("%v", stale.header)
	}
	if n := c.timesAsked(); n != 0 {
		t.Errorf("asked the leader %d times", n)
	}
	c.change(func() { c.standing.Leader = "" })
	s.do("GET", "/readyz", "", "").refused(503, "not ready", "no leader is known", "role follower")
	if page := s.do("GET", "/metrics", "", "").body; !strings.Contains(page, "harepost_accepting_sends 0\n") {
		t.Error("a node without a leader accepts sends")
	}
}

// An engine that finds out by itself that it does not lead has done nothing: the
// one that leads is asked.
func TestEngineFindsOutThatItDoesNotLead(t *testing.T) {
	c := leading()
	s := startFollower(t, c)
	c.reply = func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error {
		resp.SetStatusCode(204)
		resp.Header.Set("X-Request-Id", "x")
		return nil
	}
	done := make(chan *answer, 1)
	go func() { done <- s.do("POST", "/v1/accounts", adminToken, `{"name":"x"}`) }()
	a := <-done // nothing changes
	a.refused(503, "no node leads")
	// A request that came from another node goes back to it.
	peer := servePeers(t, s)
	c.change(func() { c.standing.Leader, c.reign = "n2", 0 })
	resp := peer.do(t, "POST", "/v1/accounts", `{"name":"x"}`)
	if resp.StatusCode() != 503 || string(resp.Header.Peek(headerNotLeading)) != "true" || c.timesAsked() != 0 {
		t.Errorf("%d %s, asked %d times", resp.StatusCode(), resp.Body(), c.timesAsked())
	}
}

// Leadership goes on when the requests under way are answered; those that come
// meanwhile wait, and go to the next leader.
func TestHandOver(t *testing.T) {
	c := leading()
	s := startServer(t, Options{Dev: true, Cluster: c, NodeID: "n1", LeaderPatience: time.Minute}, nil)
	c.change(func() {
		c.transferring = func() {
			if n := s.proxy.running.Load(); n != 1 { // the transfer itself
				t.Errorf("%d requests are under way", n)
			}
			c.change(func() { c.standing, c.reign = following("n2").standing, 0 })
		}
		c.reply = func(_ context.Context, _ *fasthttp.Request, resp *fasthttp.Response) error {
			resp.SetStatusCode(404)
			resp.Header.SetContentType("application/json")
			resp.Header.Set("X-Request-Id", "x")
			resp.SetBodyString(`{"error":"not found"}`)
			return nil
		}
	})
	s.proxy.settle = time.Minute
	if s.proxy.enter() != nil { // a request that is under way
		t.Fatal("none may enter")
	}
	transferred, asked := make(chan *answer, 1), make(chan *answer, 1)
	go func() { transferred <- s.do("POST", "/v1/cluster/transfer", adminToken, "") }()
	eventually(t, "it is handed over", func() bool { return s.proxy.handingOver.Load() != nil })
	go func() { asked <- s.do("GET", "/v1/jobs/job_x", "hp_live_x", "") }()
	eventually(t, "the new one waits", func() bool { return s.proxy.waiting.Load() == 1 })
	if n := c.timesAsked(); n != 0 {
		t.Errorf("asked %d times", n)
	}
	s.proxy.running.Add(-1)
	if a := (<-transferred).want(200); a["leader_id"] != "n2" {
		t.Errorf("%v", a)
	}
	(<-asked).refused(404)
	if n := c.timesAsked(); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Attempts under way end before another node leads, which would make them again. Sends
// are answered meanwhile.
func TestHandOverLetsAttemptsEnd(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	s.proxy.quiesce = time.Hour
	begun, goOn := make(chan struct{}), make(chan struct{})
	letGo := sync.OnceFunc(func() { close(goOn) })
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { close(begun); <-goOn }))
	t.Cleanup(slow.Close)
	t.Cleanup(letGo) // before the receiver is closed, which waits for it
	other := startReceiver(t, 200)
	key := s.account()
	id := s.sendOK(key, `{"target":"`+slow.URL+`"}`)
	<-begun
	c.change(func() {
		c.transferring = func() {
			if d := s.do("GET", "/v1/deliveries/"+id+"?consistency=stale", key, "").want(200); d["status"] != "delivered" {
				t.Errorf("leadership goes on with an attempt under way: %v", d)
			}
		}
	})
	s.do("POST", "/v1/cluster/transfer", adminToken, `{"node_id":"gone"}`).refused(404) // at once
	transferred, second := make(chan *answer, 1), make(chan error, 1)
	go func() { transferred <- s.do("POST", "/v1/cluster/transfer", adminToken, `{"node_id":"needed"}`) }()
	eventually(t, "it is to be handed over", s.proxy.transfers.Load)
	s.do("POST", "/v1/cluster/transfer", adminToken, "").refused(409, "already")
	go func() { second <- s.HandOver(t.Context(), "n2") }() // as at SIGTERM: it waits for the other
	next := s.sendOK(key, `{"target":"`+other.url+`"}`)
	letGo()
	(<-transferred).refused(409)
	if err := <-second; err != nil {
		t.Error(err)
	}
	s.settled(key, next)
}

// One that fails leaves everything as it was.
func TestHandOverThatFails(t *testing.T) {
	c := leading()
	s := startNode(t, c)
	target := startReceiver(t, 200)
	works := func() {
		t.Helper()
		key := s.account()
		s.settled(key, s.sendOK(key, `{"target":"`+target.url+`"}`))
	}
	s.do("POST", "/v1/cluster/transfer", adminToken, `{"node_id":"needed"}`).refused(409)
	works()
	if err := s.HandOver(t.Context(), "gone"); !errors.Is(err, ErrNoNode) {
		t.Error(err)
	}
	works()
}
