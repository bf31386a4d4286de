package api

import (
	"errors"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Bounds of RFC 1035, without the trailing dot.
const (
	maxHostBytes  = 253
	maxLabelBytes = 63
)

var (
	errHostEmpty  = errors.New("the host is empty")
	errHostLong   = errors.New("the host is longer than 253 characters")
	errHostLabel  = errors.New("the host has an empty label or one longer than 63 characters")
	errHostHyphen = errors.New("a label of the host begins or ends with a hyphen")
	errHostChars  = errors.New("the host has characters that are not allowed in a domain name")
	errHostIDNA   = errors.New("the host is not a valid internationalised domain name")
	errHostNumber = errors.New("the host ends in a number and is not a plain IPv4 address")
)

// hostName returns the canonical form of a host name: ASCII by IDNA, lower
// case, no trailing dot. A name whose last label is a number is refused, as in
// the URL Standard, because resolvers read such names as IPv4 addresses in
// spellings (octal, hexadecimal, fewer than four parts) that no check sees
// through. An IPv4 address in its one plain spelling is returned as it is.
func hostName(name string) (string, error) {
	if name == "" {
		return "", errHostEmpty
	}
	// Long before the limit of a host, so that IDNA is never given much to do.
	if len(name) > 4*maxHostBytes {
		return "", errHostLong
	}
	if needsIDNA(name) {
		ascii, err := idna.Lookup.ToASCII(name)
		if err != nil || !utf8.ValidString(name) { // idna encodes U+FFFD instead
			return "", errHostIDNA
		}
		name = ascii
	} else {
		name = strings.ToLower(name) // returns name itself when it is lower case
	}
	name = strings.TrimSuffix(name, ".")
	last, err := checkLabels(name)
	if err != nil {
		return "", err
	}
	if isNumber(last) && !isPlainIPv4(name) {
		return "", errHostNumber
	}
	return name, nil
}

// needsIDNA reports whether name has anything beyond ASCII, or a label that
// claims to be encoded already and is to be checked. Plain ASCII names stay
// out of package idna: it refuses underscores and "--", which are in use.
func needsIDNA(name string) bool {
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c >= 0x80:
			return true
		case (c == 'x' || c == 'X') && len(name)-i >= 4 && strings.EqualFold(name[i:i+4], "xn--"):
			return true
		}
	}
	return false
}

// checkLabels checks the characters and lengths of a lower-case ASCII name and
// returns its last label.
func checkLabels(name string) (last string, err error) {
	if name == "" {
		return "", errHostEmpty
	}
	if len(name) > maxHostBytes {
		return "", errHostLong
	}
	start := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && name[i] != '.' {
			if !isHostByte(name[i]) {
				return "", errHostChars
			}
			continue
		}
		label := name[start:i]
		if label == "" || len(label) > maxLabelBytes {
			return "", errHostLabel
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return "", errHostHyphen
		}
		last, start = label, i+1
	}
	return last, nil
}

func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// isNumber reports whether a resolver may read label as a number: digits, or
// 0x and hexadecimal digits, which may be none.
func isNumber(label string) bool {
	digits := "0123456789"
	if hex, ok := strings.CutPrefix(label, "0x"); ok {
		label, digits = hex, "0123456789abcdef"
	}
	return strings.Trim(label, digits) == ""
}

// isPlainIPv4 reports whether name is four decimal numbers without leading
// zeros, the only spelling netip knows.
func isPlainIPv4(name string) bool {
	a, err := netip.ParseAddr(name)
	return err == nil && a.Is4()
}

// underSuffix reports whether name is one of the suffixes or below one.
func underSuffix(name string, suffixes []string) (string, bool) {
	for _, s := range suffixes {
		if rest, ok := strings.CutSuffix(name, s); ok && (rest == "" || strings.HasSuffix(rest, ".")) {
			return s, true
		}
	}
	return "", false
}

// isBadPort reports whether port belongs to a protocol that can be spoken to
// by accident over HTTP: the "bad ports" of the Fetch Standard from 1024 up.
func isBadPort(port uint16) bool {
	switch port {
	case 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566,
		6665, 6666, 6667, 6668, 6669, 6679, 6697, 10080:
		return true
	}
	return false
}

// parsePort takes what stands after the colon. Only the plain decimal spelling
// is taken, so that there is one text per port.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("the port is not a plain number below 65536")
	}
	port := uint16(n)
	if port != 443 && port != 80 && port < 1024 || isBadPort(port) {
		return 0, errors.New("the port " + s + " is not allowed; use 443, 80, or one from 1024 that no other protocol owns")
	}
	return port, nil
}
