package transport

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/miekg/dns"
)

func lookup(t *testing.T, tr *Transport, name string) []string {
	t.Helper()
	addrs, err := tr.resolver.addresses(context.Background(), name)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var out []string
	for _, a := range addrs {
		out = append(out, a.String())
	}
	return out
}

func failure(t *testing.T, tr *Transport, name string) *LookupError {
	t.Helper()
	_, err := tr.resolver.addresses(context.Background(), name)
	var lookup *LookupError
	if !errors.As(err, &lookup) {
		t.Fatalf("%s: %v", name, err)
	}
	return lookup
}

func TestAddressLookups(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	check := func(name string, want ...string) {
		t.Helper()
		if got := lookup(t, tr, name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
	s.set("both.example", "2606:4700::1", "8.8.8.8", "8.8.4.4")
	check("both.example", "8.8.8.8", "8.8.4.4", "2606:4700::1")
	s.set("four.example", "8.8.8.8")
	check("four.example", "8.8.8.8")
	s.set("six.example", "2606:4700::1")
	check("six.example", "2606:4700::1")

	s.records("www.example", "www.example. 60 IN CNAME a.example.", "A.EXAMPLE. 60 IN CNAME b.example.", "b.example. 60 IN A 8.8.8.8")
	check("www.example", "8.8.8.8")
	s.records("pieces.example", "pieces.example. 60 IN CNAME more.example.")
	s.records("more.example", "more.example. 60 IN CNAME four.example.")
	check("pieces.example", "8.8.8.8")
	s.records("stray.example", "other.example. 60 IN A 8.8.8.8", "stray.example. 60 IN A 8.8.4.4")
	check("stray.example", "8.8.4.4")

	var many []string
	for i := range 100 {
		many = append(many, fmt.Sprintf("8.8.%d.%d", i, i))
	}
	s.set("many.example", many...)
	check("many.example", many[:maxAddrs]...)
	if s.asked("many.example A tcp") == 0 {
		t.Error("an answer that did not fit was not asked for again over TCP")
	}
}

func TestLookupFailures(t *testing.T) {
	t.Parallel()
	s := serveDNS(t)
	tr := open(t, s.use)
	notFound := func(name string, want bool) {
		t.Helper()
		if err := failure(t, tr, name); err.NotFound != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	notFound("no-such-name.example", true)
	s.records("no-address.example", "no-address.example. 60 IN TXT x")
	notFound("no-address.example", true)
	s.records("dangling.example", "dangling.example. 60 IN CNAME gone.example.")
	notFound("dangling.example", true)
	s.records("loop.example", "loop.example. 60 IN CNAME loop2.example.", "loop2.example. 60 IN CNAME loop.example.")
	notFound("loop.example", false)

	rcode := func(code int) func(dns.ResponseWriter, *dns.Msg) bool {
		return func(w dns.ResponseWriter, q *dns.Msg) bool {
			w.WriteMsg(new(dns.Msg).SetRcode(q, code))
			return true
		}
	}
	s.handle(rcode(dns.RcodeServerFailure))
	notFound("servfail.example", false)
	s.handle(rcode(dns.RcodeRefused))
	notFound("refused.example", false)
	s.handle(rcode(dns.RcodeSuccess)) // empty and without recursion: lame
	notFound("lame.example", false)
	s.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.Write([]byte("garbage"))
		w.Write(make([]byte, 12))
		return true
	})
	notFound("garbage.example", false)
	for _, host := range []string{"no-such-name.example", "refused.example"} {
		req := &Request{Scheme: "https", Host: host, Port: 443, Method: "POST"}
		if res := do(tr, req); res.Outcome != Failed || res.Code != CodeDNSFailure {
			t.Errorf("%s: %v %s", host, res.Outcome, res.Error())
		}
	}
}

// What is not the answer to our question is passed over, wherever it is from.
func TestForgedAnswersAreIgnored(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	s.set("real.example", "8.8.8.8")
	s.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		forged := func(change func(*dns.Msg)) {
			m := new(dns.Msg).SetReply(q)
			m.RecursionAvailable = true
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 6.6.6.6")
			m.Answer = []dns.RR{rr}
			change(m)
			w.WriteMsg(m)
		}
		forged(func(m *dns.Msg) { m.Id++ })
		forged(func(m *dns.Msg) { m.Response = false })
		forged(func(m *dns.Msg) { m.Question[0].Name = "other.example." })
		forged(func(m *dns.Msg) { m.Question = nil })
		w.Write([]byte{1, 2, 3})
		return false
	})
	if got := lookup(t, tr, "real.example"); !slices.Equal(got, []string{"8.8.8.8"}) {
		t.Errorf("believed %v", got)
	}
}

