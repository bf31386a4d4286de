package api

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"
)

func rules() *targetRules {
	return &targetRules{urlChars: 2048, privateNames: DefaultPrivateNames}
}

func devRules() *targetRules {
	r := rules()
	r.loopback = true
	return r
}

// Every accepted target has one meaning, and its parts say which.
func TestTargetAccepted(t *testing.T) {
	f := func(raw, scheme, host string, port uint16, uri string) {
		t.Helper()
		got, err := parseTarget(raw, rules())
		if err != nil {
			t.Errorf("%s: refused: %v", raw, err)
			return
		}
		if got.URL != raw || got.Scheme != scheme || got.Host != host || got.Port != port || got.URI != uri {
			t.Errorf("%s:\n got %+v\nwant %s %s %d %s", raw, got, scheme, host, port, uri)
		}
	}
	f("https://example.com", "https", "example.com", 443, "/")
	f("https://example.com/", "https", "example.com", 443, "/")
	f("https://example.com?q=1", "https", "example.com", 443, "/?q=1")
	f("https://example.com/?", "https", "example.com", 443, "/?")
	f("HTTPS://EXAMPLE.com/Path", "https", "example.com", 443, "/Path")
	f("https://example.com./x", "https", "example.com", 443, "/x")
	f("https://example.com:443/x", "https", "example.com", 443, "/x")
	f("https://example.com:80/x", "https", "example.com", 80, "/x")
	f("https://example.com:8443/x", "https", "example.com", 8443, "/x")
	f("https://example.com:65535", "https", "example.com", 65535, "/")
	f("https://a.b.c.example.com/x", "https", "a.b.c.example.com", 443, "/x")
	f("https://my_app.example.com/x", "https", "my_app.example.com", 443, "/x")
	f("https://r3---sn-a.example.com/x", "https", "r3---sn-a.example.com", 443, "/x")
	f("https://1.example.com/x", "https", "1.example.com", 443, "/x")
	f("https://0x7f.example.com/x", "https", "0x7f.example.com", 443, "/x")
	f("https://bücher.example/x", "https", "xn--bcher-kva.example", 443, "/x")
	f("https://BÜCHER.example/x", "https", "xn--bcher-kva.example", 443, "/x")
	f("https://xn--bcher-kva.example/x", "https", "xn--bcher-kva.example", 443, "/x")
	f("https://ｅｘａｍｐｌｅ.com/x", "https", "example.com", 443, "/x")
	f("https://example。com/x", "https", "example.com", 443, "/x")
	f("https://"+strings.Repeat("a", 63)+".com/x", "https", strings.Repeat("a", 63)+".com", 443, "/x")

	// The bound counts characters.
	f("https://example.com/"+strings.Repeat("é", 2028), "https", "example.com", 443, "/"+strings.Repeat("%C3%A9", 2028))

	// The path and query stay as they are written.
	f("https://example.com/a%2Fb/%7Euser/%c3%bc", "https", "example.com", 443, "/a%2Fb/%7Euser/%c3%bc")
	f("https://example.com//a/./b/../c//", "https", "example.com", 443, "//a/./b/../c//")
	f("https://example.com/a?b=c?d&e=%zz&f=100%", "https", "example.com", 443, "/a?b=c?d&e=%zz&f=100%")
	f("https://example.com/a:b@c;d=e,f!$&'()*+[]", "https", "example.com", 443, "/a:b@c;d=e,f!$&'()*+[]")
	f("https://example.com/http://other.example/", "https", "example.com", 443, "/http://other.example/")
	f("https://example.com?next=https://other.example/@", "https", "example.com", 443, "/?next=https://other.example/@")
	// What HTTP does not allow is percent-encoded.
	f("https://example.com/ü?ö", "https", "example.com", 443, "/%C3%BC?%C3%B6")
	f("https://example.com/{id}|<x>^`?\"", "https", "example.com", 443, "/%7Bid%7D%7C%3Cx%3E%5E%60?%22")
}

