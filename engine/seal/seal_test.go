package seal

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func keyLine(t *testing.T, id string) string {
	t.Helper()
	line, err := NewKeyLine(rand.Reader, id)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func keyring(t *testing.T, lines ...string) *Keyring {
	t.Helper()
	k, err := ParseKeyring([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// dataKey is a fresh account's wrapped key and its box.
func dataKey(t *testing.T, k *Keyring, owner uint64) ([]byte, *Box) {
	t.Helper()
	wrapped, err := k.NewDataKey(rand.Reader, owner)
	if err != nil {
		t.Fatal(err)
	}
	box, err := k.Unwrap(owner, wrapped)
	if err != nil {
		t.Fatal(err)
	}
	return wrapped, box
}

func deliveryOf(t *testing.T, b *Box, n byte) Delivery {
	t.Helper()
	d, err := b.Delivery([16]byte{n})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestSealedBytesOpenOnlyAsWhatTheyAre(t *testing.T) {
	k := keyring(t, keyLine(t, "a"))
	_, box := dataKey(t, k, 1)
	_, stranger := dataKey(t, k, 2)
	d := deliveryOf(t, box, 1)
	plain := []byte("a payload that nobody is to read")
	sealed := d.Seal(Body, plain)
	if bytes.Contains(sealed, plain[:8]) || len(sealed) != len(plain)+Overhead {
		t.Fatalf("sealed as %x", sealed)
	}
	if again := d.Seal(Body, plain); bytes.Equal(again, sealed) {
		t.Error("the same bytes are sealed the same twice")
	}
	if got, err := d.Open(Body, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Fatalf("opens as %q, %v", got, err)
	}
	refuses := func(what string, d Delivery, field byte, b []byte) {
		t.Helper()
		if _, err := d.Open(field, b); !errors.Is(err, ErrOpen) {
			t.Errorf("%s: %v", what, err)
		}
	}
	refuses("as another field", d, Headers, sealed)
	refuses("as another delivery", deliveryOf(t, box, 2), Body, sealed)
	refuses("as another account's", deliveryOf(t, stranger, 1), Body, sealed)
	for i := range sealed {
		refuses(fmt.Sprintf("cut at %d", i), d, Body, append([]byte{0}, sealed[:i]...))
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 1
		refuses(fmt.Sprintf("byte %d changed", i), d, Body, flipped)
	}
	if b := d.Seal(Body, nil); b != nil {
		t.Errorf("nothing is sealed as %x", b)
	}
}

func TestTextAndHash(t *testing.T) {
	k := keyring(t, keyLine(t, "a"))
	_, box := dataKey(t, k, 1)
	_, stranger := dataKey(t, k, 1)
	s := box.SealText("whsec_c2VjcmV0")
	if !IsSealedText(s) || IsSealedText("whsec_c2VjcmV0") || strings.Contains(s, "c2VjcmV0") {
		t.Fatalf("sealed as %q", s)
	}
	if got, err := box.OpenText(s); err != nil || got != "whsec_c2VjcmV0" {
		t.Errorf("opens as %q, %v", got, err)
	}
	for _, bad := range []string{s[:len(s)-1], s[:10], "sealed:", "whsec_c2VjcmV0"} {
		if got, err := box.OpenText(bad); !errors.Is(err, ErrOpen) {
			t.Errorf("%q opens as %q, %v", bad, got, err)
		}
	}
	if _, err := stranger.OpenText(s); !errors.Is(err, ErrOpen) {
		t.Errorf("with another key: %v", err)
	}
	h := [16]byte{1, 2, 3}
	first := box.Hash(h)
	if again := box.Hash(h); again != first || box.Hash(h) == stranger.Hash(h) || box.Hash(h) == h {
		t.Error("a hash must depend on the key and on nothing else")
	}
}

func TestRotation(t *testing.T) {
	older, newer := keyLine(t, "2025"), keyLine(t, "2026")
	before := keyring(t, older)
	wrapped, box := dataKey(t, before, 7)
	sealed := deliveryOf(t, box, 1).Seal(Body, []byte("x"))

	if again, err := before.Rewrap(7, wrapped); again != nil || err != nil {
		t.Errorf("rewrapped under the same key: %x, %v", again, err)
	}
	both := keyring(t, newer, older)
	again, err := both.Rewrap(7, wrapped)
	if err != nil || again == nil {
		t.Fatalf("rewrap: %x, %v", again, err)
	}
	after := keyring(t, newer)
	if _, err := after.Unwrap(7, wrapped); !errors.Is(err, ErrUnknownKey) || !strings.Contains(err.Error(), "2025") {
		t.Errorf("without the old key: %v", err)
	}
	box, err = after.Unwrap(7, again)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := deliveryOf(t, box, 1).Open(Body, sealed); err != nil || string(got) != "x" {
		t.Errorf("after the rotation: %q, %v", got, err)
	}
	if _, err := after.Unwrap(8, again); !errors.Is(err, ErrOpen) {
		t.Errorf("as another account's: %v", err)
	}
	impostor := keyring(t, keyLine(t, "2026"))
	if _, err := impostor.Unwrap(7, again); !errors.Is(err, ErrOpen) || !strings.Contains(err.Error(), "another key of the same name") {
		t.Errorf("with another key of the same name: %v", err)
	}
	for i := range again {
		if _, err := after.Unwrap(7, again[:i]); err == nil {
			t.Errorf("cut at %d it unwraps", i)
		}
	}
}

func TestKeyFiles(t *testing.T) {
	good := keyLine(t, "k1")
	key := strings.TrimPrefix(good, "k1:")
	for name, c := range map[string]struct{ text, want string }{
		"empty":       {"", "no key"},
		"comments":    {"# none\n\n", "no key"},
		"no colon":    {key, "line 1: it must be an id"},
		"no id":       {":" + key, "line 1: it must be an id"},
		"odd id":      {"a b:" + key, "line 1: it must be an id"},
		"short key":   {"# one\nk1:" + base64.StdEncoding.EncodeToString(make([]byte, 31)), "line 2: key k1 is not base64 of 32 bytes"},
		"not base64":  {"k1:" + key[:43] + "!", "not base64"},
		"twice":       {good + "\n" + keyLine(t, "k1"), "line 2: key k1 is there twice: the new one needs another name (harepost encryption-key --id"},
		"cut in half": {good[:20], "not base64"},
	} {
		_, err := ParseKeyring([]byte(c.text))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, not %q", name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), key[:12]) {
			t.Errorf("%s: the error has the key: %v", name, err)
		}
	}
	path := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(path, []byte("# active\r\n"+good+"\r\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if k, err := OpenKeyring(path); err != nil || k.Active() != "k1" {
		t.Errorf("%+v, %v", k, err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenKeyring(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a key file that a group can read: %v", err)
	}
	if _, err := OpenKeyring(filepath.Dir(path)); err == nil || !strings.Contains(err.Error(), "is a directory") || strings.Contains(err.Error(), "chmod") {
		t.Errorf("a directory: %v", err)
	}
}
