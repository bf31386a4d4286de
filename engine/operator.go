package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
)

// OperatorAccount is the reserved account whose deliveries are events, see
// EventOptions. It is there from the first start on that sends events somewhere.
// An account that is made gets a random id, never this one.
const OperatorAccount AccountID = 1

const operatorName = "operator"

// openOperator makes the operator's account if there are to be events and it is not
// there, and has it sign with the secret that was given. It has no API key that
// anybody knows.
func (e *Engine) openOperator(ctx context.Context, term uint64) error {
	o := e.opts.Events
	if o.Target == nil {
		return nil
	}
	dir := e.state().Directory()
	if dir.IsDeleted(OperatorAccount) {
		e.opts.Logger.Error("the operator's account was deleted and is still being swept: events are only logged until the next start")
		return nil
	}
	if !dir.Has(OperatorAccount) {
		return e.createOperator(ctx, term, o.Secret)
	}
	now, err := e.SigningSecret(ctx, OperatorAccount)
	if err != nil || o.Secret == "" || now == o.Secret {
		return err
	}
	_, err = e.changeAccount(ctx, OperatorAccount, func(owner Account) (Account, error) {
		kept, err := e.sealSecret(OperatorAccount, Secret{Text: o.Secret, CreatedAt: e.now()})
		if err != nil {
			return owner, err
		}
		return owner.WithSecret(kept, 0, e.now())
	})
	return err
}

func (e *Engine) createOperator(ctx context.Context, term uint64, secret string) error {
	now := e.now()
	a, err := account.New(rand.Reader, operatorName, now)
	if err != nil {
		return err
	}
	a.ID, a.RatePerMinute = OperatorAccount, NoRateLimit // of its events there is a bound of its own
	if secret != "" {
		a.Secrets[0].Text = secret
	}
	k, _, err := account.NewKey(rand.Reader, a.ID, now)
	if err != nil {
		return err
	}
	e.admin.Lock()
	err = e.addAccount(ctx, term, a, k)
	e.admin.Unlock()
	if err != nil {
		return fmt.Errorf("engine: make the operator's account: %w", err)
	}
	return e.RevokeKey(ctx, a.ID, k.ID)
}

// addAccount commits a new account. The lock admin is held.
func (e *Engine) addAccount(ctx context.Context, term uint64, a Account, k account.Key) error {
	if e.vault.keys != nil {
		if err := e.addDataKey(ctx, term, a.ID); err != nil {
			return err
		}
		kept, err := e.sealSecret(a.ID, a.Secrets[0])
		if err != nil {
			return err
		}
		a.Secrets = []Secret{kept}
	}
	return e.propose(ctx, term, command.AppendCreateAccount(nil, &a, &k))
}

// isOperators reports whether a host is that of the operator's events, which needs
// no verified domain.
func (e *Engine) isOperators(a AccountID, host string) bool {
	return a == OperatorAccount && e.opts.Events.Target != nil && e.opts.Events.Target.Host == host
}

// CheckSigningSecret says whether a text has the form of a signing secret: "whsec_"
// and base64 of 24 to 64 bytes.
func CheckSigningSecret(text string) error {
	if !account.IsSecret(text) {
		return errors.New(`it is not "whsec_" and base64 of 24 to 64 bytes`)
	}
	return nil
}
