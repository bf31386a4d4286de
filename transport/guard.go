package transport

import (
	"net"
	"net/netip"
	"strings"
)

// BlockedError says that a host may not be connected to. It does not say what
// the host resolved to, or which rule refused it: its text can be shown to
// the account without becoming a map of the network behind us.
type BlockedError struct{ Host string }

func (e *BlockedError) Error() string {
	return "transport: host " + e.Host + ": " + faultBlocked.detail
}

// blockedIPv4 is every IPv4 range that is not the public Internet: the IANA
// special-purpose registry (RFC 6890 and its updates), multicast, class E, and
// Azure's platform address, which lies in public space.
var blockedIPv4 = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16",
	"172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24",
	"192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24",
	"198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4",
	"240.0.0.0/4", "168.63.129.16/32",
)

// globalIPv6 is the only IPv6 space IANA has given out; all else (loopback,
// mapped, translated, discard, unique local, link local, site local,
// multicast) is refused by being outside.
var globalIPv6 = netip.MustParsePrefix("2000::/3")

// blockedIPv6 is what must not be dialled inside globalIPv6: IETF protocol
// assignments with Teredo, benchmarking and ORCHID; documentation; 6to4,
// which carries an IPv4 address of anyone's choice; AS112.
var blockedIPv6 = prefixes("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")

// nat64 is the well-known prefix of RFC 6052: its last 32 bits are the IPv4
// address that will really be reached.
var nat64 = netip.MustParsePrefix("64:ff9b::/96")

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// public reports whether a is an address of the public Internet. a is
// unmapped and has no zone.
func public(a netip.Addr) bool {
	if a.Is4() {
		return !anyContains(blockedIPv4, a)
	}
	if nat64.Contains(a) {
		b := a.As16()
		return public(netip.AddrFrom4([4]byte(b[12:])))
	}
	return globalIPv6.Contains(a) && !anyContains(blockedIPv6, a)
}

func anyContains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// guard decides which hosts and addresses may be connected to. It never
// changes after newGuard, so any goroutine may ask.
type guard struct {
	allow     []netip.Prefix
	forbidden []netip.AddrPort
}

func newGuard(allow []netip.Prefix, forbidden []netip.AddrPort) *guard {
	g := &guard{}
	for _, p := range allow {
		// Contains is false between an IPv4 address and its mapped form, so
		// everything is compared unmapped.
		if a := p.Addr(); a.Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(a.Unmap(), p.Bits()-96)
		}
		g.allow = append(g.allow, p.Masked())
	}
	for _, ap := range forbidden {
		g.forbidden = append(g.forbidden, netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()))
	}
	return g
}

// allowed reports whether port of a may be connected to.
func (g *guard) allowed(a netip.Addr, port uint16) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	if g.own(a, port) {
		return false
	}
	return anyContains(g.allow, a) || public(a)
}

// own reports whether a and port are a forbidden endpoint. The interfaces are
// read only when the port matches a wildcard, which honest targets hardly do.
func (g *guard) own(a netip.Addr, port uint16) bool {
	for _, f := range g.forbidden {
		if f.Port() != port {
			continue
		}
		if f.Addr() == a {
			return true
		}
		if f.Addr().IsUnspecified() && (a.IsLoopback() || a.IsUnspecified() || onThisMachine(a)) {
			return true
		}
	}
	return false
}

// onThisMachine reports whether an interface carries a. When the interfaces
// cannot be read the answer is yes: refusing is the safe side.
func onThisMachine(a netip.Addr) bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, ia := range addrs {
		if n, ok := ia.(*net.IPNet); ok {
			if b, ok := netip.AddrFromSlice(n.IP); ok && b.Unmap() == a {
				return true
			}
		}
	}
	return false
}

// localAddrs returns what "localhost" means when EgressAllow says it may mean
// something: those loopback addresses that are allowed. It is never asked of
// DNS.
func (g *guard) localAddrs(port uint16) []netip.Addr {
	var out []netip.Addr
	for _, a := range []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()} {
		if g.allowed(a, port) {
			out = append(out, a)
		}
	}
	return out
}

// localSuffixes end names that mean something only inside a network.
var localSuffixes = []string{".localhost", ".local", ".internal", ".svc"}

// publicName reports whether host, in lower case and without trailing dot,
// may be looked up: a name of several labels in plain host characters, not of
// a local zone, and not ending in a number. The last rule refuses 127.1,
// 0x7f.0.0.1 and their like, which some resolvers take for addresses.
func publicName(host string) bool {
	if len(host) == 0 || len(host) > 253 || !strings.Contains(host, ".") {
		return false
	}
	label := 0
	for i := 0; i < len(host); i++ {
		c := host[i]
		switch {
		case c == '.':
			if label == 0 {
				return false
			}
			label = 0
			continue
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
		if label++; label > 63 {
			return false
		}
	}
	if label == 0 || numeric(host[strings.LastIndexByte(host, '.')+1:]) {
		return false
	}
	for _, s := range localSuffixes {
		if strings.HasSuffix(host, s) {
			return false
		}
	}
	return true
}

// numeric reports whether a label is a number in the sense of the WHATWG URL
// standard: digits, or 0x and hexadecimal digits.
func numeric(label string) bool {
	digits := label
	hex := strings.HasPrefix(label, "0x")
	if hex {
		digits = label[2:]
	}
	for i := 0; i < len(digits); i++ {
		c := digits[i]
		if !('0' <= c && c <= '9' || hex && 'a' <= c && c <= 'f') {
			return false
		}
	}
	return true
}

// ParseLiteral parses host, in normal form and without the brackets of an IPv6
// literal, as an IP address; false for a name, at the cost of a glance.
func ParseLiteral(host string) (netip.Addr, bool) {
	// A name costs ParseAddr an error; every address ends in a digit or has a colon.
	if n := len(host); n == 0 || (host[n-1] < '0' || host[n-1] > '9') && strings.IndexByte(host, ':') < 0 {
		return netip.Addr{}, false
	}
	a, err := netip.ParseAddr(host)
	return a, err == nil
}

// normalHost returns host in lower case, without a trailing dot, and without
// the brackets of an IPv6 literal. It allocates only for upper case.
func normalHost(host string) string {
	if n := len(host); n > 1 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if n := len(host); n > 2 && host[0] == '[' && host[n-1] == ']' {
		host = host[1 : n-1]
	}
	return strings.ToLower(host)
}
