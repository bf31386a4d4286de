package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash"
	"strconv"
	"strings"
	"sync"
	"time"
)

// signers makes the signature headers. Two schemes, over one secret:
//
//	X-Harepost-Signature: t=<unix>,v1=<hex>[,v1=<hex>]
//	    HMAC-SHA256 over "<t>.<body>", key: the whole text "whsec_..."
//	webhook-id, webhook-timestamp, webhook-signature: v1,<base64>[ v1,<base64>]
//	    HMAC-SHA256 over "<id>.<t>.<body>", key: the base64 after "whsec_", decoded
//
// The second is Standard Webhooks 1.0.0. With several secrets (a rotation) each
// header carries an entry of every one. A secret that is not base64 has no key
// for the second scheme and is left out of it.
//
// Keyed HMAC states are kept per secret, because setting one up costs as much
// as signing a small body.
type signers struct {
	mu    sync.Mutex
	cache *lru[string, *signer]
}

// signerEntries is how many secrets have their states kept: one per account
// that signs, or two while it rotates.
const signerEntries = 4096

func newSigners() *signers {
	return &signers{cache: newLRU[string, *signer](signerEntries)}
}

// signer holds the states of one secret; a state is used by one goroutine at
// a time.
type signer struct {
	text     sync.Pool // of *mac, keyed with the secret's text
	decoded  sync.Pool // of *mac, keyed with its bytes
	standard bool      // there are such bytes
}

// mac is an HMAC state with room for its result.
type mac struct {
	hash.Hash
	sum [sha256.Size]byte
}

func newSigner(secret string) *signer {
	s := &signer{}
	s.text.New = func() any { return &mac{Hash: hmac.New(sha256.New, []byte(secret))} }
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	if err == nil && len(key) > 0 {
		s.standard = true
		s.decoded.New = func() any { return &mac{Hash: hmac.New(sha256.New, key)} }
	}
	return s
}

func (s *signers) of(secret string) *signer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sg, ok := s.cache.get(secret); ok {
		return sg
	}
	sg := newSigner(secret)
	s.cache.set(secret, sg)
	return sg
}

// appendHeaders appends the signature headers of both schemes to b.
func (s *signers) appendHeaders(b []byte, secrets []string, id string, body []byte, now time.Time) []byte {
	b = append(b, "X-Harepost-Signature: t="...)
	start := len(b)
	b = strconv.AppendInt(b, now.Unix(), 10)
	unix := b[start:len(b):len(b)] // stays what it is when b grows
	standard := false
	for _, secret := range secrets {
		sg := s.of(secret)
		standard = standard || sg.standard
		m := sg.text.Get().(*mac)
		m.write(unix)
		m.write(dot)
		b = append(b, ",v1="...)
		b = hex.AppendEncode(b, m.finish(body))
		sg.text.Put(m)
	}
	b = append(b, "\r\n"...)
	if !standard || !validID(id) {
		return b
	}
	b = appendHeader(b, "webhook-id", id)
	b = append(b, "webhook-timestamp: "...)
	b = append(b, unix...)
	b = append(b, "\r\nwebhook-signature:"...)
	for _, secret := range secrets {
		sg := s.of(secret)
		if !sg.standard {
			continue
		}
		m := sg.decoded.Get().(*mac)
		b = appendEntry(b, m, id, unix, body)
		sg.decoded.Put(m)
	}
	return append(b, "\r\n"...)
}

// appendEntry appends one entry of webhook-signature. The id is brought into
// the state through b's spare room, since a string cannot be written to a hash
// without a copy.
func appendEntry(b []byte, m *mac, id string, unix, body []byte) []byte {
	end := len(b)
	b = append(b, id...)
	m.write(b[end:])
	b = b[:end]
	m.write(dot)
	m.write(unix)
	m.write(dot)
	b = append(b, " v1,"...)
	return base64.StdEncoding.AppendEncode(b, m.finish(body))
}

var dot = []byte{'.'}

// write adds to the state; a hash never fails to take bytes.
func (m *mac) write(p []byte) { m.Write(p) }

// finish adds body, returns the sum, and makes the state ready for the next
// message. The sum is valid until then.
func (m *mac) finish(body []byte) []byte {
	m.write(body)
	sum := m.Sum(m.sum[:0])
	m.Reset()
	return sum
}

// validID reports whether id can stand in the signed text, where a full stop
// would let it be read as another id and time.
func validID(id string) bool {
	return id != "" && !strings.Contains(id, ".") && validHeader("webhook-id", id)
}