// A server that does not know EDNS0 is asked without it; one that echoes the
// question in another case has still answered it.
func TestOldServers(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	s.set("old.example", "8.8.8.8")
	s.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		if q.IsEdns0() != nil {
			w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeFormatError))
			return true
		}
		q.Question[0].Name = strings.ToUpper(q.Question[0].Name)
		return false
	})
	s.records("OLD.EXAMPLE", "OLD.EXAMPLE. 60 IN A 8.8.8.8")
	if got := lookup(t, tr, "old.example"); !slices.Equal(got, []string{"8.8.8.8"}) {
		t.Errorf("got %v", got)
	}
}

// A name whose servers never answer for AAAA is not held up by it for long.
func TestSilenceForAAAA(t *testing.T) {
	t.Parallel()
	s := serveDNS(t)
	tr := open(t, s.use)
	s.set("half.example", "8.8.8.8")
	s.handle(func(_ dns.ResponseWriter, q *dns.Msg) bool { return q.Question[0].Qtype == dns.TypeAAAA })
	began := time.Now()
	got := lookup(t, tr, "half.example")
	if took := time.Since(began); !slices.Equal(got, []string{"8.8.8.8"}) || took > familyGrace+tolerance {
		t.Errorf("got %v after %v", got, took)
	}
}

// The next server is asked when one is silent, refuses, or is not there.
func TestSeveralServers(t *testing.T) {
	t.Parallel()
	dead, refusing, good := serveDNS(t), serveDNS(t), serveDNS(t)
	refusing.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeRefused))
		return true
	})
	dead.handle(func(dns.ResponseWriter, *dns.Msg) bool { return true })
	good.set("a.example", "8.8.8.8")
	system := &systemConfig{checked: time.Now(), nservers: []string{refusing.addr, dead.addr, good.addr}}
	c := &dnsClient{system: system}
	addrs, _, err := c.addresses(context.Background(), "a.example")
	if err != nil || len(addrs) != 1 {
		t.Errorf("%v, %v", addrs, err)
	}
	if refusing.asked("a.example A ") != 1 || dead.asked("a.example A ") != 1 || good.asked("a.example A ") != 1 {
		t.Error("the servers were not asked in turn")
	}
}

// The machine's own files are read, and read again when they change.
func TestSystemFiles(t *testing.T) {
	dir := t.TempDir()
	conf, hosts := filepath.Join(dir, "resolv.conf"), filepath.Join(dir, "hosts")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(conf, "# comment\nnameserver 10.0.0.1\nnameserver fd00::1\nsearch example.com\nnameserver 10.0.0.3\nnameserver 10.0.0.4\n")
	write(hosts, "# comment\n10.9.9.9 Db.Example.COM db # here\nfd00::9 db.example.com\nnonsense x\n\n10.9.9.8\n")
	s := newSystemConfig(conf, hosts)
	now := time.Now()
	at := func(d time.Duration) *systemConfig { s.refreshLocked(now.Add(d)); return s }
	if got := at(0).nservers; !slices.Equal(got, []string{"10.0.0.1:53", "[fd00::1]:53", "10.0.0.3:53"}) {
		t.Errorf("servers %v", got)
	}
	if got := fmt.Sprint(s.names["db.example.com"], s.names["db"], s.names["x"]); got != "[10.9.9.9 fd00::9] [10.9.9.9] []" {
		t.Errorf("hosts %s", got)
	}
	write(conf, "nameserver 10.0.0.200\n")
	write(hosts, "")
	if got := at(systemConfigAge - time.Millisecond).nservers; len(got) != 3 {
		t.Errorf("read again too early: %v", got)
	}
	if got := at(systemConfigAge).nservers; !slices.Equal(got, []string{"10.0.0.200:53"}) || len(s.names) != 0 {
		t.Errorf("not read again: %v %v", got, s.names)
	}
	os.Remove(conf)
	os.Remove(hosts)
	if got := at(2 * systemConfigAge).nservers; !slices.Equal(got, []string{"127.0.0.1:53"}) {
		t.Errorf("without a file: %v", got)
	}

	// The hosts file comes first, and its addresses are checked like others.
	write(hosts, "10.9.9.9 db.example.com\n")
	d := &dialer{guard: newGuard(nil, nil), resolver: newResolver(&dnsClient{system: newSystemConfig(conf, hosts)}, 1, 1000, 1)}
	defer d.resolver.close()
	if _, err := d.addrs(context.Background(), "db.example.com", 443); !errors.Is(err, faultBlocked) {
		t.Errorf("a private address of the hosts file: %v", err)
	}
}