// A URL that any parser may read in another way than we do is refused, and so
// is one that names a place nobody can have verified.
func TestTargetRefused(t *testing.T) {
	f := func(raw, reason string) {
		t.Helper()
		got, err := parseTarget(raw, rules())
		if err == nil {
			t.Errorf("%q: accepted as %+v", raw, got)
			return
		}
		if !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: refused with %q, want %q in it", raw, err, reason)
		}
	}
	const (
		space    = "white space or a control character"
		notHTTPS = "does not begin with https://"
		notURL   = "not a valid URL"
		chars    = "not allowed in a domain name"
		number   = "ends in a number"
		address  = "is an IP address"
		badPort  = "is not allowed"
		portText = "not a plain number"
		userinfo = "user name or password"
		label    = "empty label or one longer"
	)
	// Not a URL at all, or not ours.
	f("", notHTTPS)
	f("example.com", notHTTPS)
	f("//example.com/x", notHTTPS)
	f("/x", notHTTPS)
	f("https:example.com", notHTTPS)
	f("https:/example.com", notHTTPS)
	f("https//example.com", notHTTPS)
	f("ftp://example.com/", notHTTPS)
	f("file:///etc/passwd", notHTTPS)
	f("gopher://example.com/", notHTTPS)
	f("javascript://example.com/", notHTTPS)
	f("httpss://example.com/", notHTTPS)
	f("ht\u0131ps://example.com/", notHTTPS)
	f("http\u017f://example.com/", notHTTPS)
	f("http://example.com/", "only https")
	f("https://", "host is empty")
	f("https:///x", "host is empty")
	f("https://?x", "host is empty")
	f("https://:443/", "host is empty")
	f("https://./", "host is empty")
	f("https://example.com/"+strings.Repeat("a", 2029), "longer than 2048")
	f("https://example.com/"+strings.Repeat("é", 2029), "longer than 2048")

	// Characters that parsers drop, fold or split at.
	f(" https://example.com/", space)
	f("https://example.com/ ", space)
	f("https://example.com/a b", space)
	f("https://exam\tple.com/", space)
	f("https://example.com/\r\nHost: evil.example", space)
	f("https://example.com/\x00", space)
	f("https://example.com\x00.evil.example/", space)
	f("https://example.com/\x7f", space)
	f("https://example.com\\@evil.example/", "backslash")
	f("https:\\\\example.com\\x", "backslash")
	f("https://example.com/a\\b", "backslash")
	f("https://example.com/#x", "fragment")
	f("https://example.com#@evil.example/", "fragment")
	f("https://evil.example#.example.com/", "fragment")
	f("https://example.com/%zz", notURL)
	f("https://example.com/%", notURL)

	// User information, also where it only looks like it.
	f("https://user@example.com/", userinfo)
	f("https://user:pass@example.com/", userinfo)
	f("https://@example.com/", userinfo)
	f("https://:@example.com/", userinfo)
	f("https://example.com@evil.example/", userinfo)
	f("https://example.com:443@evil.example/", userinfo)
	f("https://a@b@example.com/", userinfo)
	f("https://example.com%40evil.example/", "percent-encoded")
	f("https://ex%61mple.com/", "percent-encoded")
	f("https://example.com%00/", "percent-encoded")
	f("https://example.com%2f.evil.example/", "percent-encoded")

	// Hosts.
	f("https://exa mple.com/", space)
	f("https://example..com/", label)
	f("https://.example.com/", label)
	f("https://example.com../", label)
	f("https://"+strings.Repeat("a", 64)+".com/", label)
	f("https://"+strings.Repeat("a.", 127)+"com/", "longer than 253")
	f("https://-example.com/", "hyphen")
	f("https://example-.com/", "hyphen")
	f("https://exam*ple.com/", chars)
	f("https://*.example.com/", chars)
	f("https://example.com,evil.example/", chars)
	f("https://example.com;evil.example/", chars)
	f("https://exa$mple.com/", chars)
	f("https://exa<mple.com/", chars)
	f("https://xn--a/", "internationalised")
	f("https://xn--\u00fc.example/", "internationalised")
	f("https://a\u200db.example/", "internationalised")
	f("https://example.com\uff0fevil.example/", "internationalised")
	f("https://example.com\uff20evil.example/", "internationalised")
	f("https://example.com\uff1a443/", "internationalised")
	f("https://\xff\xfe.example/", "internationalised")
	f("https://localhost/", "single label")
	f("https://LOCALHOST./", "single label")
	f("https://intranet/", "single label")
	f("https://a.localhost/", "private networks")
	f("https://printer.local/", "private networks")
	f("https://metadata.google.internal/", "private networks")
	f("https://metadata.google.internal./", "private networks")
	f("https://METADATA.google.INTERNAL/", "private networks")
	f("https://api.default.svc/", "private networks")
	f("https://api.default.svc.cluster.local/", "private networks")

	// Addresses, in every spelling that some resolver understands.
	f("https://127.0.0.1/", address)
	f("https://127.0.0.1./", address)
	f("https://93.184.216.34/", address)
	f("https://169.254.169.254/latest/meta-data/", address)
	f("https://0.0.0.0/", address)
	f("https://127.1/", number)
	f("https://127.0.1/", number)
	f("https://0/", number)
	f("https://2130706433/", number)
	f("https://0x7f000001/", number)
	f("https://0X7F000001/", number)
	f("https://0x7f.0.0.1/", number)
	f("https://0x7f.0x0.0x0.0x1/", number)
	f("https://0177.0.0.1/", number)
	f("https://017700000001/", number)
	f("https://127.0.0.01/", number)
	f("https://127.0.0.0x1/", number)
	f("https://127.0.0.0x/", number)
	f("https://127.0.0.1.1/", number)
	f("https://256.256.256.256/", number)
	f("https://1.2.3/", number)
	f("https://example.0/", number)
	f("https://example.0x10/", number)
	f("https://１２７.0.0.1/", address)
	f("https://①②⑦.0.0.1/", address)
	f("https://127。0。0。1/", address)
	f("https://[::1]/", address)
	f("https://[2606:2800:220:1::1]/", address)
	f("https://[::ffff:127.0.0.1]/", "IPv6")
	f("https://[::ffff:7f00:1]/", "IPv6")
	f("https://[fe80::1%25eth0]/", "percent-encoded")
	f("https://[fe80::1%eth0]/", "percent-encoded")
	f("https://[127.0.0.1]/", "")
	f("https://[::1/", "")
	f("https://::1/", "")
	f("https://[]/", "")
	f("https://[::1]x/", "")
	f("https://[::1]x:443/", "")
	f("https://[[::1]]/", "")
	f("https://[v1.x]/", "")
	f("https://[example.com]/", "")
	f("https://[::1].example.com/", "")

	// Ports.
	f("https://example.com:/", "port is empty")
	f("https://example.com:0/", badPort)
	f("https://example.com:00443/", portText)
	f("https://example.com:+443/", "")
	f("https://example.com:-1/", "")
	f("https://example.com:65536/", portText)
	f("https://example.com:99999999999999999999/", portText)
	f("https://example.com:443a/", "")
	f("https://example.com:0x1bb/", "")
	f("https://example.com:443:443/", "")
	f("https://example.com:٤٤٣/", "")
	for _, port := range []string{
		"1", "21", "22", "23", "25", "53", "81", "110", "143", "389", "445", "465", "587", "993", "1023",
		"1719", "1720", "1723", "2049", "3659", "4045", "4190", "5060", "5061", "6000", "6566",
		"6665", "6666", "6667", "6668", "6669", "6679", "6697", "10080",
	} {
		f("https://example.com:"+port+"/", badPort)
	}
}

