package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	keyBytes = 32

	// mostKeys bounds a key file: one key is active, the others are for data
	// keys that have not been rewrapped yet.
	mostKeys     = 16
	mostKeyID    = 64
	mostKeyFile  = 64 << 10
	wrapVersion  = 1
	wrapPurpose  = "harepost data key"
	boxOverhead  = 12 + 16 // nonce and tag
	groupOrOther = 0o077
)

var (
	// ErrUnknownKey says that a data key is wrapped with a master key that the
	// key file does not have.
	ErrUnknownKey = errors.New("the key file does not have the master key")

	// ErrOpen says that bytes are not what was sealed with this key: damaged,
	// exchanged, or sealed with another key of the same name.
	ErrOpen = errors.New("sealed bytes do not open")
)

// A Keyring is the master keys of a key file. It does not change.
type Keyring struct {
	active string
	keys   map[string]cipher.AEAD
}

// OpenKeyring reads a key file, which nobody but its owner may be able to read.
func OpenKeyring(path string) (*Keyring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("seal: %s is a directory, not a file of keys", path)
	}
	if info.Mode().Perm()&groupOrOther != 0 {
		return nil, fmt.Errorf("seal: %s can be read by others than its owner (mode %04o): chmod 600 %s",
			path, info.Mode().Perm(), path)
	}
	text, err := io.ReadAll(io.LimitReader(f, mostKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("seal: read %s: %w", path, err)
	}
	k, err := ParseKeyring(text)
	if err != nil {
		return nil, fmt.Errorf("seal: %s: %w", path, err)
	}
	return k, nil
}

// ParseKeyring reads the text of a key file: a line "id:key" for each master
// key, the active one first. The id is of letters, digits, '-', '_' and '.';
// the key is base64 of 32 bytes. Empty lines and lines that begin with # are
// skipped. Errors name the line and never its content.
func ParseKeyring(text []byte) (*Keyring, error) {
	if len(text) > mostKeyFile {
		return nil, fmt.Errorf("it is longer than %d bytes", mostKeyFile)
	}
	k := &Keyring{keys: make(map[string]cipher.AEAD)}
	number := 0
	for line := range bytes.Lines(text) {
		number++
		s := strings.TrimSpace(string(line))
		if s == "" || s[0] == '#' {
			continue
		}
		if err := k.add(s); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
	if k.active == "" {
		return nil, errors.New("it has no key: make a line with `harepost encryption-key`")
	}
	return k, nil
}

func (k *Keyring) add(line string) error {
	id, encoded, ok := strings.Cut(line, ":")
	if !ok || !validKeyID(id) {
		return errors.New("it must be an id, a colon and base64 of 32 bytes")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(key) != keyBytes {
		return fmt.Errorf("key %s is not base64 of %d bytes", id, keyBytes)
	}
	if k.keys[id] != nil {
		return fmt.Errorf("key %s is there twice: the new one needs another name (harepost encryption-key --id NAME), the old one keeps its own", id)
	}
	if len(k.keys) == mostKeys {
		return fmt.Errorf("there are more than %d keys", mostKeys)
	}
	if k.keys[id], err = newAEAD(key); err != nil {
		return err
	}
	if k.active == "" {
		k.active = id
	}
	return nil
}

func validKeyID(id string) bool {
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return id != "" && len(id) <= mostKeyID
}

func newAEAD(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead, nil
}

// NewKeyLine draws a master key from random, which must be cryptographically
// secure, and returns its line for a key file.
func NewKeyLine(random io.Reader, id string) (string, error) {
	if !validKeyID(id) {
		return "", fmt.Errorf("seal: a key's id must have 1 to %d letters, digits, '-', '_' or '.'", mostKeyID)
	}
	var key [keyBytes]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return "", fmt.Errorf("seal: draw a key: %w", err)
	}
	return id + ":" + base64.StdEncoding.EncodeToString(key[:]), nil
}

// Active is the id of the key that wraps.
func (k *Keyring) Active() string { return k.active }

// NewDataKey draws a data key for an account, and returns it wrapped.
func (k *Keyring) NewDataKey(random io.Reader, owner uint64) ([]byte, error) {
	var key [keyBytes]byte
	if _, err := io.ReadFull(random, key[:]); err != nil {
		return nil, fmt.Errorf("seal: draw a data key: %w", err)
	}
	return k.wrap(owner, key[:]), nil
}

// wrap encrypts a data key with the active master key:
//
//	version   byte, 1
//	length    byte: of the id
//	id        of the master key
//	sealed    nonce, key and tag: 60 bytes
func (k *Keyring) wrap(owner uint64, key []byte) []byte {
	b := append([]byte{wrapVersion, byte(len(k.active))}, k.active...)
	return k.keys[k.active].Seal(b, nil, key, wrapContext(owner))
}

func wrapContext(owner uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(wrapPurpose), owner)
}

// Unwrap returns the box of an account's wrapped data key. Errors:
// ErrUnknownKey, ErrOpen.
func (k *Keyring) Unwrap(owner uint64, wrapped []byte) (*Box, error) {
	key, _, err := k.unwrap(owner, wrapped)
	if err != nil {
		return nil, err
	}
	return newBox(key)
}

// Rewrap wraps a data key with the active master key. It is nil when that is
// what it is wrapped with already.
func (k *Keyring) Rewrap(owner uint64, wrapped []byte) ([]byte, error) {
	key, id, err := k.unwrap(owner, wrapped)
	if err != nil || id == k.active {
		return nil, err
	}
	return k.wrap(owner, key), nil
}

func (k *Keyring) unwrap(owner uint64, wrapped []byte) (key []byte, id string, err error) {
	if len(wrapped) < 2 || wrapped[0] != wrapVersion || len(wrapped) < 2+int(wrapped[1]) {
		return nil, "", fmt.Errorf("seal: wrapped key: %w", ErrOpen)
	}
	id = string(wrapped[2 : 2+int(wrapped[1])])
	master := k.keys[id]
	if master == nil {
		return nil, "", fmt.Errorf("seal: %w %q", ErrUnknownKey, id)
	}
	key, err = master.Open(nil, nil, wrapped[2+len(id):], wrapContext(owner))
	if err != nil || len(key) != keyBytes {
		return nil, "", fmt.Errorf("seal: data key under master key %q: %w: the key file has another key of the same name, or the data key is damaged", id, ErrOpen)
	}
	return key, id, nil
}
