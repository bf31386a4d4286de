package torture

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"net/http"
	"time"
)

// A Kind is the name of a kind of event.
type Kind string

// The kinds of events.
const (
	KillLeader     Kind = "kill leader"
	KillFollower   Kind = "kill follower"
	KillAll        Kind = "kill all"
	PauseLeader    Kind = "pause leader"
	PauseFollower  Kind = "pause follower"
	UnplugLeader   Kind = "unplug leader"
	UnplugFollower Kind = "unplug follower"
	OneWay         Kind = "one way"
	PartialCut     Kind = "partial cut"
	FullDisk       Kind = "full disk"
	FailingDisk    Kind = "failing disk"
	RestartAll     Kind = "rolling restart"
	UpgradeAll     Kind = "rolling upgrade"
	Transfer       Kind = "transfer"
	LostDisk       Kind = "lost disk"
	ComeBack       Kind = "come back"
	DieComingBack  Kind = "die coming back"
)

// A kind is how to make an event.
type kind struct {
	name     Kind
	isolated bool // needs networks or disks of the nodes' own
	cluster  bool // needs more than one node
	majority bool // leaves one that can go on at once
	ordinary bool // no send with a key fails beyond a retry

	// play does the harm, calls harmed right after it, and undoes it in the end.
	play func(*run, context.Context, *Event) error
}

var kinds []kind

func init() { // the methods refer to kinds
	kinds = []kind{
		{KillLeader, false, false, true, false, (*run).killLeader},
		{KillFollower, false, true, true, false, (*run).killFollower},
		{KillAll, false, false, false, false, (*run).killAll},
		{PauseLeader, false, false, true, false, (*run).pauseLeader},
		{PauseFollower, false, true, true, false, (*run).pauseFollower},
		{UnplugLeader, true, false, true, false, (*run).unplugLeader},
		{UnplugFollower, true, true, true, false, (*run).unplugFollower},
		{OneWay, true, true, true, false, (*run).oneWay},
		{PartialCut, true, true, true, false, (*run).partialCut},
		{FullDisk, true, false, false, false, (*run).fullDisk},
		{FailingDisk, true, false, false, false, (*run).failingDisk},
		{RestartAll, false, false, true, true, (*run).restartAll},
		{UpgradeAll, false, true, true, true, (*run).upgradeAll},
		{Transfer, false, true, true, false, (*run).transfer},
		{LostDisk, false, true, true, false, (*run).lostDisk},
		{ComeBack, false, true, true, false, (*run).comeBack},
		{DieComingBack, false, true, false, false, (*run).dieComingBack},
	}
}

func kindOf(name Kind) *kind {
	for i := range kinds {
		if kinds[i].name == name {
			return &kinds[i]
		}
	}
	return nil
}

// between draws a duration, short ones as often as long ones: each doubling has
// the same share.
func between(r *rand.Rand, least, most time.Duration) time.Duration {
	least = min(least, most)
	d := math.Exp(math.Log(float64(least)) + r.Float64()*(math.Log(float64(most))-math.Log(float64(least))))
	return time.Duration(d).Round(time.Millisecond)
}

// victim is the node that leads, or one that follows.
func (r *run) victim(leads bool) *node {
	leader, _ := r.watch.now()
	if leads {
		return leader
	}
	others := r.others(leader)
	return others[r.random.IntN(len(others))]
}

func (r *run) others(but *node) (others []*node) {
	for _, n := range r.cluster.nodes {
		if n != but {
			others = append(others, n)
		}
	}
	return others
}

// any is the leader or a follower.
func (r *run) any() *node {
	return r.victim(len(r.cluster.nodes) == 1 || r.random.IntN(2) == 0)
}

func (r *run) killLeader(ctx context.Context, e *Event) error {
	return r.killOne(ctx, e, r.victim(true))
}

func (r *run) killFollower(ctx context.Context, e *Event) error {
	return r.killOne(ctx, e, r.victim(false))
}

func (r *run) killOne(ctx context.Context, e *Event, n *node) error {
	down := r.draw(100*time.Millisecond, 5*time.Second)
	e.say("%s, down for %s", n.id, down)
	n.kill()
	r.harmed()
	if err := waitFor(ctx, down); err != nil {
		return err
	}
	return n.start(r.cluster.bootstrap()...)
}