func TestTargetHTTPWhereAllowed(t *testing.T) {
	r := rules()
	r.allowHTTP = true
	f := func(raw string, port uint16) {
		t.Helper()
		if got, err := parseTarget(raw, r); err != nil || got.Scheme != "http" || got.Port != port {
			t.Errorf("%s: got %+v, %v", raw, got, err)
		}
	}
	f("http://example.com/x", 80)
	f("HTTP://example.com/x", 80)
	f("http://example.com:443/x", 443)
	if got, err := parseTarget("http://127.0.0.1:8080/", r); err == nil {
		t.Errorf("http allows loopback: %+v", got)
	}
}

// --dev opens loopback and nothing else.
func TestTargetDev(t *testing.T) {
	accepted := func(raw, scheme, host string, port uint16) {
		t.Helper()
		got, err := parseTarget(raw, devRules())
		if err != nil || got.Scheme != scheme || got.Host != host || got.Port != port {
			t.Errorf("%s: got %+v, %v", raw, got, err)
		}
	}
	refused := func(raw string) {
		t.Helper()
		if got, err := parseTarget(raw, devRules()); err == nil {
			t.Errorf("%s: accepted as %+v", raw, got)
		}
	}
	accepted("http://localhost:8080/x", "http", "localhost", 8080)
	accepted("http://LOCALHOST.:8080/x", "http", "localhost", 8080)
	accepted("https://localhost/x", "https", "localhost", 443)
	accepted("http://127.0.0.1:9000", "http", "127.0.0.1", 9000)
	accepted("http://127.200.3.4:9000/", "http", "127.200.3.4", 9000)
	accepted("http://[::1]:9000/", "http", "::1", 9000)
	accepted("http://[0:0:0:0:0:0:0:1]/", "http", "::1", 80)
	accepted("https://example.com/", "https", "example.com", 443)
	refused("http://example.com/")
	refused("http://0.0.0.0:9000/")
	refused("http://10.0.0.1:9000/")
	refused("http://[::]:9000/")
	refused("http://[::ffff:127.0.0.1]:9000/")
	refused("http://[fd00::1]:9000/")
	refused("http://127.1:9000/")
	refused("http://0x7f000001:9000/")
	refused("http://a.localhost:9000/")
	refused("http://intranet:9000/")
	refused("http://localhost:22/")
	refused("http://localhost:6000/")
}

