package account

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// MostSecrets is how many secrets of an account may sign at one time. Each is
// a signature in every request, and headers have bounds.
const MostSecrets = 4

// ErrTooManySecrets says that an account has MostSecrets live ones.
var ErrTooManySecrets = errors.New("too many signing secrets are live")

// NewSecret draws a signing secret.
func NewSecret(random io.Reader, now time.Time) (Secret, error) {
	var secret [secretBytes]byte
	if _, err := io.ReadFull(random, secret[:]); err != nil {
		return Secret{}, fmt.Errorf("account: draw a secret: %w", err)
	}
	return Secret{Text: secretPrefix + base64.StdEncoding.EncodeToString(secret[:]), CreatedAt: now}, nil
}

// IsSecret reports whether a text that somebody chose has the form of a secret:
// what receivers verify with takes 24 to 64 bytes.
func IsSecret(text string) bool {
	encoded, ok := strings.CutPrefix(text, secretPrefix)
	secret, err := base64.StdEncoding.Strict().DecodeString(encoded)
	return ok && err == nil && len(secret) >= 24 && len(secret) <= 64
}

// LiveSecrets appends the texts of the secrets that sign at the moment now,
// the newest first.
func (a *Account) LiveSecrets(dst []string, now time.Time) []string {
	for i := range a.Secrets {
		if a.Secrets[i].LiveAt(now) {
			dst = append(dst, a.Secrets[i].Text)
		}
	}
	return dst
}

// WithSecret is the account with s as its newest secret. No earlier one lives
// longer than overlap from now on, so that with none a leaked secret ends at
// once, whichever it is; those that have ended are left out. The error is
// ErrTooManySecrets.
func (a Account) WithSecret(s Secret, overlap time.Duration, now time.Time) (Account, error) {
	end := now.Add(max(overlap, 0))
	secrets := []Secret{s}
	for _, old := range a.Secrets {
		if old.ExpiresAt.IsZero() || old.ExpiresAt.After(end) {
			old.ExpiresAt = end
		}
		if old.LiveAt(now) {
			secrets = append(secrets, old)
		}
	}
	if len(secrets) > MostSecrets {
		return a, ErrTooManySecrets
	}
	a.Secrets = secrets
	return a, nil
}

// WithoutEnded is the account without the secrets that have ended.
func (a Account) WithoutEnded(now time.Time) Account {
	live := make([]Secret, 0, len(a.Secrets))
	for i := range a.Secrets {
		if a.Secrets[i].LiveAt(now) {
			live = append(live, a.Secrets[i])
		}
	}
	a.Secrets = live // the newest has no end
	return a
}
