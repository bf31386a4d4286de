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
				r := newResolver(silence(), 1, 1)
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
