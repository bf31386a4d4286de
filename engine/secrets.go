package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
)

// A Rotation is the outcome of RotateSigningSecret.
type Rotation struct {
	SigningSecret    string    // the new one
	PreviousExpireAt time.Time // by then no earlier one signs any more
}

// RotateSigningSecret makes a new signing secret. For as long as the overlap
// every delivery carries a signature of each secret that is live, so that
// receivers can be moved one by one; none that was there before lives longer
// than that. An overlap of 0 ends all of them at once, as after a leak. Errors:
// ErrNotFound, and ErrTooMany when account.MostSecrets are live.
func (e *Engine) RotateSigningSecret(ctx context.Context, a AccountID, overlap time.Duration) (Rotation, error) {
	now := e.now()
	secret, err := account.NewSecret(rand.Reader, now)
	if err != nil {
		return Rotation{}, err
	}
	_, err = e.changeAccount(ctx, a, func(owner Account) (Account, error) {
		kept, err := e.sealSecret(a, secret)
		if err != nil {
			return owner, err
		}
		changed, err := owner.WithSecret(kept, overlap, now)
		if errors.Is(err, account.ErrTooManySecrets) {
			err = fmt.Errorf("%w: an account has at most %d live signing secrets; an overlap of 0 ends the earlier ones", ErrTooMany, account.MostSecrets)
		}
		return changed, err
	})
	if err != nil {
		return Rotation{}, err
	}
	return Rotation{SigningSecret: secret.Text, PreviousExpireAt: now.Add(max(overlap, 0))}, nil
}

// SigningSecret is the newest of the secrets with which an account's
// deliveries are signed.
func (e *Engine) SigningSecret(_ context.Context, a AccountID) (string, error) {
	owner, ok := e.state().Directory().Account(a)
	if !ok {
		return "", ErrNotFound
	}
	return e.openSecret(a, owner.Secrets[0].Text)
}

// changeAccount replaces an account by what change makes of it; ErrNotFound.
func (e *Engine) changeAccount(ctx context.Context, a AccountID, change func(Account) (Account, error)) (Account, error) {
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	owner, ok := e.state().Directory().Account(a)
	if !ok {
		return Account{}, ErrNotFound
	}
	changed, err := change(owner.WithoutEnded(e.now()))
	if err != nil {
		return Account{}, err
	}
	return changed, e.propose(ctx, term, command.AppendPutAccount(nil, &changed))
}
