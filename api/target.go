package api

import (
	"errors"
	"hash/maphash"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/harepost/harepost/engine"
)

// targetRules are the options that decide which targets are accepted.
type targetRules struct {
	allowHTTP    bool
	loopback     bool // Options.Dev
	urlChars     int
	privateNames []string

	known targetCache
}

// targetCache keeps what targets were parsed to: senders name the same ones
// again and again. A place for each hash, the latest target with it in it; no
// lock, no order, and no more memory than targetPlaces of keptTargetBytes.
type targetCache [targetPlaces]atomic.Pointer[engine.Target]

const (
	targetPlaces    = 2048
	keptTargetBytes = 512
)

var targetSeed = maphash.MakeSeed()

// parse is parseTarget, by the cache. What it returns may alias raw.
func (r *targetRules) parse(raw string) (engine.Target, error) {
	if len(raw) > keptTargetBytes {
		return parseTarget(raw, r)
	}
	place := &r.known[maphash.String(targetSeed, raw)%targetPlaces]
	if t := place.Load(); t != nil && t.URL == raw {
		return *t, nil
	}
	t, err := parseTarget(strings.Clone(raw), r)
	if err == nil {
		place.Store(&t)
	}
	return t, err
}

// parseTarget parses a target URL once and for all. The error is a reason in
// words for the caller.
//
// The parts are cut from the text itself, and net/url must agree about where
// the authority lies: a URL that two parsers read differently is refused, since
// one of them decides where it is allowed to go and the other where it goes.
// The path and query are kept as written, see requestURI.
func parseTarget(raw string, rules *targetRules) (engine.Target, error) {
	var t engine.Target
	if len(raw) > rules.urlChars && utf8.RuneCountInString(raw) > rules.urlChars {
		return t, errors.New("it is longer than " + strconv.Itoa(rules.urlChars) + " characters")
	}
	scheme, authority, rest, err := splitURL(raw)
	if err != nil {
		return t, err
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host != authority || u.User != nil || u.Opaque != "" {
		return t, errors.New("it is not a valid URL")
	}
	host, port, err := splitAuthority(authority)
	if err != nil {
		return t, err
	}
	t = engine.Target{URL: raw, Scheme: scheme, Port: 443, URI: requestURI(rest)}
	if scheme == "http" {
		t.Port = 80
	}
	if port != "" {
		if t.Port, err = parsePort(port); err != nil {
			return engine.Target{}, err
		}
	}
	var isLoopback bool
	if t.Host, isLoopback, err = targetHost(host, rules); err != nil {
		return engine.Target{}, err
	}
	if scheme == "http" && !rules.allowHTTP && !isLoopback {
		return engine.Target{}, errors.New("only https targets are allowed")
	}
	return t, nil
}

// splitURL cuts "scheme://authority/rest" and refuses every character that
// some parser somewhere treats as something else.
func splitURL(raw string) (scheme, authority, rest string, err error) {
	for i := 0; i < len(raw); i++ {
		switch c := raw[i]; {
		case c <= ' ' || c == 0x7f:
			return "", "", "", errors.New("it contains white space or a control character")
		case c == '\\':
			return "", "", "", errors.New("it contains a backslash")
		case c == '#':
			return "", "", "", errors.New("it has a fragment")
		}
	}
	scheme, after, ok := strings.Cut(raw, "://")
	// The lengths keep out letters that only fold to ASCII ones.
	switch {
	case ok && len(scheme) == len("https") && strings.EqualFold(scheme, "https"):
		scheme = "https"
	case ok && len(scheme) == len("http") && strings.EqualFold(scheme, "http"):
		scheme = "http"
	default:
		return "", "", "", errors.New("it does not begin with https://")
	}
	end := strings.IndexAny(after, "/?")
	if end < 0 {
		end = len(after)
	}
	authority, rest = after[:end], after[end:]
	switch {
	case authority == "":
		return "", "", "", errHostEmpty
	case strings.IndexByte(authority, '@') >= 0:
		return "", "", "", errors.New("it has a user name or password; put credentials into a header")
	case strings.IndexByte(authority, '%') >= 0:
		return "", "", "", errors.New("the host is percent-encoded or has a zone")
	}
	return scheme, authority, rest, nil
}

// splitAuthority cuts "host:port"; the brackets of an IPv6 address stay on.
func splitAuthority(authority string) (host, port string, err error) {
	colon := strings.LastIndexByte(authority, ':')
	if strings.HasPrefix(authority, "[") {
		end := strings.IndexByte(authority, ']')
		if end < 0 || end+1 < len(authority) && colon != end+1 {
			return "", "", errors.New("the host is not a valid IPv6 address")
		}
		if colon < end {
			return authority, "", nil
		}
	}
	if colon < 0 {
		return authority, "", nil
	}
	if colon == len(authority)-1 {
		return "", "", errors.New("the port is empty")
	}
	return authority[:colon], authority[colon+1:], nil
}

// targetHost brings the host of a target into its canonical form and decides
// whether it may be one at all. What it resolves to is the engine's to judge.
func targetHost(host string, rules *targetRules) (name string, loopback bool, err error) {
	addr, isAddr := netip.Addr{}, false
	if inner, ok := strings.CutPrefix(host, "["); ok {
		addr, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		// A mapped address is IPv4 in a disguise that nobody needs.
		if err != nil || !addr.Is6() || addr.Is4In6() || addr.Zone() != "" {
			return "", false, errors.New("the host is not a valid IPv6 address")
		}
		name, isAddr = addr.String(), true
	} else {
		if name, err = hostName(host); err != nil {
			return "", false, err
		}
		if c := name[len(name)-1]; '0' <= c && c <= '9' {
			addr, err = netip.ParseAddr(name)
			isAddr = err == nil
		}
	}
	if isAddr {
		if rules.loopback && addr.IsLoopback() {
			return name, true, nil
		}
		return "", false, errors.New("the host is an IP address; only names can be verified")
	}
	if name == "localhost" && rules.loopback {
		return name, true, nil
	}
	if strings.IndexByte(name, '.') < 0 {
		return "", false, errors.New("the host is a single label, which means nothing outside one network")
	}
	if suffix, ok := underSuffix(name, rules.privateNames); ok {
		return "", false, errors.New("names under " + suffix + " belong to private networks")
	}
	return name, false, nil
}

// requestURI makes the request target of what followed the authority. It keeps
// every octet and all percent-encoding, except that an octet which may not
// stand in an HTTP request target is percent-encoded.
func requestURI(rest string) string {
	illegal := 0
	for i := 0; i < len(rest); i++ {
		if !isURIByte(rest[i]) {
			illegal++
		}
	}
	rooted := strings.HasPrefix(rest, "/")
	if rooted && illegal == 0 {
		return rest
	}
	b := make([]byte, 0, len(rest)+2*illegal+1)
	if !rooted {
		b = append(b, '/')
	}
	for i := 0; i < len(rest); i++ {
		if c := rest[i]; isURIByte(c) {
			b = append(b, c)
		} else {
			const hex = "0123456789ABCDEF"
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(b)
}

// isURIByte expects that splitURL has refused white space, control characters,
// backslash and '#'.
func isURIByte(c byte) bool {
	switch c {
	case '"', '<', '>', '^', '`', '{', '|', '}':
		return false
	}
	return c < 0x80
}

// OperatorTarget parses the URL of a target that the server's operator names, and
// not a customer: any host name will do, and loopback. What may be connected to is
// the transport's to say. The error is a reason in words.
func OperatorTarget(raw string, allowHTTP bool) (engine.Target, error) {
	return parseTarget(raw, &targetRules{allowHTTP: allowHTTP, loopback: true, urlChars: Options{}.withDefaults().URLChars})
}
