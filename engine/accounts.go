package engine

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/transport"
)

// Changes of accounts, keys and domains are rare. Each looks at the directory,
// decides, and commits, under one lock, so that no two decide on the same
// directory.

// Authenticate finds the account of an API key. The error is ErrUnauthorized.
func (e *Engine) Authenticate(apiKey []byte) (AccountID, error) {
	a, k, ok := e.state().Directory().Authenticate(account.HashKey(apiKey))
	if !ok {
		return 0, ErrUnauthorized
	}
	e.lastUse.set(a, k, e.opts.Now())
	return a, nil
}

// CreateAccount makes an account with a key and a signing secret.
func (e *Engine) CreateAccount(ctx context.Context, name string) (NewAccount, error) {
	now := e.now()
	a, err := account.New(rand.Reader, name, now)
	if err != nil {
		return NewAccount{}, err
	}
	k, text, err := account.NewKey(rand.Reader, a.ID, now)
	if err != nil {
		return NewAccount{}, err
	}
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	made := NewAccount{Account: a, APIKey: text, SigningSecret: a.Secrets[0].Text}
	if err := e.addAccount(ctx, term, a, k); err != nil {
		return NewAccount{}, err
	}
	return made, nil
}

// Account is an account; ErrNotFound, also of one that is deleted.
func (e *Engine) Account(_ context.Context, id AccountID) (Account, error) {
	a, ok := e.state().Directory().Account(id)
	if !ok {
		return Account{}, ErrNotFound
	}
	return a, nil
}

// ListAccounts are up to limit accounts by ascending id, those after the id
// after. next is what to list on after; 0 says that this was the last page.
func (e *Engine) ListAccounts(_ context.Context, after AccountID, limit int) (accounts []Account, next AccountID, err error) {
	accounts, more := e.state().Directory().AccountsAfter(after, max(limit, 1))
	if more && len(accounts) > 0 {
		next = accounts[len(accounts)-1].ID
	}
	return accounts, next, nil
}

// An AccountChange says what of an account is to be changed; nil: not this.
type AccountChange struct {
	Name          *string
	RatePerMinute *int // 0: the server's default again; NoRateLimit: none
	Suspended     *bool
}

// NoRateLimit is the RatePerMinute of an account without a limit, whatever the
// server's default is.
const NoRateLimit = account.NoRateLimit

// ChangeAccount changes an account and returns it as it is then. While it is
// suspended its sends are refused and what is pending waits: nothing is lost
// and no attempt is counted. Reading and the management of keys stay possible.
// Errors: ErrNotFound; a rate below NoRateLimit or above MaxRatePerMinute is
// refused.
func (e *Engine) ChangeAccount(ctx context.Context, id AccountID, c AccountChange) (Account, error) {
	return e.changeAccount(ctx, id, func(a Account) (Account, error) {
		if c.Name != nil {
			a.Name = *c.Name
		}
		if c.RatePerMinute != nil {
			if *c.RatePerMinute < NoRateLimit || *c.RatePerMinute > MaxRatePerMinute {
				return a, fmt.Errorf("engine: a rate of %d a minute is not within %d and %d", *c.RatePerMinute, NoRateLimit, MaxRatePerMinute)
			}
			a.RatePerMinute = *c.RatePerMinute
		}
		if c.Suspended != nil {
			a.Suspended = *c.Suspended
		}
		return a, nil
	})
}

// DeleteAccount ends an account: its keys, domains and signing secrets are
// gone with the return, it is not shown any more, and what is pending is not
// attempted. Its deliveries are dropped from then on in bounded steps, which go
// on after a restart; its idempotency keys expire by themselves. ErrNotFound.
func (e *Engine) DeleteAccount(ctx context.Context, id AccountID) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	if !e.state().Directory().Has(id) {
		return ErrNotFound
	}
	if err := e.propose(ctx, term, command.AppendDeleteAccount(nil, id, e.now().UnixMilli())); err != nil {
		return err
	}
	e.sweepSoon()
	return nil
}

// Keys are the keys of an account, oldest first.
func (e *Engine) Keys(_ context.Context, a AccountID) ([]Key, error) {
	keys := e.state().Directory().Keys(a)
	views := make([]Key, len(keys))
	for i, k := range keys {
		views[i] = Key{ID: k.ID, Prefix: k.Prefix, CreatedAt: k.CreatedAt, LastUsed: e.lastUse.get(k.ID, k.LastUsed)}
	}
	return views, nil
}

// CreateKey makes a further key and returns its text, which is not kept. The
// error is ErrTooMany at the bound.
func (e *Engine) CreateKey(ctx context.Context, a AccountID) (Key, string, error) {
	k, text, err := account.NewKey(rand.Reader, a, e.now())
	if err != nil {
		return Key{}, "", err
	}
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	if !e.state().Directory().Has(a) {
		return Key{}, "", ErrNotFound // deleted this moment
	}
	if len(e.state().Directory().Keys(a)) >= e.opts.KeysPerAccount {
		return Key{}, "", fmt.Errorf("%w: an account has at most %d keys", ErrTooMany, e.opts.KeysPerAccount)
	}
	if err := e.propose(ctx, term, command.AppendCreateKey(nil, &k)); err != nil {
		return Key{}, "", err
	}
	return Key{ID: k.ID, Prefix: k.Prefix, CreatedAt: k.CreatedAt}, text, nil
}

