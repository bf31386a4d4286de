package transport

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"
	"io"
	"strconv"
	"net/http/httputil"
)

func TestSmoke(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, _ := httputil.DumpRequest(r, true)
		t.Logf("%s", d)
		if r.URL.Path == "/503" { w.Header().Set("Retry-After", "7"); w.WriteHeader(503) }
		io.WriteString(w, "hello")
	}))
	defer srv.Close()
	tr, err := New(Options{EgressAllow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	if err != nil { t.Fatal(err) }
	defer tr.Close()
	_, ps, _ := net.SplitHostPort(srv.Listener.Addr().String())
	p, _ := strconv.Atoi(ps)
	for _, u := range []string{"/", "/503", "/x"} {
	var res Result
	tr.Do(&Request{Scheme: "http", Host: "localhost", Port: uint16(p), URI: u, Method: "POST", Body: []byte(`{"a":1}`), Timeout: 2*time.Second, DeliveryID: "hr_1", Attempt: 1, Secrets: []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}}, &res)
	t.Logf("%+v %s", res, res.Error())
	}
	t.Logf("%+v", tr.Stats())
}
