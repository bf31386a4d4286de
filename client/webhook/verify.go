package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// DefaultTolerance is how far the time of a signature may be from the
// receiver's clock, either way.
const DefaultTolerance = 5 * time.Minute

// What can be wrong with a signature. Errors of this package's verification
// wrap one of them.
var (
	ErrNoSignature        = errors.New("no signature")
	ErrMalformedSignature = errors.New("malformed signature")
	ErrWrongSignature     = errors.New("signature does not match")
	ErrSignatureTooOld    = errors.New("signature is too old")
	ErrSignatureTooNew    = errors.New("signature is from the future")
	ErrBadSecret          = errors.New("signing secret is not usable")
)

// Why Middleware did not come to verify a request.
var (
	ErrBodyTooLarge = errors.New("webhook: body is too large")
	ErrBodyUnread   = errors.New("webhook: body cannot be read")
)

// maxSignatures bounds how many signatures of one request are compared.
const maxSignatures = 16

// The headers of the two schemes, and those that are not signed.
const (
	headerDelivery       = "X-Harepost-Delivery"
	headerAttempt        = "X-Harepost-Attempt"
	headerIdempotencyKey = "X-Harepost-Idempotency-Key"

	headerHarepost          = "X-Harepost-Signature"
	headerStandardID        = "Webhook-Id"
	headerStandardTimestamp = "Webhook-Timestamp"
	headerStandardSignature = "Webhook-Signature"
)

