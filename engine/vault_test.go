package engine

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/seal"
)

func newKeyring(t *testing.T, lines ...string) *seal.Keyring {
	t.Helper()
	k, err := seal.ParseKeyring([]byte(strings.Join(lines, "\n")))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newKeyLine(t *testing.T, id string) string {
	t.Helper()
	line, err := seal.NewKeyLine(rand.Reader, id)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// holds reports which files below dir have any of the marks in them.
func holds(t *testing.T, fs vfs.FS, dir string, marks ...string) (found []string) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		path := fs.PathJoin(dir, name)
		info, err := fs.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.IsDir() {
			found = append(found, holds(t, fs, path, marks...)...)
			continue
		}
		f, err := fs.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, m := range marks {
			if bytes.Contains(content, []byte(m)) {
				found = append(found, path+" has "+m[:8])
			}
		}
	}
	return found
}

// Random marks, which no compression shortens: what is in a file is found.
const (
	markBody     = "q7Zt0WmBxKpV3rLhYd9Ue"
	markHeader   = "Jc5NfXs8GaTq1OvEw6RiP"
	markResponse = "Hb4MyUk2DzSl0QnCj7FgA"
)

// sealedSend is a send whose body and header carry marks, long enough that the
// body is kept beside its row if long is set.
func sealedSend(target Target, long bool) *Send {
	s := sendTo(target, `{"mark":"`+markBody+`"}`)
	if long {
		s.Body = append(bytes.Repeat([]byte("x"), 4096), s.Body...)
	}
	s.Headers = []Header{{Name: "X-Mark", Value: markHeader}}
	s.Policy.MaxAttempts = 1
	s.Sign = true
	return s
}

