package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/seal"
	"github.com/harepost/harepost/engine/state"
)

// vault has the data keys of the accounts, unwrapped. What it seals is sealed
// before it enters a command, so that applying needs no key.
type vault struct {
	keys  *seal.Keyring // nil: nothing is sealed
	boxes sync.Map      // AccountID to *seal.Box; one an account

	lacking map[AccountID]bool // whose data key, as it is wrapped now, does not open; the applier's
	locked  atomic.Bool        // there are such
}

var errNoKeyFile = errors.New("the data is encrypted: start with the key file that it was encrypted with")

// unlock unwraps every data key, so that a key file that does not fit is found
// before anything is done. The applier calls it, or nothing runs yet.
func (v *vault) unlock(dir *state.Directory) error {
	v.lacking = make(map[AccountID]bool)
	var failed error
	for a, w := range dir.DataKeys() {
		if err := v.open(a, w); err != nil {
			failed = err
		}
	}
	v.locked.Store(failed != nil)
	return failed
}

// open unwraps the data key of an account, and notes whether it could.
func (v *vault) open(a AccountID, wrapped []byte) (err error) {
	var box *seal.Box
	if v.keys == nil {
		err = errNoKeyFile
	} else {
		box, err = v.keys.Unwrap(uint64(a), wrapped)
	}
	if err != nil {
		v.lacking[a] = true
		return fmt.Errorf("engine: data key of %s: %w", a, err)
	}
	v.boxes.Store(a, box)
	delete(v.lacking, a)
	return nil
}

// renew makes the data keys those of another state, or of a state that may not have
// what this node has made. Whoever opens something meanwhile has its key all the time.
func (v *vault) renew(dir *state.Directory) error {
	err := v.unlock(dir)
	v.boxes.Range(func(a, _ any) bool {
		if dir.DataKey(a.(AccountID)) == nil {
			v.boxes.Delete(a)
		}
		return true
	})
	return err
}

// box is the account's; nil when nothing is sealed, and when the account was
// swept this moment.
func (v *vault) box(a AccountID) *seal.Box {
	if v.keys == nil {
		return nil
	}
	b, _ := v.boxes.Load(a)
	box, _ := b.(*seal.Box)
	return box
}

// add makes a data key for an account, and returns it wrapped.
func (v *vault) add(a AccountID) (wrapped []byte, err error) {
	if wrapped, err = v.keys.NewDataKey(rand.Reader, uint64(a)); err != nil {
		return nil, err
	}
	box, err := v.keys.Unwrap(uint64(a), wrapped)
	if err != nil {
		return nil, err
	}
	v.boxes.Store(a, box)
	return wrapped, nil
}

// follow takes the data key of an account from the state, which has one that another
// node may have made, and forgets that of one that is swept. A key that was only wrapped
// anew is the same: it serves on when the key file of this node lacks the new master key.
func (v *vault) follow(a AccountID, dir *state.Directory) (err error) {
	wrapped := dir.DataKey(a)
	switch {
	case wrapped != nil:
		err = v.open(a, wrapped)
	case !dir.Has(a) && !dir.IsDeleted(a):
		v.boxes.Delete(a)
		delete(v.lacking, a)
	}
	v.locked.Store(len(v.lacking) > 0)
	return err
}

// Locked reports whether the data is encrypted with keys that this node does not have.
// It follows: its copy is whole. But it cannot lead.
func (e *Engine) Locked() bool { return e.vault.locked.Load() }

// FitToLead is nil if this node would do well to lead. The error says that it lacks keys
// of the encrypted data, see Locked, or that its disk is full.
func (e *Engine) FitToLead() error {
	switch {
	case e.Locked():
		return errors.New("it lacks keys of the encrypted data")
	case e.space.isShort():
		return errors.New("its disk is full")
	}
	return nil
}

// tellLocked logs what a node that follows lacks.
func (e *Engine) tellLocked(err error) {
	e.opts.Logger.Error("this node lacks keys of the encrypted data: it follows, and ends if it is elected; start it with the key file that the other nodes have", "error", err)
}

