package engine

import (
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/transport"
)

// A customer is told why a lookup failed, and not where the operator's name
// server is.
func TestVerifyKeepsTheNameServerToItself(t *testing.T) {
	verify := func(server, want string) {
		t.Helper()
		tr, err := transport.New(transport.Options{Resolver: server, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(tr.Close)
		o := testOptions(t, vfs.NewMem())
		o.Transport = tr
		e := openEngine(t, o)
		a := newAccount(t, e)
		if _, _, err := e.AddDomain(t.Context(), a, "your-app.com"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err = e.VerifyDomain(ctx, a, "your-app.com")
		var pending *DomainPendingError
		if !errors.As(err, &pending) {
			t.Fatalf("verify: %v", err)
		}
		if pending.Detail != want || strings.Contains(pending.Detail, "127.0.0.1") {
			t.Errorf("detail %q, want %q", pending.Detail, want)
		}
	}
	mute, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := mute.LocalAddr().String()
	verify(server, "looking up _harepost-challenge.your-app.com failed: no name server answered in time")
	mute.Close()
	verify(server, "looking up _harepost-challenge.your-app.com failed: no name server could be reached")
}
