package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	exchangeTimeout = 1500 * time.Millisecond // one server, one try
	exchangeTries   = 2                       // rounds over the servers
	maxAliases      = 12                      // CNAMEs followed for one name
	maxRequeries    = 4                       // queries for a chain that came in pieces
	udpAnswerBytes  = 1232                    // advertised by EDNS0: fits every path unfragmented
	maxStrayPackets = 32                      // packets that are not our answer, per try
)

// dnsClient is a stub resolver (RFC 1034 section 5.3.1): it sends recursive
// queries to configured servers and believes only answers to them. Names are
// always absolute; search domains are never used.
type dnsClient struct {
	server string        // the one server to ask; "" asks system's
	system *systemConfig // nil when server is set
	dialer net.Dialer
}

func newDNSClient(server string) *dnsClient {
	if server != "" {
		return &dnsClient{server: server}
	}
	return &dnsClient{system: newSystemConfig("/etc/resolv.conf", "/etc/hosts")}
}

// addresses returns the IPv4 addresses of name followed by its IPv6 ones, and
// the shortest TTL seen.
func (c *dnsClient) addresses(ctx context.Context, name string) ([]netip.Addr, time.Duration, error) {
	if c.system != nil {
		if addrs := c.system.hostAddrs(name); len(addrs) > 0 {
			return addrs, notFoundTTL, nil
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	six := make(chan family, 1)
	done := make(chan struct{})
	defer func() { cancel(); <-done }() // the goroutine ends before we do
	go func() {
		defer close(done)
		six <- c.family(ctx, name, dns.TypeAAAA)
	}()
	a := c.family(ctx, name, dns.TypeA)
	// Some name servers never answer AAAA. A name that has an IPv4 address
	// does not wait for the rest of its lookup time.
	grace := lookupTimeout
	if a.err == nil {
		grace = familyGrace
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case b := <-six:
		return a.join(b)
	case <-timer.C:
		return a.join(family{err: context.DeadlineExceeded})
	}
}

// family is what one of the two address queries brought.
type family struct {
	addrs []netip.Addr
	ttl   time.Duration
	err   error
}

// join merges the answers of both families: one that failed does not hide the
// other, and a failure outweighs "no such record".
func (a family) join(b family) ([]netip.Addr, time.Duration, error) {
	switch {
	case a.err == nil && b.err == nil:
		return clip(append(a.addrs, b.addrs...)), min(a.ttl, b.ttl), nil
	case a.err == nil:
		return clip(a.addrs), a.ttl, nil
	case b.err == nil:
		return clip(b.addrs), b.ttl, nil
	case errors.Is(a.err, errNoRecord):
		return nil, 0, b.err
	}
	return nil, 0, a.err
}

func clip(addrs []netip.Addr) []netip.Addr { return addrs[:min(len(addrs), maxAddrs)] }

func (c *dnsClient) family(ctx context.Context, name string, qtype uint16) family {
	records, ttl, err := c.resolve(ctx, name, qtype)
	if err != nil {
		return family{err: err}
	}
	f := family{ttl: ttl}
	for _, rr := range records {
		var ip net.IP
		switch rr := rr.(type) {
		case *dns.A:
			ip = rr.A
		case *dns.AAAA:
			ip = rr.AAAA
		}
		if addr, ok := netip.AddrFromSlice(ip); ok {
			f.addrs = append(f.addrs, addr.Unmap())
		}
	}
	if len(f.addrs) == 0 {
		return family{err: errNoRecord}
	}
	return f
}

// txt returns the joined strings of every TXT record of name.
func (c *dnsClient) txt(ctx context.Context, name string) ([]string, error) {
	records, _, err := c.resolve(ctx, name, dns.TypeTXT)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, rr := range records[:min(len(records), maxTXTRecords)] {
		if t, ok := rr.(*dns.TXT); ok {
			out = append(out, unescapeTXT(strings.Join(t.Txt, "")))
		}
	}
	if len(out) == 0 {
		return nil, errNoRecord
	}
	return out, nil
}

// unescapeTXT undoes the presentation escapes (\" \\ \ddd) in which the
// library keeps the bytes of a TXT string.
func unescapeTXT(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	digit := func(b byte) bool { return '0' <= b && b <= '9' }
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != '\\' || i+1 == len(s):
			out = append(out, s[i])
		case i+3 < len(s) && digit(s[i+1]) && digit(s[i+2]) && digit(s[i+3]):
			out = append(out, (s[i+1]-'0')*100+(s[i+2]-'0')*10+s[i+3]-'0')
			i += 3
		default:
			i++
			out = append(out, s[i])
		}
	}
	return string(out)
}

