package seal

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"
)

// A Box seals and opens with the data key of one account. It is for any
// goroutine.
type Box struct {
	data []byte
	text cipher.AEAD
	hash []byte
}

// The fields of a delivery. Their numbers are part of the format.
const (
	Headers  byte = 1
	Body     byte = 2
	Response byte = 3
)

// Overhead is how much longer sealed bytes are.
const Overhead = boxOverhead

// What keys are derived for.
const (
	forDelivery = "harepost delivery "
	forText     = "harepost text"
	forHash     = "harepost hash"
)

func newBox(data []byte) (*Box, error) {
	b := &Box{data: data}
	text, err := b.derive(forText)
	if err != nil {
		return nil, err
	}
	if b.text, err = newAEAD(text); err != nil {
		return nil, err
	}
	b.hash, err = b.derive(forHash)
	return b, err
}

func (b *Box) derive(purpose string) ([]byte, error) {
	key, err := hkdf.Expand(sha256.New, b.data, purpose, keyBytes)
	if err != nil {
		return nil, fmt.Errorf("seal: derive a key: %w", err)
	}
	return key, nil
}

// A Delivery seals and opens the fields of one delivery.
type Delivery struct{ aead cipher.AEAD }

// Delivery derives the key of a delivery: some microseconds.
func (b *Box) Delivery(id [16]byte) (Delivery, error) {
	key, err := b.derive(forDelivery + string(id[:]))
	if err != nil {
		return Delivery{}, err
	}
	aead, err := newAEAD(key)
	return Delivery{aead}, err
}

// Seal returns the sealed bytes of a field. Nothing stays nothing.
func (d Delivery) Seal(field byte, plain []byte) []byte {
	if len(plain) == 0 {
		return nil
	}
	return d.aead.Seal(make([]byte, 0, len(plain)+Overhead), nil, plain, []byte{field})
}

// Open returns what Seal was given; ErrOpen.
func (d Delivery) Open(field byte, sealed []byte) ([]byte, error) {
	if len(sealed) == 0 {
		return nil, nil
	}
	plain, err := d.aead.Open(nil, nil, sealed, []byte{field})
	if err != nil {
		return nil, fmt.Errorf("seal: field %d: %w", field, ErrOpen)
	}
	return plain, nil
}

// Hash replaces a hash by one that only the owner of the data key can compute,
// so that nobody can try whether a known payload is behind it.
func (b *Box) Hash(h [16]byte) (keyed [16]byte) {
	m := hmac.New(sha256.New, b.hash)
	m.Write(h[:])
	copy(keyed[:], m.Sum(nil))
	return keyed
}

// textPrefix marks sealed texts. No clear text begins with it: those are
// signing secrets, "whsec_...".
const textPrefix = "sealed:"

// SealText seals a short text into a text.
func (b *Box) SealText(plain string) string {
	return textPrefix + base64.RawStdEncoding.EncodeToString(b.text.Seal(nil, nil, []byte(plain), nil))
}

// IsSealedText reports whether SealText made s.
func IsSealedText(s string) bool { return strings.HasPrefix(s, textPrefix) }

// OpenText returns what SealText was given; ErrOpen.
func (b *Box) OpenText(s string) (string, error) {
	sealed, err := base64.RawStdEncoding.DecodeString(strings.TrimPrefix(s, textPrefix))
	if err == nil {
		var plain []byte
		if plain, err = b.text.Open(nil, nil, sealed, nil); err == nil {
			return string(plain), nil
		}
	}
	return "", fmt.Errorf("seal: text: %w", ErrOpen)
}
