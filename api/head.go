package api

import (
	"bytes"

	"golang.org/x/net/http/httpguts"
)

// tokenBytes are the octets of which a header name is made.
var tokenBytes = func() (table [256]bool) {
	for c := range table {
		table[c] = c < 0x80 && httpguts.IsTokenRune(rune(c))
	}
	return table
}()

// ambiguousHead reports whether a request's header lines, as they came, could
// be read in another way by a proxy in front of us: a folded line, a name that
// is none, or both lengths of a body. fasthttp takes these, each in a way that
// RFC 9112 allows, but the RFC also allows to refuse them, and then two readers
// cannot disagree about where the next request begins.
func ambiguousHead(raw []byte) bool {
	length, encoding := false, false
	for len(raw) > 0 && raw[0] != '\r' && raw[0] != '\n' {
		end := bytes.IndexByte(raw, '\n')
		if end < 0 {
			return true
		}
		n := 0
		for n < end && tokenBytes[raw[n]] {
			n++
		}
		if n == 0 || raw[n] != ':' {
			return true
		}
		switch name := raw[:n]; {
		case n == len("Content-Length"):
			length = length || bytes.EqualFold(name, []byte("Content-Length"))
		case n == len("Transfer-Encoding"):
			encoding = encoding || bytes.EqualFold(name, []byte("Transfer-Encoding"))
		}
		raw = raw[end+1:]
	}
	return length && encoding
}
