package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// An admin asks the nodes as their operator does.
type admin struct {
	client *http.Client
	single bool // there is one node and no cluster
}

// adminToken is what the nodes know their operator by.
const adminToken = "the-operator-of-the-torture-chamber"

func newAdmin(single bool) *admin {
	return &admin{single: single, client: &http.Client{Transport: &http.Transport{
		DialContext: (&net.Dialer{Timeout: 500 * time.Millisecond}).DialContext, MaxIdleConnsPerHost: 8, IdleConnTimeout: 10 * time.Second,
	}}}
}

// askPatience is how long an operator waits for an answer.
const askPatience = 10 * time.Second

// call makes a request and decodes the answer. An answer other than a success is
// an error.
func (a *admin) call(ctx context.Context, method, url, token string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, askPatience)
	defer cancel()
	var text []byte
	if body != nil {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(text))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := a.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("%s %s: %d %.300s", method, url, resp.StatusCode, answer)
	}
	if into == nil || len(answer) == 0 {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// until repeats a call until it succeeds or ctx is done.
func (a *admin) until(ctx context.Context, call func() error) error {
	for {
		err := call()
		if err == nil {
			return nil
		}
		if waitFor(ctx, 100*time.Millisecond) != nil {
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// A standing is where a node says that it stands.
type standing struct {
	Node    string
	Role    string
	Term    uint64
	Leader  string
	Applied uint64
	Voters  int // members with a vote
}

const roleLeader = "leader"

// standing asks a node.
func (a *admin) standing(ctx context.Context, n *node) (standing, error) {
	if a.single {
		if err := a.call(ctx, http.MethodGet, n.url+"/readyz", adminToken, nil, nil); err != nil {
			return standing{}, err
		}
		return standing{Node: n.id, Role: roleLeader, Term: uint64(n.lives.Load()), Leader: n.id, Voters: 1}, nil
	}
	var s clusterStatus
	if err := a.call(ctx, http.MethodGet, n.url+"/v1/cluster", adminToken, nil, &s); err != nil {
		return standing{}, err
	}
	return s.standing(), nil
}

// A clusterStatus is the answer to GET /v1/cluster, as far as it matters here.
type clusterStatus struct {
	Node    string `json:"node_id"`
	Role    string `json:"role"`
	Term    uint64 `json:"term"`
	Leader  string `json:"leader_id"`
	Applied uint64 `json:"applied_index"`
	Members []struct {
		ID      string `json:"node_id"`
		Voter   bool   `json:"voter"`
		Version string `json:"version"`
	} `json:"nodes"`
}

func (s clusterStatus) standing() standing {
	st := standing{Node: s.Node, Role: s.Role, Term: s.Term, Leader: s.Leader, Applied: s.Applied}
	for _, m := range s.Members {
		if m.Voter {
			st.Voters++
		}
	}
	return st
}

// A watch looks who leads, several times a second, and tells the ledger.
type watch struct {
	admin  *admin
	nodes  []*node
	ledger *ledger

	mu     sync.Mutex
	leader *node
	term   uint64
}

const watchEvery = 100 * time.Millisecond

// run looks until ctx is done. Each node is asked on its own, so that one that does
// not answer holds nobody up.
func (w *watch) run(ctx context.Context) {
	var asking sync.WaitGroup
	defer asking.Wait()
	for _, n := range w.nodes {
		asking.Go(func() {
			tick := time.NewTicker(watchEvery)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					w.look(ctx, n)
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

func (w *watch) look(ctx context.Context, n *node) {
	ctx, cancel := context.WithTimeout(ctx, 5*watchEvery)
	defer cancel()
	if s, err := w.admin.standing(ctx, n); err == nil && s.Role == roleLeader {
		w.leads(n, s.Term)
	}
}

// leads notes that a node says that it leads. An earlier leader may say so, too,
// until it hears of the later term.
func (w *watch) leads(n *node, term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if term > w.term {
		w.leader, w.term = n, term
		w.ledger.lead(n.index)
	}
}

func (w *watch) now() (leader *node, term uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.leader, w.term
}
