package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os/exec"
	"time"
)

// versionsOf asks the programs for their versions, by path. Without another program there are none.
func versionsOf(ctx context.Context, o *Options) (map[string]string, error) {
	if o.Other == "" {
		return nil, nil
	}
	versions := map[string]string{}
	for _, binary := range []string{o.Binary, o.Other} {
		cmd := exec.CommandContext(ctx, binary, "version", "--json")
		cmd.Env = environment()
		text, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("torture: version of %s: %w", binary, err)
		}
		var v struct{ Version string }
		if err := json.Unmarshal(text, &v); err != nil {
			return nil, fmt.Errorf("torture: version of %s: %w", binary, err)
		}
		versions[binary] = v.Version
	}
	if versions[o.Binary] == versions[o.Other] {
		return nil, fmt.Errorf("torture: %s is of the same version, %s: nothing would tell the two apart", o.Other, versions[o.Other])
	}
	return versions, nil
}

// upgradeAll has one node after the other run the other program; the next time, the
// one from before.
func (r *run) upgradeAll(ctx context.Context, e *Event) error {
	to := r.options.Other
	if r.cluster.nodes[0].binary == to {
		to = r.options.Binary
	}
	e.say("to %s: ", r.versions[to])
	r.harmed()
	order := r.random.Perm(len(r.cluster.nodes))
	for done, i := range order {
		n := r.cluster.nodes[i]
		n.binary = to
		if err := r.restart(ctx, e, n); err != nil {
			return err
		}
		if err := r.shown(ctx); err != nil {
			return err
		}
		if done == len(order)-1 {
			return nil
		}
		for range 2 { // versions
			if err := r.otherLeads(ctx, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// shown waits until every node shows the version of every node, as it runs.
func (r *run) shown(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("the versions are not shown"))
	defer cancel()
	return r.cluster.admin.until(ctx, func() error {
		for _, n := range r.cluster.nodes {
			var s clusterStatus
			if err := r.cluster.admin.call(ctx, http.MethodGet, n.url+"/v1/cluster", adminToken, nil, &s); err != nil {
				return err
			}
			shown := map[string]string{}
			for _, m := range s.Members {
				shown[m.ID] = m.Version
			}
			for _, m := range r.cluster.nodes {
				if want := r.versions[m.binary]; shown[m.id] != want {
					return fmt.Errorf("%s shows that %s runs version %q, and it runs %q", n.id, m.id, shown[m.id], want)
				}
			}
		}
		return nil
	})
}

// otherLeads hands the lead to a node of the other version than leads, for a while.
func (r *run) otherLeads(ctx context.Context, e *Event) error {
	leader, _ := r.watch.now()
	var others []*node
	for _, n := range r.cluster.nodes {
		if n.binary != leader.binary {
			others = append(others, n)
		}
	}
	to := others[r.random.IntN(len(others))]
	within, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("the lead is not handed on"))
	defer cancel()
	err := r.cluster.admin.until(within, func() error {
		if leader, _ := r.watch.now(); leader == to {
			return nil
		}
		err := r.cluster.admin.call(within, http.MethodPost, to.url+"/v1/cluster/transfer", adminToken, map[string]any{"node_id": to.id}, nil)
		if err == nil {
			err = fmt.Errorf("%s is not seen to lead", to.id)
		}
		return err
	})
	if err != nil {
		return err
	}
	e.say("(%s leads) ", to.id)
	return waitFor(ctx, r.draw(500*time.Millisecond, 5*time.Second))
}