// keyAccounts gives a data key to every account that has none, as when
// encryption was turned on just now, and rewraps those whose master key is not
// the active one any more.
func (e *Engine) keyAccounts(ctx context.Context, term uint64) error {
	v := &e.vault
	if v.keys == nil {
		return nil
	}
	dir := e.state().Directory()
	wrapped, fresh, rewrapped := dir.DataKeys(), 0, 0
	for _, a := range dir.Accounts() {
		if wrapped[a] != nil {
			continue
		}
		if err := e.addDataKey(ctx, term, a); err != nil {
			return err
		}
		fresh++
	}
	for a, w := range wrapped {
		again, err := v.keys.Rewrap(uint64(a), w)
		if err == nil && again != nil {
			rewrapped++
			err = e.propose(ctx, term, command.AppendPutDataKey(nil, a, again))
		}
		if err != nil {
			return fmt.Errorf("engine: rewrap the data key of %s: %w", a, err)
		}
	}
	e.opts.Logger.Info("payloads are encrypted; other keys of the key file are not needed any more, except for older backups",
		"active_key", v.keys.Active(), "accounts", len(wrapped)+fresh, "new_data_keys", fresh, "rewrapped", rewrapped)
	return nil
}

// addDataKey makes and commits a data key for an account. It goes before what
// is sealed with it.
func (e *Engine) addDataKey(ctx context.Context, term uint64, a AccountID) error {
	wrapped, err := e.vault.add(a)
	if err == nil {
		err = e.propose(ctx, term, command.AppendPutDataKey(nil, a, wrapped))
	}
	if err != nil {
		return fmt.Errorf("engine: data key of %s: %w", a, err)
	}
	return nil
}

// toWrite is the account's box for what is written, nil when nothing is sealed:
// nothing goes into the log in clear text for want of a key. ErrUnauthorized: the
// account was deleted and swept while the caller waited, for DNS for one.
func (v *vault) toWrite(a AccountID) (*seal.Box, error) {
	box := v.box(a)
	if box == nil && v.keys != nil {
		return nil, ErrUnauthorized
	}
	return box, nil
}

// sealSend seals what a record carries, and returns the body as it is stored.
// The record's headers are gone from it afterwards.
func (e *Engine) sealSend(a AccountID, rec *delivery.Record, body []byte) ([]byte, error) {
	box, err := e.vault.toWrite(a)
	if err != nil || box == nil {
		return body, err
	}
	d, err := box.Delivery(rec.ID)
	if err != nil {
		return nil, fmt.Errorf("engine: seal %s: %w", rec.ID, err)
	}
	rec.SealHeaders(d)
	body = d.Seal(seal.Body, body)
	rec.BodyCRC = delivery.BodyCRC(body)
	return body, nil
}

var errNoDataKey = errors.New("the account has no data key")

// sealer is what opens a sealed delivery.
func (e *Engine) sealer(a AccountID, id DeliveryID) (seal.Delivery, error) {
	box := e.vault.box(a)
	if box == nil {
		return seal.Delivery{}, fmt.Errorf("engine: open %s: %w", id, errNoDataKey)
	}
	return box.Delivery(id)
}

// openView opens what a reader gets of a sealed delivery.
func (e *Engine) openView(a AccountID, v *Delivery, w *delivery.Row, payload bool) error {
	var rec delivery.Record
	if err := w.DecodeRecord(&rec); err != nil || !rec.Sealed {
		return err
	}
	d, err := e.sealer(a, v.ID)
	if err != nil {
		return err
	}
	for i := range v.Attempts {
		at := &v.Attempts[i]
		if at.ResponseBody, err = d.Open(seal.Response, at.ResponseBody); err != nil {
			return err
		}
	}
	if !payload {
		return nil
	}
	if err := rec.OpenHeaders(d); err != nil {
		return err
	}
	v.Headers = rec.Headers
	v.Body, err = d.Open(seal.Body, v.Body)
	return err
}

// sealSecret is a signing secret as it is kept.
func (e *Engine) sealSecret(a AccountID, secret Secret) (Secret, error) {
	box, err := e.vault.toWrite(a)
	if err == nil && box != nil {
		secret.Text = box.SealText(secret.Text)
	}
	return secret, err
}

// openSecret is a signing secret as it is used. One from before encryption was
// turned on is kept in clear text until it is rotated.
func (e *Engine) openSecret(a AccountID, kept string) (string, error) {
	if !seal.IsSealedText(kept) {
		return kept, nil
	}
	box := e.vault.box(a)
	if box == nil {
		return "", fmt.Errorf("engine: signing secret of %s: %w", a, errNoDataKey)
	}
	return box.OpenText(kept)
}
