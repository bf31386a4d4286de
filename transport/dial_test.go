package transport

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestCandidates(t *testing.T) {
	check := func(addrs []string, turn int, want string) {
		t.Helper()
		var list []netip.Addr
		for _, a := range addrs {
			list = append(list, netip.MustParseAddr(a))
		}
		if got := fmt.Sprint(candidates(list, func(n int) int { return turn % n })); got != want {
			t.Errorf("%v, turn %d: %s, want %s", addrs, turn, got, want)
		}
	}
	check(nil, 0, "[]")
	check([]string{"1.1.1.1"}, 5, "[1.1.1.1]")
	check([]string{"::1"}, 5, "[::1]")
	check([]string{"1.1.1.1", "1.1.1.2", "::1"}, 1, "[1.1.1.2 1.1.1.1 ::1]")
	check([]string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5", "::1", "::2"}, 3, "[1.1.1.4 1.1.1.5 1.1.1.1 ::2]")
	check([]string{"1.1.1.1", "::1", "::2", "::3", "::4"}, 0, "[1.1.1.1 ::1 ::2 ::3]")
	check([]string{"1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4", "1.1.1.5"}, 0, "[1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4]")
}

// A name whose first addresses nobody answers at is delivered to at the next.
func TestOtherAddressesAreTried(t *testing.T) {
	dns := serveDNS(t)
	tr := open(t, dns.use)
	addr := receiver(t, answering(always(reply(200, ""))))
	dns.set("some.example.com", "127.0.0.2", "127.0.0.3", "127.0.0.1")
	for range 10 { // whatever the turn
		req := to(addr, "POST", "/", "{}")
		req.Host = "some.example.com"
		if res := do(tr, req); res.Outcome != Delivered || res.RemoteIP != addr.Addr() {
			t.Fatalf("%s, %v", res.Error(), res.RemoteIP)
		}
		tr.pool.sweep(time.Now().Add(time.Hour)) // dial each time
	}
	dns.set("none.example.com", "127.0.0.2", "127.0.0.3")
	req := to(addr, "POST", "/", "{}")
	req.Host = "none.example.com"
	if res := do(tr, req); res.Code != CodeConnectionRefused || res.RemoteIP.Is6() {
		t.Errorf("%s", res.Error())
	}
}

// Thousands of attempts at once, to healthy, slow and dead targets, on shared
// connections: each ends as its own target has it, and nothing is left.
func TestManyAtOnce(t *testing.T) {
	files := openFiles(t)
	t.Run("all", func(t *testing.T) {
		var served atomic.Int64
		good := receiver(t, answering(func(r *http.Request, _ string) string { served.Add(1); return reply(500, r.URL.Path) }))
		silent := receiver(t, discard)
		rude := receiver(t, func(c net.Conn) {})
		tr := open(t, func(o *Options) { o.HostConns = 50 })
		var wg sync.WaitGroup
		attempts := scale("HAREPOST_TRANSPORT_ATTEMPTS", 2000)
		for i := range attempts {
			wg.Go(func() {
				path := fmt.Sprintf("/%d", i)
				var res *Result
				switch i % 10 {
				case 0:
					req := to(silent, "POST", path, "{}")
					req.Timeout = 100 * time.Millisecond
					if res = do(tr, req); res.Code != CodeTimeout {
						t.Errorf("silent: %s", res.Error())
					}
				case 1:
					if res = do(tr, to(rude, "POST", path, "{}")); res.Code != CodeConnectionReset {
						t.Errorf("rude: %s", res.Error())
					}
				default:
					req := to(good, "POST", path, "{}")
					req.Timeout = 30 * time.Second // the machine may be busy
					if res = do(tr, req); res.Status != 500 || string(res.Body) != path {
						t.Errorf("good: %s, %q", res.Error(), res.Body)
					}
				}
			})
		}
		wg.Wait()
		if s := tr.Stats(); s.OpenConns != s.IdleConns || s.IdleConns > 50 || served.Load() != int64(attempts*8/10) {
			t.Errorf("%+v, served %d", s, served.Load())
		}
	})
	if after := openFiles(t); after > files {
		t.Errorf("open files went from %d to %d", files, after)
	}
}