// Verify checks that a request was signed by Harepost with one of the secrets,
// of which there are two while one is being rotated. Harepost signs in two
// ways, see VerifyHarepost and VerifyStandard: at least one must be there, and
// what is there must be right. The body is the exact bytes received, now the
// receiver's clock. A tolerance of 0 is DefaultTolerance; a negative one lets
// signatures of any time pass, and so any request be played again.
//
// A delivery may arrive again, from Harepost or from somebody who saw it. What
// must not be done twice is told by Webhook-Id, which is signed and stays the
// same; X-Harepost-Delivery is the same id, but not signed.
func Verify(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error {
	harepost := VerifyHarepost(h, body, secrets, tolerance, now)
	if harepost != nil && !errors.Is(harepost, ErrNoSignature) {
		return harepost
	}
	standard := VerifyStandard(h, body, secrets, tolerance, now)
	if harepost == nil && errors.Is(standard, ErrNoSignature) {
		return nil
	}
	return standard
}

// VerifyHarepost checks the header X-Harepost-Signature:
//
//	t=<unix seconds>,v1=<hex>[,v1=<hex>...]
//
// v1 is HMAC-SHA256 over t, a full stop and the body; its key is the whole text
// of the secret, "whsec_" included. Any v1 may match any of the secrets.
func VerifyHarepost(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error {
	if err := verifyHarepost(h, body, secrets, tolerance, now); err != nil {
		return fmt.Errorf("webhook: %s: %w", headerHarepost, err)
	}
	return nil
}

func verifyHarepost(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error {
	value, err := onlyValue(h, headerHarepost)
	if err != nil {
		return err
	}
	signed, err := parseHarepost(value)
	if err != nil {
		return err
	}
	if len(secrets) == 0 {
		return fmt.Errorf("%w: none given", ErrBadSecret)
	}
	var keys [][]byte
	for _, secret := range secrets {
		if secret == "" {
			return fmt.Errorf("%w: it is empty", ErrBadSecret)
		}
		if err := checkSpace(secret); err != nil {
			return err
		}
		keys = append(keys, []byte(secret))
	}
	return check(signed.timestamp+".", body, signed.timestamp, keys, signed.macs, tolerance, now)
}

// A harepostSignature is the value of the header, taken apart.
type harepostSignature struct {
	timestamp string
	macs      [][]byte // those of v1 that are hex
}

// parseHarepost takes the header apart. What is neither t nor v1 is of a version
// to come, and passed over.
func parseHarepost(value string) (harepostSignature, error) {
	var s harepostSignature
	for part := range strings.SplitSeq(value, ",") {
		name, value, ok := strings.Cut(part, "=")
		switch {
		case !ok || name == "t" && s.timestamp != "":
			return s, ErrMalformedSignature
		case name == "t":
			s.timestamp = value
		case name == "v1":
			if mac, err := hex.DecodeString(value); err == nil {
				s.macs = append(s.macs, mac)
			}
		}
	}
	return s, nil
}

// VerifyStandard checks the headers of Standard Webhooks 1.0.0: webhook-id,
// webhook-timestamp (unix seconds) and webhook-signature, which is
//
//	v1,<base64>[ v1,<base64>...]
//
// v1 is HMAC-SHA256 over id, timestamp and body with full stops in between; its
// key is what the secret's base64, after "whsec_", stands for. Signatures of
// other versions are passed over.
func VerifyStandard(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error {
	if err := verifyStandard(h, body, secrets, tolerance, now); err != nil {
		return fmt.Errorf("webhook: %s: %w", strings.ToLower(headerStandardSignature), err)
	}
	return nil
}

func verifyStandard(h http.Header, body []byte, secrets []string, tolerance time.Duration, now time.Time) error {
	value, err := onlyValue(h, headerStandardSignature)
	if err != nil {
		return err
	}
	id, err := onlyValue(h, headerStandardID)
	if err != nil {
		return fmt.Errorf("%w: without its webhook-id", ErrMalformedSignature)
	}
	timestamp, err := onlyValue(h, headerStandardTimestamp)
	if err != nil {
		return fmt.Errorf("%w: without its webhook-timestamp", ErrMalformedSignature)
	}
	var given [][]byte
	for part := range strings.FieldsSeq(value) {
		if text, ok := strings.CutPrefix(part, "v1,"); ok {
			if mac, err := base64.StdEncoding.DecodeString(text); err == nil {
				given = append(given, mac)
			}
		}
	}
	if len(secrets) == 0 {
		return fmt.Errorf("%w: none given", ErrBadSecret)
	}
	var keys [][]byte
	for _, secret := range secrets {
		if err := checkSpace(secret); err != nil {
			return err
		}
		key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
		if err != nil || len(key) == 0 {
			return fmt.Errorf("%w: it is not whsec_ and base64", ErrBadSecret)
		}
		keys = append(keys, key)
	}
	return check(id+"."+timestamp+".", body, timestamp, keys, given, tolerance, now)
}

// checkSpace refuses what a line of a file has and no secret. Decoding base64
// passes over it, and in the other scheme it would be a part of the key.
func checkSpace(secret string) error {
	if strings.ContainsFunc(secret, unicode.IsSpace) {
		return fmt.Errorf("%w: there is white space in it", ErrBadSecret)
	}
	return nil
}

// onlyValue returns the value of a header that must be there once: of two, one
// may be the sender's and the other a forger's.
func onlyValue(h http.Header, name string) (string, error) {
	values := h.Values(name)
	switch {
	case len(values) == 0 || len(values) == 1 && values[0] == "":
		return "", ErrNoSignature
	case len(values) > 1:
		return "", fmt.Errorf("%w: %d headers", ErrMalformedSignature, len(values))
	}
	return values[0], nil
}

// check compares the given signatures of prefix and body with those by each
// key, and then the time: a request is called too old only if it is authentic.
func check(prefix string, body []byte, timestamp string, keys, given [][]byte, tolerance time.Duration, now time.Time) error {
	signedAt, err := parseTime(timestamp)
	if err != nil {
		return err
	}
	if len(given) > maxSignatures {
		return fmt.Errorf("%w: %d of them", ErrMalformedSignature, len(given))
	}
	match := false
	for _, key := range keys {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(prefix))
		mac.Write(body)
		want := mac.Sum(nil)
		for _, got := range given {
			match = hmac.Equal(got, want) || match
		}
	}
	if !match {
		return ErrWrongSignature
	}
	return checkTime(signedAt, tolerance, now)
}

// parseTime reads unix seconds, until the year 36812.
func parseTime(text string) (time.Time, error) {
	seconds, err := strconv.ParseUint(text, 10, 40)
	if err != nil {
		return time.Time{}, fmt.Errorf("%w: its time is not unix seconds", ErrMalformedSignature)
	}
	return time.Unix(int64(seconds), 0), nil
}

func checkTime(signed time.Time, tolerance time.Duration, now time.Time) error {
	if tolerance < 0 {
		return nil
	}
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	switch {
	case now.Sub(signed) > tolerance:
		return fmt.Errorf("%w: of %s", ErrSignatureTooOld, signed.UTC().Format(time.RFC3339))
	case signed.Sub(now) > tolerance:
		return fmt.Errorf("%w: of %s", ErrSignatureTooNew, signed.UTC().Format(time.RFC3339))
	}
	return nil
}