// Whatever is accepted can be written into a request without changing its
// meaning: the parts, put together again, are a URL with the same parts, and
// nothing in them can end a line.
func FuzzTarget(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/a?b=c", "http://localhost:8080/x", "https://bücher.example/ü", "http://[::1]:80/",
		"https://a@b/", "https://127.1/", "https://example.com\\@evil.example", "HTTPS://EXAMPLE.COM.:8443?%zz",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		r := devRules()
		r.allowHTTP = true
		got, err := parseTarget(raw, r)
		if err != nil {
			return
		}
		again := got
		again.URL = got.Scheme + "://" + bracketed(got.Host) + portSuffix(got.Port) + got.URI
		r.urlChars = len(again.URL) // canonical spellings may be longer
		twice, err := parseTarget(again.URL, r)
		if err != nil {
			t.Fatalf("%q became %q, which is refused: %v", raw, again.URL, err)
		}
		if twice != again {
			t.Fatalf("%q became %+v, which became %+v", raw, again, twice)
		}
		u, err := url.Parse(again.URL)
		if err != nil || u.Hostname() != got.Host || u.User != nil || u.Fragment != "" {
			t.Fatalf("%q: net/url reads %q as %+v, %v", raw, again.URL, u, err)
		}
		if !strings.HasPrefix(got.URI, "/") || !httpguts.ValidHeaderFieldValue(got.URI) || strings.ContainsAny(got.URI, " \t\\#") {
			t.Fatalf("%q has the request target %q", raw, got.URI)
		}
		for _, c := range []byte(got.URI + got.Host) {
			if c >= 0x80 {
				t.Fatalf("%q is not ASCII on the wire: %+v", raw, got)
			}
		}
	})
}

// A target that is known is what it was parsed to, whatever has come between,
// and nothing of it aliases the request that brought it.
func TestKnownTargets(t *testing.T) {
	r := rules()
	raw := func(i int) string { return fmt.Sprintf("https://hooks-%d.example.com/v1/%d?q", i%7000, i) }
	for i := range 3 * targetPlaces {
		request := []byte(raw(i))
		want, err := parseTarget(raw(i), r)
		if err != nil {
			t.Fatal(err)
		}
		for _, when := range []string{"first", "again"} {
			if got, err := r.parse(alias(request)); err != nil || got != want {
				t.Fatalf("%s, %s: %+v, %v; parsed: %+v", raw(i), when, got, err, want)
			}
		}
		for n := range request {
			request[n] = 'x' // as the next request of the connection does
		}
		if got, err := r.parse(raw(i)); err != nil || got != want {
			t.Fatalf("%s, after its request: %+v, %v", raw(i), got, err)
		}
	}
	if _, err := r.parse("https://10.0.0.1:0/"); err == nil {
		t.Error("a target that is none is parsed")
	}
	long := "https://hooks.example.com/" + strings.Repeat("a", keptTargetBytes)
	if got, err := r.parse(long); err != nil || got.URL != long {
		t.Errorf("a long target: %+v, %v", got, err)
	}
}
