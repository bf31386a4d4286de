// Package account has the nouns around an account, and their bytes: the
// account itself, its API keys and its destination domains. Like package
// delivery it holds values only; the encodings are part of the log's and the
// state's format.
package account

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/harepost/harepost/engine/wire"
)

// ID identifies an account. Its text form is "acc_" and 13 characters of
// lower-case base32.
type ID uint64

// KeyID identifies an API key. Its text form is "key_" and 13 characters of
// lower-case base32.
type KeyID uint64

// ErrInvalidID says that a text is not the form of an id.
var ErrInvalidID = errors.New("invalid id")

var crockford = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// FormatID is the text form of an id: the prefix and 13 characters of lower-case
// base32.
func FormatID(prefix string, v uint64) string {
	return prefix + crockford.EncodeToString(binary.BigEndian.AppendUint64(nil, v))
}

// ParseIDText reads what FormatID wrote, in that one spelling.
func ParseIDText(prefix, s string) (uint64, error) {
	var b [8]byte
	if len(s) != len(prefix)+crockford.EncodedLen(len(b)) || s[:len(prefix)] != prefix {
		return 0, ErrInvalidID
	}
	if _, err := crockford.Decode(b[:], []byte(s[len(prefix):])); err != nil {
		return 0, ErrInvalidID
	}
	v := binary.BigEndian.Uint64(b[:])
	if FormatID(prefix, v) != s { // a second spelling, see delivery.ParseID
		return 0, ErrInvalidID
	}
	return v, nil
}

// String is the public form.
func (id ID) String() string { return FormatID("acc_", uint64(id)) }

// LogValue is the public form: what the logs name can be looked up.
func (id ID) LogValue() slog.Value { return slog.StringValue(id.String()) }

// String is the public form.
func (id KeyID) String() string { return FormatID("key_", uint64(id)) }

// ParseID reads the public form of an account's id.
func ParseID(s string) (ID, error) {
	v, err := ParseIDText("acc_", s)
	return ID(v), err
}

// ParseKeyID reads the public form of a key's id.
func ParseKeyID(s string) (KeyID, error) {
	v, err := ParseIDText("key_", s)
	return KeyID(v), err
}

// An Account is the customer of a send: everything else belongs to one.
type Account struct {
	ID            ID
	Name          string
	CreatedAt     time.Time // whole milliseconds
	RatePerMinute int       // 0: the server's default; NoRateLimit: none
	Suspended     bool      // sends are refused, attempts wait

	// Secrets sign the deliveries, the newest first: that is the one shown.
	// The slice is shared and must not be changed, see WithSecret.
	Secrets []Secret
}

// NoRateLimit is the RatePerMinute of an account that has none, whatever the
// server's default is.
const NoRateLimit = -1

// A Secret signs deliveries until it ends.
type Secret struct {
	Text      string // "whsec_" and base64 of 32 bytes
	CreatedAt time.Time
	ExpiresAt time.Time // zero: no end
}

// LiveAt reports whether the secret signs at the moment t.
func (s *Secret) LiveAt(t time.Time) bool { return s.ExpiresAt.IsZero() || t.Before(s.ExpiresAt) }

// A Key is an API key without its secret, of which only the hash is kept.
type Key struct {
	Account   ID
	ID        KeyID
	Hash      [sha256.Size]byte
	Prefix    string // first characters, for recognition
	CreatedAt time.Time
	LastUsed  time.Time // as it was last kept; zero: not yet
}

// A Domain is a destination domain of an account.
type Domain struct {
	Account    ID
	Name       string
	Token      string // what the TXT record has after "harepost-verify="
	CreatedAt  time.Time
	VerifiedAt time.Time // zero while pending
}

// The versions of the encodings. Those of a first version are still read: an
// account had one secret without an end, a key no last use.
const (
	accountVersion = 2
	keyVersion     = 2
	domainVersion  = 1
)

// mostKeptSecrets bounds the secrets of one account in its bytes.
const mostKeptSecrets = 64

// Append appends the bytes of a.
func (a *Account) Append(dst []byte) []byte {
	dst = append(dst, accountVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(a.ID))
	dst = binary.AppendVarint(dst, a.CreatedAt.UnixMilli())
	dst = wire.AppendString(dst, a.Name)
	dst = binary.AppendVarint(dst, int64(a.RatePerMinute))
	dst = wire.AppendBool(dst, a.Suspended)
	dst = binary.AppendUvarint(dst, uint64(len(a.Secrets)))
	for i := range a.Secrets {
		dst = wire.AppendString(dst, a.Secrets[i].Text)
		dst = binary.AppendVarint(dst, a.Secrets[i].CreatedAt.UnixMilli())
		dst = appendTime(dst, a.Secrets[i].ExpiresAt)
	}
	return dst
}

// Read takes an account off r. Strings alias r's input.
func (a *Account) Read(r *wire.Reader) {
	v := r.Byte()
	if v < 1 || v > accountVersion {
		r.Fail()
	}
	*a = Account{ID: ID(r.Uint64()), CreatedAt: readTime(r), Name: r.String()}
	if v == 1 {
		a.Secrets = []Secret{{Text: r.String(), CreatedAt: a.CreatedAt}}
		return
	}
	a.RatePerMinute = int(r.Varint())
	a.Suspended = r.Bool()
	for n := r.Int(mostKeptSecrets); n > 0 && r.Err() == nil; n-- {
		a.Secrets = append(a.Secrets, Secret{Text: r.String(), CreatedAt: readTime(r), ExpiresAt: readOptionalTime(r)})
	}
	if len(a.Secrets) == 0 || a.RatePerMinute < NoRateLimit {
		r.Fail()
	}
}