// resolve returns the records of type qtype at the end of name's alias chain.
// Servers usually send the whole chain in one answer; one that comes in
// pieces is asked for piece by piece.
func (c *dnsClient) resolve(ctx context.Context, name string, qtype uint16) ([]dns.RR, time.Duration, error) {
	name = dns.CanonicalName(name)
	ttl := maxTTL
	for range maxRequeries {
		msg, err := c.ask(ctx, name, qtype)
		if err != nil {
			return nil, 0, err
		}
		final, records, part, err := follow(msg.Answer, name, qtype)
		if err != nil {
			return nil, 0, err
		}
		ttl = min(ttl, part)
		if len(records) > 0 {
			return records, ttl, nil
		}
		if final == name || msg.Rcode == dns.RcodeNameError {
			return nil, 0, errNoRecord
		}
		name = final
	}
	return nil, 0, errTooManyAliases
}

// follow walks the CNAMEs of an answer from name and returns where they end,
// the records of type qtype there, and the shortest TTL on the way.
func follow(answer []dns.RR, name string, qtype uint16) (string, []dns.RR, time.Duration, error) {
	ttl := maxTTL
	shorten := func(rr dns.RR) { ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second) }
	for range maxAliases {
		var records []dns.RR
		var alias *dns.CNAME
		for _, rr := range answer {
			if dns.CanonicalName(rr.Header().Name) != name || rr.Header().Class != dns.ClassINET {
				continue
			}
			if rr.Header().Rrtype == qtype {
				records = append(records, rr)
				shorten(rr)
			} else if cname, ok := rr.(*dns.CNAME); ok && alias == nil {
				alias = cname
			}
		}
		if len(records) > 0 || alias == nil {
			return name, records, ttl, nil
		}
		shorten(alias)
		name = dns.CanonicalName(alias.Target)
	}
	return "", nil, 0, errTooManyAliases
}

// ask puts one question to the servers in turn until one gives an answer that
// settles it: records, none, or no such name.
func (c *dnsClient) ask(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	servers := []string{c.server}
	if c.system != nil {
		servers = c.system.servers()
	}
	last := errNoUsableAnswer
	for range exchangeTries {
		for _, server := range servers {
			if ctx.Err() != nil {
				return nil, last
			}
			msg, err := c.exchange(ctx, server, name, qtype)
			if err != nil {
				last = err
				continue
			}
			if settles(msg) {
				return msg, nil
			}
			last = fmt.Errorf("server answered %s", dns.RcodeToString[msg.Rcode])
		}
	}
	return nil, last
}

// settles reports whether msg answers the question. A server that knows
// nothing and will not recurse (a "lame" one) does not.
func settles(msg *dns.Msg) bool {
	switch msg.Rcode {
	case dns.RcodeNameError:
		return true
	case dns.RcodeSuccess:
		return len(msg.Answer) > 0 || msg.Authoritative || msg.RecursionAvailable
	}
	return false
}

// exchange asks one server: over UDP with EDNS0, over UDP without it when the
// server does not understand, over TCP when the answer did not fit.
func (c *dnsClient) exchange(ctx context.Context, server, name string, qtype uint16) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	query := new(dns.Msg).SetQuestion(name, qtype)
	query.SetEdns0(udpAnswerBytes, false)
	msg, err := c.roundTrip(ctx, "udp", server, query)
	if err == nil && msg.Rcode == dns.RcodeFormatError {
		query.Extra = nil
		query.Id = dns.Id()
		msg, err = c.roundTrip(ctx, "udp", server, query)
	}
	if err == nil && msg.Truncated {
		query.Id = dns.Id()
		msg, err = c.roundTrip(ctx, "tcp", server, query)
	}
	return msg, err
}

// roundTrip sends query from a socket of its own, hence from a random port,
// and waits for the message with its id and question. Anything else that
// arrives is a stray or a forgery and is passed over.
func (c *dnsClient) roundTrip(ctx context.Context, network, server string, query *dns.Msg) (*dns.Msg, error) {
	raw, err := c.dialer.DialContext(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	if deadline, ok := ctx.Deadline(); ok {
		raw.SetDeadline(deadline)
	}
	defer context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })()
	conn := &dns.Conn{Conn: raw, UDPSize: udpAnswerBytes}
	if err := conn.WriteMsg(query); err != nil {
		return nil, err
	}
	for range maxStrayPackets {
		msg, err := conn.ReadMsg()
		var netErr net.Error
		switch {
		case err == nil && answers(msg, query):
			return msg, nil
		case errors.As(err, &netErr), err != nil && network == "tcp":
			return nil, err
		}
	}
	return nil, errAnswerMalformed
}

// answers reports whether msg is the response to query. The question is
// compared without regard to case: servers may echo it either way.
func answers(msg, query *dns.Msg) bool {
	if !msg.Response || msg.Id != query.Id || msg.Opcode != dns.OpcodeQuery {
		return false
	}
	if len(msg.Question) != 1 {
		// Some servers leave the question out of an error.
		return len(msg.Question) == 0 && msg.Rcode != dns.RcodeSuccess && msg.Rcode != dns.RcodeNameError
	}
	a, b := msg.Question[0], query.Question[0]
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
