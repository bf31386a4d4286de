package torture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os/exec"
	"sync"
	"time"
)

// A run is one run, as its conductor sees it. Nothing else but the load, the
// receiver and the watch has goroutines, and none of these touches it.
type run struct {
	options *Options
	random  *rand.Rand // drawn from by the conductor alone
	ledger  *ledger
	cluster *cluster
	load    *load
	watch   *watch
	record  *Record

	versions map[string]string // of the programs, by path, where there are two
}

// Run makes a run. The error says why there is no record, or why it ends early; what
// was found wrong is in the record.
func Run(ctx context.Context, o Options) (*Record, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	r := &run{
		options: &o, random: rand.New(rand.NewPCG(o.Seed, 0)), ledger: openLedger(),
		record: &Record{Started: time.Now().UTC(), Seed: o.Seed, Nodes: o.Nodes, Isolated: o.Isolated, Rate: o.Rate},
	}
	var names *nameServer
	var err error
	if r.versions, err = versionsOf(ctx, &o); err != nil {
		return nil, err
	}
	r.cluster, err = openCluster(ctx, &o, func(host string) (string, error) {
		var err error
		if names, err = startNameServer(host); err != nil {
			return "", err
		}
		return names.address, nil
	})
	if names != nil {
		defer names.close()
	}
	if err != nil {
		return nil, err
	}
	defer r.cluster.close()
	target, err := startReceiver(r.ledger, r.cluster.net)
	if err != nil {
		return nil, err
	}
	defer target.close()
	if err := r.open(ctx, names); err != nil {
		return nil, r.explain(err)
	}
	err = r.conduct(ctx, target.url)
	r.finish()
	if err != nil {
		err = r.explain(err)
	}
	return r.record, err
}

// open starts the cluster.
func (r *run) open(ctx context.Context, names *nameServer) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("the cluster does not come up"))
	defer cancel()
	if err := r.cluster.open(ctx, names); err != nil {
		return err
	}
	return r.cluster.agree(ctx, false)
}

// conduct plays the events under load.
func (r *run) conduct(ctx context.Context, target string) error {
	var urls []string
	for _, n := range r.cluster.nodes {
		urls = append(urls, n.url)
	}
	r.load = newLoad(r.ledger, urls, target, r.cluster.key, r.options.Rate)
	r.watch = &watch{admin: r.cluster.admin, nodes: r.cluster.nodes, ledger: r.ledger}
	beside, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { r.load.run(beside) })
	running.Go(func() { r.watch.run(beside) })
	defer r.load.stop()
	defer running.Wait()
	defer stop()

	if err := r.settle(ctx); err != nil {
		return err
	}
	deck := []Kind{}
	for number := 1; number <= r.options.Events; number++ {
		if len(deck) == 0 {
			deck = append(deck, r.options.Kinds...)
			r.random.Shuffle(len(deck), func(i, j int) { deck[i], deck[j] = deck[j], deck[i] })
		}
		if err := r.event(ctx, number, deck[0]); err != nil {
			return err
		}
		deck = deck[1:]
		if number%r.options.QuietEvery == 0 && number < r.options.Events {
			if err := r.quiet(ctx); err != nil {
				return err
			}
			r.load.resume()
		}
	}
	if err := r.quiet(ctx); err != nil {
		return err
	}
	return r.end(ctx)
}

// calm is how long sends go on between two events: in it, what the next one is held
// against is proven.
const calm = 1500 * time.Millisecond

// event plays one event and waits until everything is well.
func (r *run) event(ctx context.Context, number int, name Kind) error {
	if err := waitFor(ctx, calm+r.draw(time.Millisecond, time.Second)); err != nil {
		return err
	}
	for _, n := range r.cluster.nodes {
		if n.gone() {
			return fmt.Errorf("torture: %s has ended, and nobody had touched it: %s", n.id, n.how())
		}
	}
	k := kindOf(name)
	e := Event{Number: number, Kind: name}
	err := k.play(r, ctx, &e)
	undone := r.ledger.now()
	if err == nil {
		err = r.settle(ctx)
	}
	e.WellMS = (r.ledger.now() - undone).Milliseconds()
	if err == nil {
		err = r.caughtUp(ctx)
	}
	e.fill(r.ledger.close())
	r.record.Events = append(r.record.Events, e)
	fmt.Fprintln(r.options.Progress, e.line())
	r.judge(k, &e)
	if err != nil {
		return fmt.Errorf("torture: after event %d, %s, %s: %w", number, name, e.What, err)
	}
	return nil
}

// judge holds an event against what it may cost.
func (r *run) judge(k *kind, e *Event) {
	cluster := r.options.Nodes > 1
	if resume := r.options.Resume.Milliseconds(); cluster && k.majority && (e.AcceptedMS == 0 || e.AcceptedGapMS > resume) {
		r.broke("event %d, %s, %s: nothing was accepted for %s, with a majority there", e.Number, e.Kind, e.What, seconds(e.AcceptedGapMS))
	}
	if retry := r.options.Retry.Milliseconds(); cluster && k.ordinary && e.RetryMS > retry {
		r.broke("event %d, %s, %s: a send with a key was tried again for %s before it was accepted", e.Number, e.Kind, e.What, seconds(e.RetryMS))
	}
	if cluster && e.Repeated > e.Bound {
		r.broke("event %d, %s, %s: %d attempts were repeated, and at most %d were under way or not on record", e.Number, e.Kind, e.What, e.Repeated, e.Bound)
	}
	if e.Late > mostInFlight {
		r.broke("event %d, %s, %s: %d attempts of a node came after another was seen to lead, more than can have been under way", e.Number, e.Kind, e.What, e.Late)
	}
}

