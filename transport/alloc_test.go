//go:build !race

package transport

import (
	"net"
	"testing"
)

// The ordinary attempt, on a connection that is there, allocates nothing. The
// race detector changes what pools do, so it is not asked here.
func TestDoDoesNotAllocate(t *testing.T) {
	addr := receiver(t, func(c net.Conn) {
		buf, answer := make([]byte, 16<<10), []byte(reply(200, "ok"))
		for {
			if _, err := c.Read(buf); err != nil { // a small request is one write, so one read
				return
			}
			if _, err := c.Write(answer); err != nil {
				return
			}
		}
	})
	tr := open(t)
	req := to(addr, "POST", "/hooks", `{"a":1}`)
	req.Headers = []Header{{"Content-Type", "application/json"}}
	req.IdempotencyKey = "key"
	var res Result
	attempt := func() {
		if tr.Do(req, &res); res.Outcome != Delivered {
			t.Fatal(res.Error())
		}
	}
	attempt()
	if n := testing.AllocsPerRun(500, attempt); n >= 1 {
		t.Errorf("%v allocations", n)
	}
	req.Secrets = []string{secretA}
	attempt()
	if n := testing.AllocsPerRun(500, attempt); n >= 3 {
		t.Errorf("%v allocations when signed", n)
	}
}