// Answers are kept as long as they say, within bounds; so are failures, for a
// moment; and however many ask at once, the wire is used once.
// A name may be a view of a buffer that its owner uses again as soon as it has
// its answer, as the API's requests are. What is remembered of it must not
// change with the buffer, or one name gets another's addresses.
func TestNamesInBuffersThatAreUsedAgain(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	s.set("allowed.example", "8.8.8.8")
	s.set("blocked.example", "10.0.0.1")
	check := func(name string) error {
		buffer := []byte(name)
		defer copy(buffer, "another.request")
		return tr.CheckHost(context.Background(), unsafe.String(&buffer[0], len(buffer)), 443)
	}
	for range 3 {
		var blocked *BlockedError
		if err := check("allowed.example"); err != nil {
			t.Errorf("the allowed name: %v", err)
		}
		if err := check("blocked.example"); !errors.As(err, &blocked) {
			t.Errorf("the blocked name: %v", err)
		}
	}
	for _, q := range []string{"allowed.example A ", "blocked.example A "} {
		if n := s.asked(q); n != 1 {
			t.Errorf("%s: asked %d times, want once", q, n)
		}
	}
}

func TestLookupsAreCachedAndShared(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	s.set("a.example", "8.8.8.8")
	release := make(chan struct{})
	s.handle(func(dns.ResponseWriter, *dns.Msg) bool { <-release; return false })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if err := tr.CheckHost(context.Background(), "a.example", 443); err != nil {
				t.Error(err)
			}
		})
	}
	close(release)
	wg.Wait()
	failure(t, tr, "b.example")
	failure(t, tr, "b.example")
	lookup(t, tr, "a.example")
	for _, q := range []string{"a.example A ", "a.example AAAA ", "b.example A "} {
		if n := s.asked(q); n != 1 {
			t.Errorf("%s: asked %d times", q, n)
		}
	}
	if got := tr.Stats(); got.DNSEntries != 2 || got.Lookups != 2 {
		t.Errorf("%+v", got)
	}
}

func TestTTLs(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use, func(o *Options) { o.DNSEntries = 100 })
	keeps := func(name string, want time.Duration) {
		t.Helper()
		before := time.Now()
		tr.resolver.addresses(context.Background(), name)
		tr.resolver.mu.Lock()
		defer tr.resolver.mu.Unlock()
		e, ok := tr.resolver.cache.get(name)
		if kept := e.expires.Sub(before); !ok || kept < want || kept > want+5*time.Second {
			t.Errorf("%s is kept %v, want %v", name, kept, want)
		}
	}
	s.records("zero.example", "zero.example. 0 IN A 8.8.8.8")
	keeps("zero.example", minTTL)
	s.records("minute.example", "minute.example. 60 IN A 8.8.8.8")
	keeps("minute.example", time.Minute)
	s.records("day.example", "day.example. 86400 IN A 8.8.8.8")
	keeps("day.example", maxTTL)
	s.records("chain.example", "chain.example. 30 IN CNAME end.example.", "end.example. 90 IN A 8.8.8.8")
	keeps("chain.example", 30*time.Second)
	keeps("absent.example", notFoundTTL)
	for i := range 200 {
		tr.resolver.addresses(context.Background(), fmt.Sprintf("n%d.example", i))
	}
	if n := tr.Stats().DNSEntries; n != 100 {
		t.Errorf("%d names cached, bound 100", n)
	}

	// An answer whose time is over is not used.
	r := tr.resolver
	s.set("over.example", "8.8.4.4")
	r.mu.Lock()
	r.cache.set("over.example", cached{addrs: []netip.Addr{netip.MustParseAddr("8.8.8.8")}, expires: time.Now()})
	r.mu.Unlock()
	if got := lookup(t, tr, "over.example"); !slices.Equal(got, []string{"8.8.4.4"}) {
		t.Errorf("got %v", got)
	}
}

