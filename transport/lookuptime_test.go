package transport

import (
	"context"
	"errors"
	"net"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// silence is a client of three name servers that never answer: every dial hangs
// for as long as its context lets it.
func silence() *dnsClient {
	c := &dnsClient{system: &systemConfig{checked: time.Now(), nservers: []string{"127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"}}}
	c.dialer = net.Dialer{ControlContext: func(ctx context.Context, _, _ string, _ syscall.RawConn) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	return c
}

// A lookup gives up after five seconds by itself, whoever asks: when all servers
// are silent, each of which is asked twice, and when other lookups never end and
// there is no slot for it.
func TestLookupsGiveUpByThemselves(t *testing.T) {
	for name, ask := range map[string]func(*resolver) error{
		"TXT": func(r *resolver) error {
			_, err := r.txt(context.Background(), "_harepost-challenge.a.example")
			return err
		},
		"addresses": func(r *resolver) error {
			_, err := r.addresses(context.Background(), "a.example")
			return err
		},
	} {
		for _, full := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := newResolver(silence(), 1, 1000, 1)
				defer r.close()
				if full {
					r.slots <- struct{}{}
				}
				began := time.Now()
				err := ask(r)
				var failed *LookupError
				if !errors.As(err, &failed) || failed.NotFound {
					t.Errorf("%s, no slot free %t: %v", name, full, err)
				}
				if took := time.Since(began); took != 5*time.Second {
					t.Errorf("%s, no slot free %t: it gave up after %s, want 5s", name, full, took)
				}
			})
		}
	}
}

// Lookups keep to their rate, whatever asks for them: a tenth of a second's at
// once, and then one at a time.
func TestLookupsKeepToTheirRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const perSecond = 50
		r := newResolver(silence(), 1000, perSecond, 1)
		defer r.close()
		began := time.Now()
		for n := range 50 {
			if err := r.slot(context.Background()); err != nil {
				t.Fatal(err)
			}
			least := time.Duration(max(0, n+1-perSecond/10)) * time.Second / perSecond
			if took := time.Since(began); took < least-time.Millisecond || took > least+time.Second/perSecond {
				t.Errorf("lookup %d began after %s, want %s", n+1, took, least)
			}
		}
	})
}

// A lookup whose turn would come too late fails at once, and holds no slot.
func TestALookupBeyondTheRateHoldsNoSlot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(silence(), 1, 1, 1)
		defer r.close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Second/2)
		defer cancel()
		if err := r.slot(ctx); err != nil {
			t.Fatal(err)
		}
		<-r.slots
		if err := r.slot(ctx); err == nil {
			t.Error("two within half a second, at one a second")
		}
		if len(r.slots) != 0 {
			t.Error("a slot is held")
		}
	})
}
