package torture

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"time"
)

// dataBytes is --max-data-bytes where nodes come back. The log may have a quarter of
// it, and keeps a quarter of that for a node that has not answered for longAway.
func (o *Options) dataBytes() int { return max(64<<20, o.Away<<10) }

// awayBytes is how large a send is that is accepted while a node is away: all of them
// are about double what the log keeps, compressed.
func (o *Options) awayBytes() int { return o.dataBytes() / 16 * 3 / o.Away }

const longAway = 11 * time.Second

// An absence is a node that was away and has been started again.
type absence struct {
	node  *node
	upTo  uint64 // what the others had applied by then
	since time.Time
	life  string // how its log begins since
	whole bool   // it was seen with a whole snapshot; who dies as soon as it has one may not say so
}

// goAway kills a node, has the others accept what it will miss and shorten their logs,
// and starts it.
func (r *run) goAway(ctx context.Context, e *Event) (*absence, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("the others do not go on without a node"))
	defer cancel()
	n := r.victim(false)
	n.kill()
	began := time.Now()
	if err := r.load.flood(ctx, r.options.Away, r.options.awayBytes()); err != nil {
		return nil, fmt.Errorf("torture: sends while a node is away: %w", err)
	}
	e.say("%s away for %d sends, accepted in %.1f s", n.id, r.options.Away, time.Since(began).Seconds())
	if err := waitFor(ctx, longAway-time.Since(began)); err != nil {
		return nil, err
	}
	a := &absence{node: n, life: fmt.Sprintf("--- life %d of ", n.lives.Load()+1)}
	for _, other := range r.others(n) { // either may be the one that leads when the node is back
		err := r.cluster.admin.until(ctx, func() error {
			return r.cluster.admin.call(ctx, http.MethodPost, other.url+"/v1/cluster/snapshot", adminToken, nil, nil)
		})
		if err != nil {
			return nil, err
		}
		s, err := r.cluster.admin.standing(ctx, other)
		if err != nil {
			return nil, err
		}
		a.upTo = max(a.upTo, s.Applied)
	}
	a.since = time.Now()
	return a, n.start(r.cluster.bootstrap()...)
}

// isBack waits until the node stands where the others do, and sees whether a snapshot
// has brought it there.
func (r *run) isBack(ctx context.Context, e *Event, a *absence) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	e.say(", back after %.1f s", time.Since(a.since).Seconds())
	for text := range strings.Lines(a.node.logs.since(a.life)) {
		var l struct {
			Msg      string
			Received bool
			Bytes    int64
			Took     string
		}
		if json.Unmarshal([]byte(text), &l) == nil && l.Msg == "snapshot" && l.Received {
			a.whole = true
			e.say(", by a snapshot of %.1f MB, received in %s", float64(l.Bytes)/1e6, l.Took)
		}
	}
	return nil
}

// comeBack has a node come back, with nobody killed. What the log keeps is counted in
// entries, so that it may happen to have all that the node has missed: then it goes away
// again.
func (r *run) comeBack(ctx context.Context, e *Event) error {
	r.harmed()
	for range absences {
		a, err := r.goAway(ctx, e)
		if err != nil {
			return err
		}
		if err := r.isBack(ctx, e, a); err != nil || a.whole {
			return err
		}
		e.say(", without a snapshot; ")
	}
	r.broke("event %d, %s, %s: nobody came back by a snapshot", e.Number, e.Kind, e.What)
	return nil
}

// A phase is a time in the life of a snapshot that is sent to a node, told from what
// lies in the directories. Who comes back dies in it, or who sends.
type phase struct {
	name   string
	sender bool
	whole  bool // the receiver has all of it
	is     func(receiver, sender *node) bool
}

// phases are in an order in which one absence can have them all.
var phases = []phase{
	{"sending", true, false, func(receiver, sender *node) bool {
		return has(sender, "cluster/snapshots/checkpoint-*") && has(receiver, "cluster/snapshots/incoming-*/data")
	}},
	{"receiving", false, false, func(receiver, _ *node) bool { return has(receiver, "cluster/snapshots/incoming-*/data") }},
	{"received", false, true, func(receiver, _ *node) bool { return has(receiver, "cluster/snapshots/[0-9]*/data") }},
	// The state has left the snapshot, and is not in its place yet, or the old one is still there.
	{"restoring", false, true, func(receiver, _ *node) bool { return has(receiver, "state.*") }},
}

func has(n *node, pattern string) bool {
	found, _ := filepath.Glob(filepath.Join(n.dataDir(), pattern))
	return len(found) > 0
}

// absences is how often a node goes away for the phases to be met, some of which are
// over in a moment.
const absences = 6

// dieComingBack has a node come back, and kills it, or who sends to it, in each phase.
func (r *run) dieComingBack(ctx context.Context, e *Event) error {
	r.harmed()
	open := phases
	for range absences {
		a, err := r.goAway(ctx, e)
		if err != nil {
			return err
		}
		for hit := true; hit && len(open) > 0; {
			if hit, err = r.killIn(ctx, a, open[0]); err != nil {
				return err
			}
			if hit {
				e.say(", killed %s", open[0].name)
				open = open[1:]
			}
		}
		if err := r.isBack(ctx, e, a); err != nil || len(open) == 0 {
			return err
		}
		e.say("; %s was missed: ", open[0].name)
	}
	e.say("given up")
	if len(open) > 1 { // the last is over in a moment
		r.broke("event %d, %s, %s: nobody was killed %s", e.Number, e.Kind, e.What, open[0].name)
	}
	return nil
}

// killIn kills a node in a phase and starts it again. hit is false where the phase had
// passed before anyone died.
func (r *run) killIn(ctx context.Context, a *absence, p phase) (hit bool, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, fmt.Errorf("%s is not back", a.node.id))
	defer cancel()
	sender, _ := r.watch.now()
	back := make(chan error, 1)
	go func() { // ends with ctx
		back <- r.cluster.admin.until(ctx, func() error {
			s, err := r.cluster.admin.standing(ctx, a.node)
			if err == nil && s.Applied < a.upTo {
				err = fmt.Errorf("%s has applied %d of %d", a.node.id, s.Applied, a.upTo)
			}
			return err
		})
	}()
	glance := time.NewTicker(100 * time.Microsecond)
	defer glance.Stop()
	for !p.is(a.node, sender) {
		select {
		case err := <-back:
			return false, err
		case <-glance.C:
		}
	}
	victim := a.node
	if p.sender {
		victim = sender
	}
	victim.kill()
	hit = p.is(a.node, sender)
	a.whole = a.whole || hit && p.whole
	cancel()
	<-back
	return hit, victim.start(r.cluster.bootstrap()...)
}