// Append appends the bytes of k.
func (k *Key) Append(dst []byte) []byte {
	dst = append(dst, keyVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.Account))
	dst = binary.BigEndian.AppendUint64(dst, uint64(k.ID))
	dst = append(dst, k.Hash[:]...)
	dst = wire.AppendString(dst, k.Prefix)
	dst = binary.AppendVarint(dst, k.CreatedAt.UnixMilli())
	return appendTime(dst, k.LastUsed)
}

// Read takes a key off r. Strings alias r's input.
func (k *Key) Read(r *wire.Reader) {
	v := r.Byte()
	if v < 1 || v > keyVersion {
		r.Fail()
	}
	k.Account = ID(r.Uint64())
	k.ID = KeyID(r.Uint64())
	copy(k.Hash[:], r.Fixed(len(k.Hash)))
	k.Prefix = r.String()
	k.CreatedAt = readTime(r)
	k.LastUsed = time.Time{}
	if v > 1 {
		k.LastUsed = readOptionalTime(r)
	}
}

// Append appends the bytes of d.
func (d *Domain) Append(dst []byte) []byte {
	dst = append(dst, domainVersion)
	dst = binary.BigEndian.AppendUint64(dst, uint64(d.Account))
	dst = wire.AppendString(dst, d.Name)
	dst = wire.AppendString(dst, d.Token)
	dst = binary.AppendVarint(dst, d.CreatedAt.UnixMilli())
	return appendTime(dst, d.VerifiedAt)
}

// Read takes a domain off r. Strings alias r's input.
func (d *Domain) Read(r *wire.Reader) {
	if r.Byte() != domainVersion {
		r.Fail()
	}
	d.Account = ID(r.Uint64())
	d.Name = r.String()
	d.Token = r.String()
	d.CreatedAt = readTime(r)
	d.VerifiedAt = readOptionalTime(r)
}

// appendTime appends a time that may be zero.
func appendTime(dst []byte, t time.Time) []byte {
	dst = wire.AppendBool(dst, !t.IsZero())
	if !t.IsZero() {
		dst = binary.AppendVarint(dst, t.UnixMilli())
	}
	return dst
}

func readOptionalTime(r *wire.Reader) time.Time {
	if !r.Bool() {
		return time.Time{}
	}
	return readTime(r)
}

func readTime(r *wire.Reader) time.Time { return time.UnixMilli(r.Varint()).UTC() }

const (
	keyPrefix    = "hp_live_"
	keyChars     = 32
	shownChars   = len(keyPrefix) + 4
	base62       = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	secretPrefix = "whsec_"
	secretBytes  = 32
)

// NewKey draws an API key from random, which must be cryptographically
// secure: "hp_live_" and 32 characters of base62, 190 bits. The text is not
// kept anywhere.
func NewKey(random io.Reader, owner ID, now time.Time) (Key, string, error) {
	id, err := drawUint64(random)
	if err != nil {
		return Key{}, "", err
	}
	text := []byte(keyPrefix)
	var b [1]byte
	for len(text) < len(keyPrefix)+keyChars {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return Key{}, "", fmt.Errorf("account: draw a key: %w", err)
		}
		if b[0] < 248 { // 4 * 62: no character is likelier than another
			text = append(text, base62[b[0]%62])
		}
	}
	k := Key{Account: owner, ID: KeyID(id), Hash: HashKey(text), Prefix: string(text[:shownChars]), CreatedAt: now}
	return k, string(text), nil
}

// HashKey is the hash under which a key is kept. A key has 190 random bits,
// so that no salt and no slow hash is needed.
func HashKey(text []byte) [sha256.Size]byte { return sha256.Sum256(text) }

// New draws an account with its signing secret.
func New(random io.Reader, name string, now time.Time) (Account, error) {
	id, err := drawUint64(random)
	if err != nil {
		return Account{}, err
	}
	secret, err := NewSecret(random, now)
	if err != nil {
		return Account{}, err
	}
	return Account{ID: ID(id), Name: name, CreatedAt: now, Secrets: []Secret{secret}}, nil
}

// NewDomain draws the token of a domain.
func NewDomain(random io.Reader, owner ID, name string, now time.Time) (Domain, error) {
	var token [16]byte
	if _, err := io.ReadFull(random, token[:]); err != nil {
		return Domain{}, fmt.Errorf("account: draw a token: %w", err)
	}
	return Domain{Account: owner, Name: name, Token: crockford.EncodeToString(token[:]), CreatedAt: now}, nil
}

// drawUint64 draws a number that is not zero.
func drawUint64(random io.Reader) (uint64, error) {
	var b [8]byte
	for {
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("account: draw an id: %w", err)
		}
		if v := binary.BigEndian.Uint64(b[:]); v != 0 {
			return v, nil
		}
	}
}
