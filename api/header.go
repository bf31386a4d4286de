package api

import "strings"

// isStripped reports whether a caller's header is left out of the delivery:
// what belongs to one connection, what frames the message, credentials, and
// the names in which Harepost itself speaks to the receiver.
func isStripped(name string) bool {
	// Lower case on the stack, cut where no name or prefix reaches.
	var buf [len("transfer-encoding") + 1]byte
	n := copy(buf[:], name)
	for i, c := range buf[:n] {
		if 'A' <= c && c <= 'Z' {
			buf[i] = c + 'a' - 'A'
		}
	}
	lower := buf[:n]
	switch string(lower) {
	case "host", "content-length", "connection", "keep-alive", "te", "trailer",
		"transfer-encoding", "upgrade", "expect", "authorization", "cookie":
		return true
	}
	return hasPrefix(lower, "proxy-") || hasPrefix(lower, "x-harepost-") || hasPrefix(lower, "webhook-")
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

func isContentType(name string) bool {
	return len(name) == len("Content-Type") && strings.EqualFold(name, "Content-Type")
}