func openWith(t *testing.T, fs vfs.FS, k *seal.Keyring) *Engine {
	t.Helper()
	o := testOptions(t, fs)
	o.Keyring = k
	e, err := Open("data", o)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func closeEngine(t *testing.T, e *Engine) {
	t.Helper()
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
}

// checkPayload reads a sealed delivery back.
func checkPayload(t *testing.T, e *Engine, a AccountID, id DeliveryID) {
	t.Helper()
	d, err := e.Delivery(context.Background(), a, id, ReadOptions{Payload: true})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasSuffix(d.Body, []byte(markBody+`"}`)) || len(d.Headers) != 1 || d.Headers[0].Value != markHeader || d.BodyBytes != len(d.Body) {
		t.Errorf("%s: read back as %d bytes (%d said), headers %v", id, len(d.Body), d.BodyBytes, d.Headers)
	}
	if len(d.Attempts) == 1 && string(d.Attempts[0].ResponseBody) != markResponse {
		t.Errorf("%s: response read back as %q", id, d.Attempts[0].ResponseBody)
	}
}

// Nothing of a payload, a header, a response or a secret is in any file, while
// the target gets all of it, signed, and readers read it.
func TestSealedPayloadsAreNowhereInClearText(t *testing.T) {
	var mu sync.Mutex
	var got []*http.Request
	target := receiver(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		mu.Lock()
		got = append(got, r)
		mu.Unlock()
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, markResponse)
	})
	fs := vfs.NewMem()
	keys := newKeyring(t, newKeyLine(t, "k1"))
	e := openWith(t, fs, keys)
	made, err := e.CreateAccount(context.Background(), "test")
	if err != nil {
		t.Fatal(err)
	}
	a := made.Account.ID
	var ids []DeliveryID
	for i := range 4 {
		s := sealedSend(target, i%2 == 1)
		if i >= 2 {
			s.NotBefore = time.Now().Add(time.Hour) // kept in the disk queue
		}
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, r.ID)
	}
	for _, id := range ids[:2] {
		if d := await(t, e, a, id); d.Status != StatusRejected {
			t.Fatalf("%s: %s", id, d.Status)
		}
	}
	for _, r := range got {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Mark") != markHeader || !bytes.HasSuffix(body, []byte(markBody+`"}`)) || r.Header.Get("X-Harepost-Signature") == "" {
			t.Errorf("the target got %v, %d bytes", r.Header, len(body))
		}
	}
	for range 2 { // before and after a restart, from the log and from the state
		for _, id := range ids {
			checkPayload(t, e, a, id)
		}
		if s, err := e.SigningSecret(context.Background(), a); err != nil || s != made.SigningSecret {
			t.Errorf("secret %v", err)
		}
		closeEngine(t, e)
		if found := holds(t, fs, "data", markBody, markHeader, markResponse, made.SigningSecret); len(found) > 0 {
			t.Fatalf("clear text: %v", found)
		}
		e = openWith(t, fs, keys)
	}
	closeEngine(t, e)
}

// The search of the test above finds what it looks for when nothing is sealed.
func TestUnsealedPayloadsAreFoundInClearText(t *testing.T) {
	fs := vfs.NewMem()
	e := openWith(t, fs, nil)
	a := newAccount(t, e)
	s := sealedSend(receiver(t, func(http.ResponseWriter, *http.Request) {}), false)
	s.NotBefore = time.Now().Add(time.Hour)
	if _, err := e.Send(context.Background(), a, s); err != nil {
		t.Fatal(err)
	}
	closeEngine(t, e)
	if found := holds(t, fs, "data", markBody, markHeader); len(found) < 2 {
		t.Errorf("found %v", found)
	}
}

func TestMasterKeyRotation(t *testing.T) {
	fs := vfs.NewMem()
	target := receiver(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, markResponse)
	})
	older, newer := newKeyLine(t, "k1"), newKeyLine(t, "k2")

	// Begun without encryption; it encrypts what comes once it is turned on.
	e := openWith(t, fs, nil)
	a := newAccount(t, e)
	secret, err := e.SigningSecret(context.Background(), a)
	if err != nil {
		t.Fatal(err)
	}
	var ids []DeliveryID
	send := func(s *Send) DeliveryID {
		r, err := e.Send(context.Background(), a, s)
		if err != nil {
			t.Fatal(err)
		}
		await(t, e, a, r.ID)
		return r.ID
	}
	keyed := sealedSend(target, false)
	keyed.IdempotencyKey = "once"
	first := send(keyed)
	ids = append(ids, first, send(sealedSend(target, true)))
	for _, lines := range [][]string{{older}, {newer, older}, {newer}} {
		closeEngine(t, e)
		e = openWith(t, fs, newKeyring(t, lines...))
		if again := send(keyed); again != first {
			t.Errorf("with %d keys: the idempotency key made a second delivery", len(lines))
		}
		ids = append(ids, send(sealedSend(target, false)), send(sealedSend(target, true)))
		for _, id := range ids {
			checkPayload(t, e, a, id)
		}
		if s, err := e.SigningSecret(context.Background(), a); err != nil || s != secret {
			t.Errorf("with %d keys: the secret: %v", len(lines), err)
		}
	}
	closeEngine(t, e)

	// What does not fit is refused, and loses nothing.
	for name, k := range map[string]*seal.Keyring{
		"no key file":           nil,
		"the removed key":       newKeyring(t, older),
		"another key, its name": newKeyring(t, newKeyLine(t, "k2")),
	} {
		o := testOptions(t, fs)
		o.Keyring = k
		if e, err := Open("data", o); err == nil {
			t.Errorf("opens with %s", name)
			closeEngine(t, e)
		}
	}
	e = openWith(t, fs, newKeyring(t, newer))
	for _, id := range ids {
		checkPayload(t, e, a, id)
	}
	closeEngine(t, e)
}

// Rotation and deletion with encryption: a rotated secret is sealed as the
// first was and signs as it is shown, and a deleted account's data key goes
// with what it opened.
func TestRotationAndDeletionOfSealedAccounts(t *testing.T) {
	headers := make(chan http.Header, 1)
	target := receiver(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		headers <- r.Header
	})
	fs := vfs.NewMem()
	e := openWith(t, fs, newKeyring(t, newKeyLine(t, "one")))
	ctx := context.Background()
	a := newAccount(t, e)
	old, err := e.SigningSecret(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	r, err := e.RotateSigningSecret(ctx, a, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if shown, err := e.SigningSecret(ctx, a); err != nil || shown != r.SigningSecret {
		t.Errorf("the secret shown is not the new one: %v", err)
	}
	s := sendTo(target, "x")
	s.Sign = true
	sent, err := e.Send(ctx, a, s)
	if err != nil {
		t.Fatal(err)
	}
	h := <-headers
	for _, secret := range []string{old, r.SigningSecret} {
		if ours, standard := acceptedBy(secret, h, "x"); !ours || !standard {
			t.Errorf("during the overlap: accepted %t and %t", ours, standard)
		}
	}
	await(t, e, a, sent.ID)
	if err := e.DeleteAccount(ctx, a); err != nil {
		t.Fatal(err)
	}
	swept(t, e, a)
	if key := e.state().Directory().DataKey(a); key != nil || e.vault.box(a) != nil {
		t.Error("the data key of a deleted account is kept")
	}
	closeEngine(t, e)
	if found := holds(t, fs, "data", strings.TrimPrefix(old, "whsec_"), strings.TrimPrefix(r.SigningSecret, "whsec_")); len(found) > 0 {
		t.Errorf("a secret is in clear text: %v", found)
	}
}