// harmed opens the event's window.
func (r *run) harmed() { r.ledger.open() }

// draw draws a duration within what the options allow.
func (r *run) draw(least, most time.Duration) time.Duration {
	return between(r.random, least, min(most, r.options.Longest))
}

// settle waits until all nodes are ready, agree, and each has taken a new send.
func (r *run) settle(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("it is not well again"))
	defer cancel()
	if err := r.cluster.agree(ctx, false); err != nil {
		return err
	}
	since := r.ledger.now()
	return r.cluster.admin.until(ctx, func() error {
		if leader, _ := r.watch.now(); leader == nil {
			return errors.New("nobody is seen to lead")
		}
		if !r.ledger.reachedAll(len(r.cluster.nodes), since) {
			return errors.New("not every node takes sends")
		}
		return nil
	})
}

// caughtUp waits until what was acknowledged up to now has been received, and two
// seconds more, in which what is to be repeated is.
func (r *run) caughtUp(ctx context.Context) error {
	within, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("what was acknowledged is not delivered"))
	defer cancel()
	now := r.ledger.now()
	err := r.cluster.admin.until(within, func() error {
		if n, one := r.ledger.missing(now); n > 0 {
			return fmt.Errorf("%d acknowledged sends have not been received, such as %d", n, one)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return waitFor(ctx, 2*time.Second)
}

// quiet lets the load rest, waits until nothing is left to do, and compares.
func (r *run) quiet(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.options.Patience, errors.New("the cluster does not come to rest"))
	defer cancel()
	if !r.load.rest(ctx) {
		return fmt.Errorf("torture: sends are still without an outcome: %w", context.Cause(ctx))
	}
	err := r.cluster.admin.until(ctx, func() error {
		if n, one := r.ledger.missing(r.ledger.now()); n > 0 {
			return fmt.Errorf("%d acknowledged sends have not been received, such as %d", n, one)
		}
		for _, status := range []string{"queued", "retrying"} {
			var page struct{ Data []any }
			query := url.Values{"limit": {"1"}, "status": {status}}
			if err := r.cluster.admin.call(ctx, http.MethodGet, r.cluster.nodes[0].url+"/v1/deliveries?"+query.Encode(), r.cluster.key, nil, &page); err != nil {
				return err
			}
			if len(page.Data) > 0 {
				return fmt.Errorf("still %s: %v", status, page.Data[0])
			}
		}
		return nil
	})
	if err == nil {
		err = r.cluster.agree(ctx, true)
	}
	if err != nil {
		return err
	}
	r.record.Quiet++
	r.compare(ctx)
	return nil
}

// compare asks each node on its own for what was acknowledged last.
func (r *run) compare(ctx context.Context) {
	for _, id := range r.ledger.newest() {
		for _, n := range r.cluster.nodes {
			var d struct{ Status string }
			query := "?consistency=stale"
			if r.options.Nodes == 1 {
				query = ""
			}
			err := r.cluster.admin.call(ctx, http.MethodGet, n.url+"/v1/deliveries/"+id+query, r.cluster.key, nil, &d)
			if err != nil || d.Status != "delivered" {
				r.broke("%s shows delivery %s, which was received, as %q: %v", n.id, id, d.Status, err)
			}
		}
	}
}

// end ends the nodes in order and has their directories checked.
func (r *run) end(ctx context.Context) error {
	for _, n := range r.cluster.nodes {
		if err := r.stopInOrder(ctx, n); err != nil {
			return err
		}
	}
	for _, n := range r.cluster.nodes {
		cmd := exec.CommandContext(ctx, n.binary, "check", "--data-dir", n.dataDir())
		cmd.Env = environment()
		if err := output(cmd); err != nil {
			r.broke("the directory of %s is not sound: %v", n.id, err)
		}
	}
	return nil
}

// broke notes a promise that did not hold.
func (r *run) broke(format string, args ...any) {
	const most = 100
	if len(r.record.Broken) < most {
		r.record.Broken = append(r.record.Broken, fmt.Sprintf(format, args...))
	}
}

// finish adds up.
func (r *run) finish() {
	lost, unexpected, examples := r.ledger.balance()
	r.record.Lost, r.record.Unexpected = lost, unexpected
	r.record.Counts = r.ledger.sums()
	r.record.TookMS = r.ledger.now().Milliseconds()
	if r.load != nil {
		r.record.Strange = r.load.strange
	}
	faults, more := r.ledger.faulty()
	r.record.Unmade = max(r.ledger.unmade-1, 0) // one is the first
	if lost+unexpected > 0 {
		r.broke("%d acknowledged sends were lost, %d that were refused arrived", lost, unexpected)
	}
	for _, text := range append(examples, more...) {
		r.broke("%s", text)
	}
	if faults > len(more) {
		r.broke("and %d more of these", faults-len(more))
	}
	if r.record.Counts.Acknowledged == 0 {
		r.broke("nothing was acknowledged, this proves nothing")
	}
}

// explain adds what the nodes have logged last.
func (r *run) explain(err error) error {
	text := ""
	for _, n := range r.cluster.nodes {
		if n.ended != nil {
			text += fmt.Sprintf("\n%s (%s) logged last:\n%s", n.id, n.how(), n.logs.tail(25))
		}
	}
	return fmt.Errorf("%w%s", err, text)
}