func (r *run) killAll(ctx context.Context, e *Event) error {
	order := r.random.Perm(len(r.cluster.nodes))
	e.say("started again in the order %v", order)
	for _, i := range order {
		r.cluster.nodes[i].cmd.Process.Kill()
	}
	r.harmed()
	for _, n := range r.cluster.nodes {
		n.kill()
	}
	for _, i := range order {
		if err := waitFor(ctx, r.draw(time.Millisecond, time.Second)); err != nil {
			return err
		}
		if err := r.cluster.nodes[i].start(r.cluster.bootstrap()...); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) pauseLeader(ctx context.Context, e *Event) error {
	return r.pauseOne(ctx, e, r.victim(true))
}

func (r *run) pauseFollower(ctx context.Context, e *Event) error {
	return r.pauseOne(ctx, e, r.victim(false))
}

func (r *run) pauseOne(ctx context.Context, e *Event, n *node) error {
	d := r.draw(200*time.Millisecond, 10*time.Second)
	e.say("%s for %s", n.id, d)
	if err := n.pause(); err != nil {
		return err
	}
	r.harmed()
	err := waitFor(ctx, d)
	if wakeErr := n.wake(); err == nil {
		err = wakeErr
	}
	return err
}

func (r *run) unplugLeader(ctx context.Context, e *Event) error {
	return r.unplugOne(ctx, e, r.victim(true))
}

func (r *run) unplugFollower(ctx context.Context, e *Event) error {
	return r.unplugOne(ctx, e, r.victim(false))
}

func (r *run) unplugOne(ctx context.Context, e *Event, n *node) error {
	d := r.draw(time.Second, 30*time.Second)
	e.say("%s for %s", n.id, d)
	if err := r.cluster.net.pull(n.index); err != nil {
		return err
	}
	r.harmed()
	if err := waitFor(ctx, d); err != nil {
		return err
	}
	return r.cluster.net.plug(n.index)
}

// A link is what one node sends to another.
type link struct{ from, to *node }

// cut loses what goes over links, for a while.
func (r *run) cut(ctx context.Context, e *Event, what string, links []link) error {
	d := r.draw(time.Second, 30*time.Second)
	e.say("%s for %s", what, d)
	for _, l := range links {
		if err := r.cluster.net.mute(l.from.index, l.to.index); err != nil {
			return err
		}
	}
	r.harmed()
	if err := waitFor(ctx, d); err != nil {
		return err
	}
	for _, l := range links {
		if err := r.cluster.net.unmute(l.from.index, l.to.index); err != nil {
			return err
		}
	}
	return nil
}

// oneWay loses one direction of links that work in the other.
func (r *run) oneWay(ctx context.Context, e *Event) error {
	leader := r.victim(true)
	others := r.others(leader)
	one := others[r.random.IntN(len(others))]
	switch r.random.IntN(5) {
	case 0:
		return r.cut(ctx, e, fmt.Sprintf("no node hears %s, which leads", leader.id), []link{{leader, others[0]}, {leader, others[1]}})
	case 1:
		return r.cut(ctx, e, fmt.Sprintf("%s, which leads, hears no node", leader.id), []link{{others[0], leader}, {others[1], leader}})
	case 2:
		return r.cut(ctx, e, fmt.Sprintf("%s does not hear %s, which leads", one.id, leader.id), []link{{leader, one}})
	case 3:
		return r.cut(ctx, e, fmt.Sprintf("%s, which leads, does not hear %s", leader.id, one.id), []link{{one, leader}})
	default:
		return r.cut(ctx, e, fmt.Sprintf("%s does not hear %s, neither leads", others[0].id, others[1].id), []link{{others[1], others[0]}})
	}
}

// partialCut parts the leader from one follower: the third hears both.
func (r *run) partialCut(ctx context.Context, e *Event) error {
	leader := r.victim(true)
	others := r.others(leader)
	one := others[r.random.IntN(len(others))]
	return r.cut(ctx, e, fmt.Sprintf("%s, which leads, and %s", leader.id, one.id), []link{{leader, one}, {one, leader}})
}

// diskTrouble is how long a disk is in trouble at most, while large sends have it
// notice.
const diskTrouble = 15 * time.Second

// fullDisk leaves a node next to no space, and sends what does not fit.
func (r *run) fullDisk(ctx context.Context, e *Event) error {
	n := r.any()
	leave := int64(1+r.random.IntN(16)) << 20
	e.say("%s, %d MiB left", r.named(n), leave>>20)
	if err := n.disk.fill(leave); err != nil {
		return err
	}
	r.harmed()
	r.load.large.Store(true)
	err := r.endsWithin(ctx, n, r.draw(2*time.Second, diskTrouble))
	r.load.large.Store(false)
	if err != nil {
		return err
	}
	if n.gone() {
		e.say("; it ended: %s", n.how())
	}
	if err := n.disk.drain(); err != nil {
		return err
	}
	if n.gone() {
		return n.start(r.cluster.bootstrap()...)
	}
	return nil
}

func (r *run) named(n *node) string {
	if leader, _ := r.watch.now(); n == leader {
		return n.id + ", which leads"
	}
	return n.id
}

// endsWithin waits until a node has ended, or so long.
func (r *run) endsWithin(ctx context.Context, n *node, d time.Duration) error {
	select {
	case <-n.ended:
		return nil
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// failingDisk has a node's disk fail what needs new blocks, until the node ends. One
// that lives on is killed, since its disk has to be mended.
func (r *run) failingDisk(ctx context.Context, e *Event) error {
	n := r.any()
	e.say("%s", r.named(n))
	if err := n.disk.wear(); err != nil {
		return err
	}
	r.harmed()
	r.load.large.Store(true)
	err := r.endsWithin(ctx, n, diskTrouble)
	r.load.large.Store(false)
	if err != nil {
		return err
	}
	if n.gone() {
		e.say("; it ended: %s", n.how())
	} else {
		e.say("; it lived on")
		n.kill()
	}
	if err := waitFor(ctx, r.draw(100*time.Millisecond, 2*time.Second)); err != nil {
		return err
	}
	if err := n.disk.mend(ctx); err != nil {
		return err
	}
	return n.start(r.cluster.bootstrap()...)
}

// restartAll ends and starts one node after the other.
func (r *run) restartAll(ctx context.Context, e *Event) error {
	r.harmed()
	for _, i := range r.random.Perm(len(r.cluster.nodes)) {
		if err := r.restart(ctx, e, r.cluster.nodes[i]); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) restart(ctx context.Context, e *Event, n *node) error {
	e.say("%s ", r.named(n))
	if err := r.stopInOrder(ctx, n); err != nil {
		return err
	}
	if err := n.start(r.cluster.bootstrap()...); err != nil {
		return err
	}
	return r.settle(ctx)
}

// stopInOrder ends a node by SIGTERM; how it ends is a promise.
func (r *run) stopInOrder(ctx context.Context, n *node) error {
	ctx, cancel := context.WithTimeout(ctx, r.options.Patience)
	defer cancel()
	if err := n.stop(ctx); err != nil {
		r.broke("%s\n%s", err, n.logs.tail(20))
	}
	return context.Cause(ctx)
}

// transfer has another node lead.
func (r *run) transfer(ctx context.Context, e *Event) error {
	to := r.victim(false)
	ask := map[string]any{}
	if r.random.IntN(2) == 0 {
		ask["node_id"] = to.id
		e.say("to %s", to.id)
	} else {
		e.say("to whom the leader wants")
	}
	r.harmed()
	any := r.cluster.nodes[r.random.IntN(len(r.cluster.nodes))]
	if err := r.cluster.admin.call(ctx, http.MethodPost, any.url+"/v1/cluster/transfer", adminToken, ask, nil); err != nil {
		e.say("; answered: %v", err)
	}
	return nil
}

// lostDisk is a machine that is lost with everything, and replaced.
func (r *run) lostDisk(ctx context.Context, e *Event) error {
	n := r.any()
	e.say("%s", r.named(n))
	n.kill()
	r.harmed()
	through := r.others(n)[r.random.IntN(len(r.cluster.nodes)-1)]
	asking, cancel := context.WithTimeout(ctx, r.options.Patience)
	defer cancel()
	err := r.cluster.admin.until(asking, func() error {
		return r.cluster.admin.call(asking, http.MethodDelete, through.url+"/v1/cluster/nodes/"+n.id, adminToken, nil, nil)
	})
	if err != nil {
		return fmt.Errorf("torture: remove %s: %w", n.id, err)
	}
	if err := n.disk.lose(); err != nil {
		return err
	}
	if err := waitFor(ctx, r.draw(100*time.Millisecond, 5*time.Second)); err != nil {
		return err
	}
	return n.start()
}