// RevokeKey ends a key; the next request with it is unauthorized. The error is
// ErrNotFound when the account has no such key.
func (e *Engine) RevokeKey(ctx context.Context, a AccountID, id KeyID) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	for _, k := range e.state().Directory().Keys(a) {
		if k.ID == id {
			if err := e.propose(ctx, term, command.AppendRevokeKey(nil, a, id)); err != nil {
				return err
			}
			e.lastUse.m.Delete(id)
			return nil
		}
	}
	return ErrNotFound
}

// Accounts are the ids of all accounts.
func (e *Engine) Accounts() []AccountID { return e.state().Directory().Accounts() }

// AddDomain adds a destination domain by its normalised name. created is
// false, and the domain the one that is there, when it was added before.
func (e *Engine) AddDomain(ctx context.Context, a AccountID, name string) (d Domain, created bool, err error) {
	fresh, err := account.NewDomain(rand.Reader, a, name, e.now())
	if err != nil {
		return Domain{}, false, err
	}
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	dir := e.state().Directory()
	if !dir.Has(a) {
		return Domain{}, false, ErrNotFound // deleted this moment
	}
	if d, ok := dir.Domain(a, name); ok {
		return d, false, nil
	}
	if len(dir.Domains(a)) >= e.opts.DomainsPerAccount {
		return Domain{}, false, fmt.Errorf("%w: an account has at most %d domains", ErrTooMany, e.opts.DomainsPerAccount)
	}
	if err := e.propose(ctx, term, command.AppendPutDomain(nil, &fresh)); err != nil {
		return Domain{}, false, err
	}
	return fresh, true, nil
}

// The TXT record that proves a domain.
const (
	ChallengeLabel  = "_harepost-challenge."
	ChallengePrefix = "harepost-verify="
)

// VerifyDomain looks for the domain's TXT record and marks the domain as
// verified when it is there; the check is made once. Errors: ErrNotFound, or a
// [*DomainPendingError] with what was found instead.
func (e *Engine) VerifyDomain(ctx context.Context, a AccountID, name string) (Domain, error) {
	d, ok := e.state().Directory().Domain(a, name)
	if !ok {
		return Domain{}, ErrNotFound
	}
	if !d.VerifiedAt.IsZero() {
		return d, nil
	}
	// Without the lock: a resolver may take its time.
	records, err := e.opts.Transport.LookupTXT(ctx, ChallengeLabel+name)
	if err != nil {
		return Domain{}, &DomainPendingError{Domain: d, Detail: lookupDetail(name, err)}
	}
	if !contains(records, ChallengePrefix+d.Token) {
		return Domain{}, &DomainPendingError{Domain: d, Detail: fmt.Sprintf(
			"%s%s has %d TXT records, none of them %s%s", ChallengeLabel, name, len(records), ChallengePrefix, d.Token)}
	}
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	now, ok := e.state().Directory().Domain(a, name)
	if !ok || now.Token != d.Token {
		return Domain{}, ErrNotFound // deleted meanwhile
	}
	if !now.VerifiedAt.IsZero() {
		return now, nil
	}
	now.VerifiedAt = e.now()
	if err := e.propose(ctx, term, command.AppendPutDomain(nil, &now)); err != nil {
		return Domain{}, err
	}
	return now, nil
}

// lookupDetail says why a lookup found no records. The customer reads it: what
// went wrong on the way to the name server is said without the server's
// address, which is the operator's own network.
func lookupDetail(name string, err error) string {
	var lookup *transport.LookupError
	if errors.As(err, &lookup) {
		if lookup.NotFound {
			return fmt.Sprintf("%s%s has no TXT record yet", ChallengeLabel, name)
		}
		err = lookup.Err
	}
	reason := err.Error()
	var network net.Error
	if errors.As(err, &network) {
		reason = "no name server could be reached"
		if network.Timeout() {
			reason = "no name server answered in time"
		}
	}
	return fmt.Sprintf("looking up %s%s failed: %s", ChallengeLabel, name, reason)
}

func contains(records []string, want string) bool {
	for _, r := range records {
		if strings.TrimSpace(r) == want {
			return true
		}
	}
	return false
}

// Domain is a domain of an account by its normalised name; ErrNotFound.
func (e *Engine) Domain(_ context.Context, a AccountID, name string) (Domain, error) {
	d, ok := e.state().Directory().Domain(a, name)
	if !ok {
		return Domain{}, ErrNotFound
	}
	return d, nil
}

// Domains are the domains of an account, oldest first.
func (e *Engine) Domains(_ context.Context, a AccountID) ([]Domain, error) {
	return e.state().Directory().Domains(a), nil
}

// DeleteDomain removes a domain. Deliveries to it that are pending are
// rejected when their next attempt is due.
func (e *Engine) DeleteDomain(ctx context.Context, a AccountID, name string) error {
	e.admin.Lock()
	defer e.admin.Unlock()
	term := e.reign.Load()
	if _, ok := e.state().Directory().Domain(a, name); !ok {
		return ErrNotFound
	}
	return e.propose(ctx, term, command.AppendDeleteDomain(nil, a, name))
}

// now is the clock in the precision in which times are kept.
func (e *Engine) now() time.Time { return e.opts.Now().UTC().Truncate(time.Millisecond) }
