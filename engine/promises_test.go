package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// promises are what the clients of a crash test were told of other things than
// single sends: each is looked at after the next start. The power is cut by the
// client that is told one of them, at once, before the engine can do any more.
type promises struct {
	mu   sync.Mutex
	kept map[string]func(*Engine) error

	fs    *vfs.MemFS
	cfg   vfs.CrashCloneCfg
	left  int // until the cut
	done  chan struct{}
	clone *vfs.MemFS
	then  map[string]func(*Engine) error // kept, when it was cut
}

// cutAfter has the power cut when so many promises more are given.
func (p *promises) cutAfter(n int, fs *vfs.MemFS, cfg vfs.CrashCloneCfg) (done <-chan struct{}) {
	p.fs, p.cfg, p.left, p.done = fs, cfg, n, make(chan struct{})
	return p.done
}

// promise notes what was acknowledged just now.
func (p *promises) promise(what string, holds func(*Engine) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.kept[what] = holds
	if p.left--; p.left == 0 {
		// What is taken back meanwhile waits for the lock, and has not been asked
		// for yet.
		p.clone, p.then = p.fs.CrashClone(p.cfg), maps.Clone(p.kept)
		close(p.done)
	}
}

// takeBack is called before something is asked for that ends a promise: from
// then on a power cut may find it either way.
func (p *promises) takeBack(what string) {
	p.mu.Lock()
	delete(p.kept, what)
	p.mu.Unlock()
}

// within waits until a condition holds that nobody tells of. Other than
// awaitCondition it may be called on any goroutine.
func within(what string, holds func() (bool, error)) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	timeout := time.After(patience)
	for {
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-timeout:
			return fmt.Errorf("waited in vain for %s", what)
		}
	}
}

// A promisedClient asks for one thing after the other for an account of its own.
type promisedClient struct {
	*promises
	n       int
	account AccountID
	target  Target // answers 404
	serial  int
}

func (c *promisedClient) name(kind string) string {
	c.serial++
	return fmt.Sprintf("client %d %s %d", c.n, kind, c.serial)
}

func (c *promisedClient) send(e *Engine, body, label string, change func(*Send)) (DeliveryID, error) {
	s := sendTo(c.target, body)
	s.Labels = []string{label}
	change(s)
	r, err := e.Send(context.Background(), c.account, s)
	return r.ID, err
}

func inAnHour(s *Send) { s.NotBefore = time.Now().Add(time.Hour) }

// endsAs waits until a delivery has ended, after so many attempts at least.
func (c *promisedClient) endsAs(e *Engine, id DeliveryID, want Status, attempts int) error {
	return within(fmt.Sprintf("%s to be %s after %d attempts", id, want, attempts), func() (bool, error) {
		d, err := e.Delivery(context.Background(), c.account, id, ReadOptions{})
		return err == nil && d.Status == want && len(d.Attempts) >= attempts, err
	})
}

// batch: every accepted send of a batch is there.
func (c *promisedClient) batch(e *Engine) error {
	name := c.name("batch")
	var sends []*Send
	for i := range 1 + c.serial%20 {
		s := sendTo(c.target, fmt.Sprint(name, " ", i))
		inAnHour(s)
		if i%3 == 0 {
			s.IdempotencyKey = fmt.Sprint(name, " ", i)
		}
		sends = append(sends, s)
	}
	results := make([]SendResult, len(sends))
	e.SendBatch(context.Background(), c.account, sends, results)
	for i, r := range results {
		if r.Err != nil {
			return r.Err
		}
		c.promise(fmt.Sprintf("%s: send %d of %d", name, i, len(sends)), func(e *Engine) error {
			d, err := e.Delivery(context.Background(), c.account, r.Receipt.ID, ReadOptions{Payload: true})
			if err == nil && string(d.Body) != fmt.Sprint(name, " ", i) {
				err = fmt.Errorf("its body is %q", d.Body)
			}
			return err
		})
	}
	return nil
}

// cancel: a cancelled delivery stays canceled.
func (c *promisedClient) cancel(e *Engine) error {
	name := c.name("cancel")
	id, err := c.send(e, "x", "cancel", inAnHour)
	if err != nil {
		return err
	}
	if d, err := e.Cancel(context.Background(), c.account, id); err != nil || d.Status != StatusCanceled {
		return fmt.Errorf("cancel: %s, %w", d.Status, err)
	}
	c.promise(name, func(e *Engine) error { return c.endsAs(e, id, StatusCanceled, 0) })
	return nil
}

