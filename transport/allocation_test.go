//go:build !race

// The race detector changes what pools do, so it is not asked here.

package transport

import (
	"testing"
	"time"
)

// A request's head is written into room that the attempt has.
func TestHeadDoesNotAllocate(t *testing.T) {
	req, s := benchRequest(300), newSigners()
	dest := destination{host: req.Host, port: req.Port, tls: true}
	buf := appendHead(nil, req, dest, "harepost", s, time.Unix(1700000000, 0))
	if n := testing.AllocsPerRun(200, func() { buf = appendHead(buf[:0], req, dest, "harepost", s, time.Unix(1700000000, 0)) }); n != 0 {
		t.Errorf("%.0f allocations, want none", n)
	}
}

// Signing keeps the keyed states of a secret, so that it costs no memory however
// large the body is.
func TestSigningAllocations(t *testing.T) {
	for _, bytes := range []int{300, 64 << 10} {
		s, body, buf := newSigners(), make([]byte, bytes), make([]byte, 0, 1024)
		secrets := []string{secretA, secretB}
		sign := func() { buf = s.appendHeaders(buf[:0], secrets, "hr_test", body, time.Unix(1_790_000_000, 0)) }
		sign()
		if n := testing.AllocsPerRun(200, sign); n > 1 {
			t.Errorf("%d bytes, two secrets, both schemes: %.0f allocations, want at most 1", bytes, n)
		}
	}
}

// Writing a request, reading its answer and saying what that means.
func TestExchangeAllocations(t *testing.T) {
	for name, most := range map[string]float64{"empty": 0, "usual": 0, "chunked": 0, "busy": 0} {
		exchange := exchanging(t, targetAnswers[name])
		exchange()
		if n := testing.AllocsPerRun(200, exchange); n > most {
			t.Errorf("%s: %.0f allocations, want at most %.0f", name, n, most)
		}
	}
}
