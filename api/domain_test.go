package api

import (
	"strings"
	"testing"
)

func TestDomainName(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got, err := domainName(text); err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", text, got, err, want)
		}
	}
	refused := func(text, reason string) {
		t.Helper()
		got, err := domainName(text)
		if err == nil {
			t.Errorf("%q: accepted as %q", text, got)
		} else if !strings.Contains(err.Error(), reason) {
			t.Errorf("%q: refused with %q, want %q in it", text, err, reason)
		}
	}
	f("example.com", "example.com")
	f("EXAMPLE.Com", "example.com")
	f("example.com.", "example.com")
	f("hooks.example.com", "hooks.example.com")
	f("a_b.example.com", "a_b.example.com")
	f("bücher.example", "xn--bcher-kva.example")
	f("BÜCHER.example", "xn--bcher-kva.example")
	f("XN--BCHER-KVA.example", "xn--bcher-kva.example")
	f("example.co.uk", "example.co.uk")
	f("me.github.io", "me.github.io")
	f("hooks.test", "hooks.test")

	refused("", "empty")
	refused(".", "empty")
	refused("https://example.com", "scheme")
	refused("https://example.com/", "scheme")
	refused("example.com/", "path")
	refused("example.com?x", "path")
	refused("example.com:443", "port")
	refused("user@example.com", "alone")
	refused("*.example.com", "wildcards")
	refused("*", "wildcards")
	refused("example", "single label")
	refused("localhost", "single label")
	refused("com", "single label")
	refused("com.", "single label")
	refused("co.uk", "public suffix")
	refused("CO.UK.", "public suffix")
	refused("github.io", "public suffix")
	refused("herokuapp.com", "public suffix")
	refused("公司.cn", "public suffix")
	refused("127.0.0.1", "IP address")
	refused("127.0.0.1.", "IP address")
	refused("::1", "IP address")
	refused("[::1]", "IP address")
	refused("１２７.0.0.1", "IP address")
	refused("127.1", "number")
	refused("0x7f.1", "number")
	refused("example..com", "label")
	refused(".example.com", "label")
	refused("-a.example.com", "hyphen")
	refused("exa mple.com", "characters")
	refused("example.com\n", "characters")
	refused("exa\x00mple.com", "characters")
	refused("a\u200db.example", "internationalised")
	refused("\xff.example", "internationalised")
	refused(strings.Repeat("a", 64)+".com", "label")
	refused(strings.Repeat("a.", 126)+"com", "longer")
	refused(strings.Repeat("abcde.", 39)+"com", "challenge record")
	refused(strings.Repeat("x", 1<<20), "longer")
}

// A name that was made canonical stays as it is.
func FuzzDomainName(f *testing.F) {
	for _, seed := range []string{"example.com", "BÜCHER.example.", "xn--bcher-kva.example", "127.0.0.1", "a_b.c", "co.uk"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		name, err := domainName(text)
		if err != nil {
			return
		}
		again, err := domainName(name)
		if err != nil || again != name {
			t.Fatalf("%q became %q, which became %q, %v", text, name, again, err)
		}
		if strings.ToLower(name) != name || strings.HasSuffix(name, ".") || !strings.Contains(name, ".") {
			t.Fatalf("%q became %q", text, name)
		}
	})
}