// replay: a replayed delivery is attempted again.
func (c *promisedClient) replay(e *Engine) error {
	name := c.name("replay")
	id, err := c.send(e, "x", "replay", func(*Send) {})
	if err == nil {
		err = c.endsAs(e, id, StatusRejected, 1)
	}
	if err == nil {
		err = within("the replay", func() (bool, error) {
			_, err := e.Replay(context.Background(), c.account, id)
			if errors.Is(err, ErrPending) { // its attempt is on record, and the scheduler is yet to be told
				return false, nil
			}
			return true, err
		})
	}
	if err != nil {
		return err
	}
	c.promise(name, func(e *Engine) error { return c.endsAs(e, id, StatusRejected, 2) })
	return nil
}

// jobGoesOn: a job that has begun ends, having done all of them.
func (c *promisedClient) jobGoesOn(e *Engine) error {
	name := c.name("job")
	var ids []DeliveryID
	for range stepMost + 3 { // two steps
		id, err := c.send(e, "x", name, inAnHour)
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	j, err := e.StartJob(context.Background(), c.account, JobCancel, Filter{Label: name}, 0)
	if err != nil {
		return err
	}
	c.promise(name+" goes on", func(e *Engine) error {
		err := within("its end", func() (bool, error) {
			now, err := e.Job(context.Background(), c.account, j.ID)
			if err == nil && now.Status == JobDone && now.Done != int64(len(ids)) {
				err = fmt.Errorf("it ended with %d of %d done", now.Done, len(ids))
			}
			return now.Status == JobDone, err
		})
		for _, id := range ids {
			err = errors.Join(err, c.endsAs(e, id, StatusCanceled, 0))
		}
		return err
	})
	return nil
}

// purge: what was purged stays gone, and its job is at its end.
func (c *promisedClient) purge(e *Engine) error {
	name := c.name("purge")
	var ids []DeliveryID
	for i := range 20 {
		id, err := c.send(e, strings.Repeat("x", 1+i%2*2000), name, func(*Send) {})
		if err != nil {
			return err
		}
		ids = append(ids, id)
	}
	for _, id := range ids {
		if err := c.endsAs(e, id, StatusRejected, 1); err != nil {
			return err
		}
	}
	j, err := e.StartJob(context.Background(), c.account, JobPurge, Filter{Label: name}, 0)
	if err != nil {
		return err
	}
	ended := func(e *Engine) (bool, error) {
		now, err := e.Job(context.Background(), c.account, j.ID)
		return now.Status == JobDone && now.Done == int64(len(ids)), err
	}
	if err := within("the purge", func() (bool, error) { return ended(e) }); err != nil {
		return err
	}
	c.promise(name, func(e *Engine) error {
		if ok, err := ended(e); err != nil || !ok {
			return fmt.Errorf("its job had ended, and has not any more: %w", err)
		}
		for _, id := range ids {
			if _, err := e.Delivery(context.Background(), c.account, id, ReadOptions{}); !errors.Is(err, ErrNotFound) {
				return fmt.Errorf("%s is back: %w", id, err)
			}
		}
		return nil
	})
	return nil
}

// keys: a key that was made authenticates, one that was revoked does not.
func (c *promisedClient) keys(e *Engine) error {
	name := c.name("key")
	k, text, err := e.CreateKey(context.Background(), c.account)
	if err != nil {
		return err
	}
	authenticates := func(want error) func(*Engine) error {
		return func(e *Engine) error {
			if _, err := e.Authenticate([]byte(text)); !errors.Is(err, want) {
				return fmt.Errorf("it authenticates with %v, want %v", err, want)
			}
			return nil
		}
	}
	c.promise(name, authenticates(nil))
	if c.serial%2 == 0 {
		return nil // this one stays
	}
	c.takeBack(name)
	if err := e.RevokeKey(context.Background(), c.account, k.ID); err != nil {
		return err
	}
	c.promise(name+" revoked", authenticates(ErrUnauthorized))
	return nil
}

// domains: one that was added is there, one that was deleted is not.
func (c *promisedClient) domains(e *Engine) error {
	name := c.name("domain")
	domain := fmt.Sprintf("d%d.example", c.serial)
	if _, _, err := e.AddDomain(context.Background(), c.account, domain); err != nil {
		return err
	}
	is := func(want error) func(*Engine) error {
		return func(e *Engine) error {
			if _, err := e.Domain(context.Background(), c.account, domain); !errors.Is(err, want) {
				return fmt.Errorf("%s: %v, want %v", domain, err, want)
			}
			return nil
		}
	}
	c.promise(name, is(nil))
	if c.serial%2 == 0 {
		return nil
	}
	c.takeBack(name)
	if err := e.DeleteDomain(context.Background(), c.account, domain); err != nil {
		return err
	}
	c.promise(name+" deleted", is(ErrNotFound))
	return nil
}

// rotation: the secret is the one that the last rotation returned, alone.
func (c *promisedClient) rotation(e *Engine) error {
	name := fmt.Sprint("client ", c.n, " secret")
	c.takeBack(name)
	r, err := e.RotateSigningSecret(context.Background(), c.account, 0)
	if err != nil {
		return err
	}
	c.promise(name, func(e *Engine) error {
		s, err := e.SigningSecret(context.Background(), c.account)
		owner, _ := e.Account(context.Background(), c.account)
		if err == nil && (s != r.SigningSecret || len(owner.Secrets) != 1) {
			err = fmt.Errorf("it is another one, of %d", len(owner.Secrets))
		}
		return err
	})
	return nil
}

// work asks until it is stopped.
func (c *promisedClient) work(e *Engine, rng *rand.Rand, stop <-chan struct{}) error {
	all := []func(*Engine) error{c.batch, c.cancel, c.replay, c.jobGoesOn, c.purge, c.keys, c.domains, c.rotation}
	for {
		if err := all[rng.IntN(len(all))](e); err != nil {
			return err
		}
		select {
		case <-stop:
			return nil
		default:
		}
	}
}

// A power cut at any moment, with any part of what was not synced on disk,
// takes back nothing of what was acknowledged: the sends of a batch, a replay,
// a cancellation, a job and its steps, a purge, a key and its end, a domain and
// its end, a signing secret.
func TestPowerCutKeepsEveryPromise(t *testing.T) {
	seed := seedOf(t)
	rng := rand.New(rand.NewPCG(seed, 11))
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(404) })
	p := &promises{kept: make(map[string]func(*Engine) error)}
	o := testOptions(t, nil)
	o.Failed = nil // the old timeline may end as it likes
	o.KeysPerAccount, o.DomainsPerAccount = 1<<20, 1<<20
	fs := vfs.NewCrashableMem()
	var clients []*promisedClient
	cuts, given := crashes(t, 6), 0
	for cut := 0; ; cut++ {
		o.FS = fs
		o.State.YoungDeliveries = 1 + rng.IntN(100)
		e, err := Open("data", o)
		if err != nil {
			t.Fatalf("start after cut %d: %v", cut, err)
		}
		for what, holds := range p.kept {
			if err := holds(e); err != nil {
				t.Errorf("after cut %d: what was acknowledged does not hold: %s: %v", cut, what, err)
			}
		}
		given += len(p.kept)
		if cut == cuts || t.Failed() {
			verifyState(t, e)
			closeEngine(t, e)
			break
		}
		if len(p.kept) > 1000 { // make crash: they were looked at often enough
			clear(p.kept)
		}
		for n := len(clients); n < 4; n++ {
			clients = append(clients, &promisedClient{promises: p, n: n, account: newAccount(t, e), target: target})
		}
		stop, ended := make(chan struct{}), make(chan error, len(clients))
		// The cut is made on a client's goroutine, so it has a source of its own.
		cfg := vfs.CrashCloneCfg{UnsyncedDataPercent: rng.IntN(101), RNG: rand.New(rand.NewPCG(rng.Uint64(), 1))}
		isCut := p.cutAfter(1+rng.IntN(50), fs, cfg)
		var working sync.WaitGroup
		for _, c := range clients {
			seed := rand.NewPCG(rng.Uint64(), 0)
			working.Go(func() { ended <- c.work(e, rand.New(seed), stop) })
		}
		select {
		case <-isCut:
		case err := <-ended:
			t.Fatalf("before cut %d a client gave up: %v", cut, err)
		}
		close(stop)
		working.Wait()
		for range clients {
			if err := <-ended; err != nil {
				t.Errorf("at cut %d a client gave up: %v", cut, err)
			}
		}
		closeEngine(t, e)
		fs, p.kept = p.clone, p.then
	}
	t.Logf("%d power cuts, %d promises looked at", cuts, given)
}
