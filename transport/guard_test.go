package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"testing"
)

// edges returns the addresses that must be refused because of p: its first,
// its last, and one inside.
func edges(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	b := first.AsSlice()
	mid := append([]byte(nil), b...)
	for i := range b {
		bits := min(max(p.Bits()-8*i, 0), 8)
		b[i] |= byte(0xff >> bits)
		mid[i] |= byte(0x55 >> bits)
	}
	last, _ := netip.AddrFromSlice(b)
	inside, _ := netip.AddrFromSlice(mid)
	return []netip.Addr{first, inside, last}
}

// forbiddenAddrs is the whole list of what must never be dialled.
var forbiddenAddrs = func() (out []netip.Addr) {
	for _, p := range append(append([]netip.Prefix{}, blockedIPv4...), blockedIPv6...) {
		out = append(out, edges(p)...)
	}
	for _, s := range []string{
		// IPv6 outside 2000::/3, each kind by name.
		"::/128", "::1/128", "::/96", "::ffff:0:0:0/96", "64:ff9b:1::/48", "100::/64", "5f00::/16",
		"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8", "4000::/3", "8000::/1", "1000::/4",
	} {
		out = append(out, edges(netip.MustParsePrefix(s))...)
	}
	for _, s := range []string{
		// Machines that clouds put where tenants must not reach.
		"169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192",
		"fd00:ec2::254", "fd20:ce::254", "2001::1", "2001:0:7f00:1::", "2002:7f00:1::", "2002:a9fe:a9fe::",
	} {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}()

// spellings are ways to write an address that mean the same machine.
func spellings(a netip.Addr) []string {
	out := []string{a.String(), a.StringExpanded(), "[" + a.String() + "]", a.String() + "."}
	if a.Is4() {
		b := a.As4()
		out = append(out,
			fmt.Sprintf("::ffff:%d.%d.%d.%d", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("::ffff:%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("[0:0:0:0:0:FFFF:%02X%02X:%02X%02X]", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("64:ff9b::%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("64:ff9b::%d.%d.%d.%d", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("::%02x%02x:%02x%02x", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("2002:%02x%02x:%02x%02x::", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("::ffff:%d.%d.%d.%d%%lo", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("%d", uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3])),
			fmt.Sprintf("0x%02x%02x%02x%02x", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("%d.%d", b[0], uint32(b[1])<<16|uint32(b[2])<<8|uint32(b[3])),
			fmt.Sprintf("%d.%d.%d", b[0], b[1], uint32(b[2])<<8|uint32(b[3])),
			fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]),
			fmt.Sprintf("%d.%d.%d.%d%%25lo", b[0], b[1], b[2], b[3]),
		)
		return out
	}
	return append(out, a.String()+"%lo", "["+a.String()+"%25eth0]")
}

// publicAddrs must be reachable, or the guard guards too much: the neighbours
// of the blocked ranges among them.
var publicAddrs = []string{
	"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0",
	"169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "191.255.255.255", "192.0.1.0", "192.0.3.0",
	"192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255",
	"198.51.101.0", "203.0.112.255", "203.0.114.0", "223.255.255.255", "168.63.129.15", "168.63.129.17",
	"::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2000::1", "2001:200::1", "2001:4860:4860::8888", "2001:db7:ffff::1", "2001:db9::1",
	"2003::1", "2606:4700:4700::1111", "2620:4f:7fff::1", "2620:4f:8001::1", "2a00:1450::1", "3ffe:ffff::1", "3fff:1000::1",
}

func TestGuardTable(t *testing.T) {
	g := newGuard(nil, nil)
	for _, a := range forbiddenAddrs {
		if g.allowed(a, 443) || g.allowed(netip.AddrFrom16(a.As16()), 443) {
			t.Errorf("%v is allowed", a)
		}
	}
	for _, s := range publicAddrs {
		a := netip.MustParseAddr(s)
		if !g.allowed(a, 443) {
			t.Errorf("%v is refused", a)
		}
		if a.Is6() && !a.Is4In6() && g.allowed(a.WithZone("eth0"), 443) {
			t.Errorf("%v is allowed with a zone", a)
		}
	}
	if g.allowed(netip.Addr{}, 443) {
		t.Error("no address is allowed")
	}
}

// No spelling of a forbidden address passes, before or at an attempt, and the
// refusal says nothing about it.
func TestNoSpellingPasses(t *testing.T) {
	tr := open(t, func(o *Options) { o.EgressAllow = nil; o.Resolver = serveDNS(t).addr })
	tested := 0
	for _, a := range forbiddenAddrs {
		for _, host := range spellings(a) {
			tested++
			var blocked *BlockedError
			if err := tr.CheckHost(context.Background(), host, 443); !errors.As(err, &blocked) {
				t.Errorf("CheckHost(%q) = %v", host, err)
			}
			req := &Request{Scheme: "https", Host: host, Port: 443, Method: "POST"}
			res := do(tr, req)
			if res.Outcome != Rejected || res.Error() != "address_blocked: the target's address is not allowed" || res.RemoteIP.IsValid() {
				t.Errorf("Do(%q): %v %s %v", host, res.Outcome, res.Error(), res.RemoteIP)
			}
		}
	}
	if s := tr.Stats(); tested < 600 || s.Blocked != uint64(2*tested) || s.Lookups != 0 {
		t.Errorf("%d spellings: %+v", tested, s)
	}
}

func TestLocalNamesAreRefused(t *testing.T) {
	dns := serveDNS(t)
	tr := open(t, func(o *Options) { o.EgressAllow = nil }, dns.use)
	for _, host := range []string{
		"localhost", "LOCALHOST", "localhost.", "a.localhost", "intranet", "db", "printer.local", "PRINTER.LOCAL.",
		"metadata.google.internal", "kubernetes.default.svc", "api.svc", "x.svc.cluster.local", "a..b", ".a.com", "a.com..",
		"a b.com", "a.com/x", "a@b.com", "a:b.com", "ex\u00e4mple.com", "a.com\x00", "*.com", "-", "_", "1", "1.2", "1.2.3", "0x7f.1",
		"a.0x1", "1.2.3.4.5", "127.0.0.1.1", "a.b.08", "[example.com", "example.com%lo",
		"a." + string(make([]byte, 300)), "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.com",
	} {
		var blocked *BlockedError
		if err := tr.CheckHost(context.Background(), host, 443); !errors.As(err, &blocked) {
			t.Errorf("CheckHost(%q) = %v", host, err)
		}
	}
	if tr.Stats().Lookups != 0 {
		t.Error("a refused name was looked up")
	}
	dns.set("a.example.com", "8.8.8.8")
	dns.set("xn--bcher-kva.example", "8.8.8.8")
	dns.set("_x.a-b.svc.example", "8.8.8.8")
	for _, host := range []string{"a.example.com", "A.Example.Com.", "xn--bcher-kva.example", "_x.a-b.svc.example", "8.8.8.8", "[2606:4700::1]"} {
		if err := tr.CheckHost(context.Background(), host, 443); err != nil {
			t.Errorf("CheckHost(%q) = %v", host, err)
		}
	}
}

// What is known is checked as strictly without a lookup; what is not is left to
// one, and none is made.
func TestCheckKnown(t *testing.T) {
	dns := serveDNS(t)
	tr := open(t, func(o *Options) { o.EgressAllow = nil }, dns.use)
	dns.set("a.example.com", "8.8.8.8")
	dns.set("inside.example.com", "10.0.0.1")
	check := func(host string, wantKnown, wantBlocked bool) {
		t.Helper()
		known, err := tr.CheckKnown(host, 443)
		var blocked *BlockedError
		if known != wantKnown || errors.As(err, &blocked) != wantBlocked || err != nil && !wantBlocked {
			t.Errorf("CheckKnown(%q) = %t, %v", host, known, err)
		}
	}
	check("8.8.8.8", true, false)
	check("10.0.0.1", true, true)
	check("localhost", true, true)
	for _, host := range []string{"a.example.com", "inside.example.com"} {
		check(host, false, false)
		tr.CheckHost(t.Context(), host, 443)
		check(host, true, host[0] == 'i')
	}
	if n := tr.Stats().Lookups; n != 2 {
		t.Errorf("%d lookups, want those of CheckHost", n)
	}
}

// Exceptions open what they name and nothing beside it; our own listeners
// stay closed whatever the exceptions say.
func TestExceptionsAndOwnListeners(t *testing.T) {
	prefix, addr, port := netip.MustParsePrefix, netip.MustParseAddr, netip.MustParseAddrPort
	g := newGuard(
		[]netip.Prefix{prefix("10.1.0.0/16"), prefix("127.0.0.0/8"), prefix("fd00:1::/32"), prefix("::ffff:172.16.5.0/120")},
		[]netip.AddrPort{port("10.1.2.3:8080"), port("0.0.0.0:9000"), port("[::ffff:8.8.8.8]:7000")},
	)
	check := func(want bool, a string, p uint16) {
		t.Helper()
		if got := g.allowed(addr(a), p); got != want {
			t.Errorf("%s port %d: allowed %v", a, p, got)
		}
	}
	check(true, "10.1.0.0", 80)
	check(true, "10.1.255.255", 80)
	check(true, "::ffff:10.1.2.3", 80)
	check(true, "172.16.5.9", 80)
	check(false, "172.16.6.0", 80)
	check(false, "10.2.0.0", 80)
	check(false, "64:ff9b::10.1.0.0", 80) // translated elsewhere: not ours to except
	check(true, "fd00:1::5", 80)
	check(false, "fd00:2::5", 80)
	check(false, "10.1.2.3", 8080)
	check(true, "10.1.2.3", 8081)
	check(false, "::ffff:10.1.2.3", 8080)
	check(false, "8.8.8.8", 7000)
	check(false, "127.0.0.1", 9000)
	check(false, "127.5.5.5", 9000)
	check(true, "127.0.0.1", 9001)
	check(true, "8.8.4.4", 9000)
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, ia := range addrs {
		if n, ok := ia.(*net.IPNet); ok {
			a, _ := netip.AddrFromSlice(n.IP)
			if g.allowed(a, 9000) {
				t.Errorf("our own %v port 9000 is allowed", a)
			}
		}
	}
}

// localhost works where loopback is an exception, without asking DNS.
func TestLocalhostInDevelopment(t *testing.T) {
	dns := serveDNS(t)
	tr := open(t, dns.use)
	addr := receiver(t, answering(always(reply(200, ""))))
	for _, host := range []string{"localhost", "LocalHost."} {
		req := to(addr, "POST", "/", "{}")
		req.Host = host
		if res := do(tr, req); res.Outcome != Delivered {
			t.Errorf("%s: %s", host, res.Error())
		}
	}
	if dns.asked("localhost") != 0 {
		t.Error("localhost was looked up")
	}
}