// Lookups beyond the bound fail at once and may be tried again.
func TestLookupsAreBounded(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use, func(o *Options) { o.Lookups = 2 })
	release := make(chan struct{})
	s.handle(blocking(release))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range tr.resolver.maxCall {
		name := fmt.Sprintf("n%d.example", i)
		tr.resolver.mu.Lock()
		call, err := tr.resolver.startLocked(name)
		tr.resolver.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			select {
			case <-call.done:
			case <-ctx.Done():
			}
		})
	}
	if err := failure(t, tr, "one-more.example"); err.NotFound || !errors.Is(err, errLookupsFull) {
		t.Errorf("got %v", err)
	}
	res := do(tr, &Request{Scheme: "https", Host: "one-more.example", Port: 443, Method: "POST"})
	if res.Outcome != Failed || res.Code != CodeDNSFailure {
		t.Errorf("%v %s", res.Outcome, res.Error())
	}
	cancel()
	close(release)
	wg.Wait()
	tr.Close() // ends what is under way
	if err := failure(t, tr, "closed.example"); !errors.Is(err, errResolverClosed) {
		t.Errorf("after Close: %v", err)
	}
}

func TestTXT(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	check := func(name string, want ...string) {
		t.Helper()
		got, err := tr.LookupTXT(context.Background(), name)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	s.records("_harepost.a.example", `_harepost.a.example. 60 IN TXT "harepost-verify=" "abc" "def"`, `_harepost.a.example. 60 IN TXT "v=spf1 -all"`)
	check("_harepost.a.example", "harepost-verify=abcdef", "v=spf1 -all")
	check("_HAREPOST.a.example.", "harepost-verify=abcdef", "v=spf1 -all")
	s.records("_harepost.b.example", "_harepost.b.example. 60 IN CNAME _harepost.a.example.", `_harepost.a.example. 60 IN TXT "via alias"`)
	check("_harepost.b.example", "via alias")
	s.records("esc.example", `esc.example. 60 IN TXT "a\"b\\c\200"`)
	check("esc.example", "a\"b\\c\xc8")
	long := strings.Repeat("0123456789", 25)
	s.records("long.example", fmt.Sprintf("long.example. 60 IN TXT %s %s %s %s %s %s", long, long, long, long, long, long))
	check("long.example", strings.Repeat(long, 6))
	if s.asked("long.example TXT tcp") != 1 {
		t.Error("a long record did not come over TCP")
	}
	var many []string
	for i := range maxTXTRecords + 10 {
		many = append(many, fmt.Sprintf("many.example. 60 IN TXT n%d", i))
	}
	s.records("many.example", many...)
	if got, err := tr.LookupTXT(context.Background(), "many.example"); err != nil || len(got) != maxTXTRecords {
		t.Errorf("%d records, %v", len(got), err)
	}

	// What was published a moment ago is seen.
	s.records("new.example", "new.example. 60 IN TXT old")
	check("new.example", "old")
	s.records("new.example", "new.example. 60 IN TXT new")
	check("new.example", "new")
}

func TestTXTFailures(t *testing.T) {
	s := serveDNS(t)
	tr := open(t, s.use)
	check := func(name string, notFound bool) {
		t.Helper()
		_, err := tr.LookupTXT(context.Background(), name)
		var lookup *LookupError
		if !errors.As(err, &lookup) || lookup.NotFound != notFound {
			t.Errorf("%q: %v", name, err)
		}
	}
	check("absent.example", true)
	s.set("other.example", "8.8.8.8")
	check("other.example", true)
	check("", false)
	check("a..b", false)
	s.handle(func(w dns.ResponseWriter, q *dns.Msg) bool {
		w.WriteMsg(new(dns.Msg).SetRcode(q, dns.RcodeServerFailure))
		return true
	})
	check("servfail.example", false)
	release := make(chan struct{})
	s.handle(blocking(release))
	defer close(release)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	began := time.Now()
	if _, err := tr.LookupTXT(ctx, "silent.example"); err == nil || time.Since(began) > 8*tolerance {
		t.Errorf("after %v: %v", time.Since(began), err)
	}
}
