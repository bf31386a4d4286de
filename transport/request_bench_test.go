package transport

import (
	"net"
	"strings"
	"testing"
	"time"
)

// benchRequest is an attempt with the headers and the body of a usual send.
func benchRequest(bodyBytes int, secrets ...string) *Request {
	return &Request{
		Scheme: "https", Host: "hooks.example.com", Port: 443, URI: "/v1/orders", Method: "POST",
		Headers: []Header{{"X-Event", "order.paid"}, {"X-Tenant", "t_4711"}, {"Content-Type", "application/json"}},
		Body:    []byte(strings.Repeat("b", bodyBytes)), Timeout: 10 * time.Second,
		DeliveryID: "hr_06ar4hzvm8x5k2q9c7t1n0w3de", Attempt: 1, IdempotencyKey: "ord_123-paid", Secrets: secrets,
	}
}

// BenchmarkHead writes a request's head, as each attempt does.
func BenchmarkHead(b *testing.B) {
	for name, secrets := range map[string][]string{"plain": nil, "signed": {secretA}, "rotating": {secretA, secretB}} {
		b.Run(name, func(b *testing.B) {
			req, s := benchRequest(300, secrets...), newSigners()
			dest := destination{host: req.Host, port: req.Port, tls: true}
			buf := appendHead(nil, req, dest, "harepost", s, time.Unix(1700000000, 0))
			b.SetBytes(int64(len(buf)))
			b.ReportAllocs()
			for b.Loop() {
				buf = appendHead(buf[:0], req, dest, "harepost", s, time.Unix(1700000000, 0))
			}
		})
	}
}

// BenchmarkSign makes the signatures of both schemes: with the keyed states that
// are kept for a secret, and for a secret that is seen for the first time.
func BenchmarkSign(b *testing.B) {
	for name, bytes := range map[string]int{"300B": 300, "64KiB": 64 << 10} {
		body := []byte(strings.Repeat("b", bytes))
		sign := func(b *testing.B, of func() *signers) {
			buf := make([]byte, 0, 1024)
			b.SetBytes(2 * int64(bytes)) // each scheme hashes all of it
			b.ReportAllocs()
			for b.Loop() {
				buf = of().appendHeaders(buf[:0], []string{secretA}, "hr_06ar4hzvm8x5k2q9c7t1n0w3de", body, time.Now())
			}
		}
		b.Run(name+"/kept", func(b *testing.B) {
			s := newSigners()
			sign(b, func() *signers { return s })
		})
		b.Run(name+"/new", func(b *testing.B) { sign(b, newSigners) })
	}
}

// recorded is a connection on which every write is answered at once with the
// same bytes: an attempt on it is all of ours and none of the kernel's.
type recorded struct {
	net.Conn
	answer, rest string
}

func (c *recorded) Write(p []byte) (int, error)     { c.rest = c.answer; return len(p), nil }
func (c *recorded) SetDeadline(time.Time) error     { return nil }
func (c *recorded) SetReadDeadline(time.Time) error { return nil }

func (c *recorded) Read(p []byte) (int, error) {
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// targetAnswers are responses as targets give them.
var targetAnswers = map[string]string{
	"empty": reply(200, ""),
	"usual": reply(200, `{"received":true}`, "Server: nginx/1.27.3", "Date: Wed, 10 Jun 2026 14:22:10 GMT",
		"Content-Type: application/json; charset=utf-8", "Connection: keep-alive", "Vary: Accept-Encoding",
		"X-Request-Id: 7f6f3b1c-1b1e-4a0e-9a53-0d2f6cf2f9c1", "Strict-Transport-Security: max-age=31536000",
		"Cache-Control: no-store", "X-Content-Type-Options: nosniff"),
	"chunked": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
		"11\r\n{\"received\":true}\r\n0\r\n\r\n",
	"busy": reply(503, strings.Repeat("busy ", 200), "Retry-After: 30", "Content-Type: text/plain"),
}

// BenchmarkExchange builds and writes a request, reads the response and says what
// it means, on a connection in memory.
func BenchmarkExchange(b *testing.B) {
	for name, answer := range targetAnswers {
		b.Run(name, func(b *testing.B) {
			exchange := exchanging(b, answer)
			b.ReportAllocs()
			for b.Loop() {
				exchange()
			}
		})
	}
}

// exchanging returns an attempt on a connection that is there.
func exchanging(t testing.TB, answer string) func() {
	tr, req := open(t), benchRequest(300)
	c := &conn{Conn: &recorded{answer: answer}, socket: &socket{}, dest: destination{host: req.Host, port: 443, tls: true}}
	var res Result
	return func() {
		now := time.Now()
		res = Result{Started: now, Body: res.Body[:0]}
		x := exchanges.Get().(*exchange)
		c.reused = false
		if keep, f := x.run(tr, c, req, &res, now.Add(time.Minute)); !keep || f != nil {
			t.Fatal(keep, f)
		}
		x.release()
	}
}
