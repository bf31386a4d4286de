package engine

import (
	"cmp"
	"context"
	"slices"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/lane"
	"github.com/harepost/harepost/engine/state"
)

// A DestinationRef names lanes of an account: that of a flow, or those to a host.
type DestinationRef struct {
	FlowKey string // if it is not empty, the others are

	Scheme string // empty: both
	Host   string // in the form of a Target's
	Port   uint16 // 0: all
}

// A DestinationChange says what is to be set; nil: not this.
type DestinationChange struct {
	Rate        *float64 // 0: none; else within the bounds of package lane, and no send changes it
	Parallelism *int     // as Rate
	Paused      *bool
}

// DestinationsOf are the lanes that ref names and of which anything is known, by
// name. ErrNotFound if there is none.
func (e *Engine) DestinationsOf(_ context.Context, a AccountID, ref DestinationRef) ([]Destination, error) {
	if err := e.reads.begin(); err != nil {
		return nil, err
	}
	defer e.reads.end()
	list := e.resolve(a, &ref)
	if len(list) == 0 {
		return nil, ErrNotFound
	}
	return list, nil
}

// ChangeDestinations changes what is set for the lanes that ref names, and returns
// them as they are then. Where none is known it is the one that ref would make:
// https, or http for port 80, at the scheme's port. Errors: ErrTooMany,
// ErrUnauthorized of an account that is deleted, and those of a command.
func (e *Engine) ChangeDestinations(ctx context.Context, a AccountID, ref DestinationRef, c DestinationChange) ([]Destination, error) {
	if err := e.ended(); err != nil {
		return nil, err
	}
	mu := e.settings.of(a)
	mu.Lock()
	defer mu.Unlock()
	term := e.reign.Load()
	if !e.state().Directory().Has(a) {
		return nil, ErrUnauthorized
	}
	list := e.resolve(a, &ref)
	if len(list) == 0 {
		list = []Destination{ref.one()}
	}
	var changed []lane.Setting
	made := 0
	for i := range list {
		l := state.Lane{Account: a, Destination: list[i].ID}
		set, ok := e.state().Directory().Setting(l)
		if !ok {
			set = lane.Setting{Account: a, Destination: l.Destination, Name: list[i].Name}
		}
		if !c.of(&set) {
			continue
		}
		if !ok {
			if err := e.roomForSetting(a, made); err != nil {
				return nil, err
			}
			made++
		}
		changed = append(changed, set)
	}
	if err := e.putLanes(ctx, term, changed); err != nil {
		return nil, err
	}
	for i := range list {
		l := state.Lane{Account: a, Destination: list[i].ID}
		name := list[i].Name
		v, _ := e.dispatcher().view(l)
		list[i] = e.destination(l, &v)
		list[i].Name = name // also of one that nothing is set for any more
	}
	return list, nil
}

// of makes the change of a setting, and reports whether it is another one then.
func (c *DestinationChange) of(s *lane.Setting) bool {
	was := *s
	if c.Rate != nil {
		s.Rate, s.PinnedRate = *c.Rate, *c.Rate != 0
	}
	if c.Parallelism != nil {
		s.Parallelism, s.PinnedParallelism = *c.Parallelism, *c.Parallelism != 0
	}
	if c.Paused != nil {
		s.Paused = *c.Paused
	}
	return *s != was
}

// one is the lane that ref names if there is none yet.
func (r *DestinationRef) one() Destination {
	if r.FlowKey != "" {
		return Destination{ID: delivery.FlowDestination(r.FlowKey), Name: LaneName{Kind: lane.Flow, Text: r.FlowKey}}
	}
	t := Target{Scheme: r.Scheme, Host: r.Host, Port: r.Port}
	if t.Scheme == "" {
		t.Scheme = "https"
		if t.Port == httpPort {
			t.Scheme = "http"
		}
	}
	if t.Port == 0 {
		t.Port = httpsPort
		if t.Scheme == "http" {
			t.Port = httpPort
		}
	}
	return Destination{ID: t.Destination(), Name: lane.HostName(&t)}
}

// The ports of the schemes.
const (
	httpPort  = 80
	httpsPort = 443
)

// exact are the lanes that ref names by themselves, whether they are known or not.
func (r *DestinationRef) exact() []Destination {
	if r.FlowKey != "" || r.Scheme != "" && r.Port != 0 {
		return []Destination{r.one()}
	}
	secure, plain := *r, *r
	secure.Scheme, plain.Scheme = "https", "http"
	return []Destination{secure.one(), plain.one()}
}

// resolve finds the lanes that ref names and of which anything is known, by name.
func (e *Engine) resolve(a AccountID, ref *DestinationRef) (list []Destination) {
	seen := make(map[uint64]bool)
	for _, d := range ref.exact() {
		l := state.Lane{Account: a, Destination: d.ID}
		v, busy := e.dispatcher().view(l)
		if name := e.nameOf(l); busy || name != (LaneName{}) {
			found := e.destination(l, &v)
			found.Name = d.Name
			list, seen[d.ID] = append(list, found), true
		}
	}
	if ref.FlowKey == "" && ref.Port == 0 { // at other ports too
		e.eachLane(a, 0, func(d *Destination) {
			if !seen[d.ID] && d.Name.Host() == ref.Host {
				list = append(list, *d)
			}
		})
	}
	slices.SortFunc(list, func(x, y Destination) int { return cmp.Compare(x.Name.Text, y.Name.Text) })
	return list
}
