package state

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/command"
	"github.com/harepost/harepost/engine/delivery"
)

func (s *State) putAccount(b *applying, a account.Account) error {
	s.dir.putAccount(a)
	return b.Set(appendAccount(nil, spaceAccount, a.ID), a.Append(nil), nil)
}

// changeAccount replaces an account's row. One that is deleted stays so.
func (s *State) changeAccount(b *applying, e *Entry, a account.Account) error {
	if e.Ignored = !s.dir.Has(a.ID); e.Ignored {
		return nil
	}
	e.Changed = a.ID
	return s.putAccount(b, a)
}

func (s *State) putKey(b *applying, k account.Key) error {
	s.dir.putKey(k)
	return b.Set(appendAPIKey(nil, k.Account, k.ID), k.Append(nil), nil)
}

func (s *State) putDomain(b *applying, e *Entry, d account.Domain) error {
	if e.Ignored = !s.dir.Has(d.Account); e.Ignored {
		return nil
	}
	s.dir.putDomain(d)
	return b.Set(appendDomain(nil, d.Account, d.Name), d.Append(nil), nil)
}

// touchKeys notes when keys were last used. What was revoked meanwhile is
// passed over, and a moment never goes back.
func (s *State) touchKeys(b *applying, uses []command.KeyUse) error {
	for _, u := range uses {
		k, ok := s.dir.Key(u.Account, u.Key)
		at := time.UnixMilli(u.At).UTC()
		if !ok || !at.After(k.LastUsed) {
			continue
		}
		k.LastUsed = at
		if err := s.putKey(b, k); err != nil {
			return err
		}
	}
	return nil
}

// deleteAccount ends an account, see the package comment. Its young are
// stored, as an eviction would have done sooner or later, and not dropped: how
// many there are is not the same on every node, what a sweep finds must be.
func (s *State) deleteAccount(b *applying, e *Entry, a account.ID, at int64) error {
	if e.Ignored = !s.dir.Has(a); e.Ignored {
		return nil
	}
	e.Changed = a
	s.dir.deleteAccount(a)
	for _, y := range s.young.of(a) {
		if err := s.store(b, y); err != nil {
			return err
		}
	}
	s.jobs.drop(a)
	for _, space := range [...]byte{spaceKey, spaceDomain, spaceJob, spaceSetting} {
		lower := appendAccount(nil, space, a)
		if err := s.dropRange(b, lower, successor(lower)); err != nil {
			return err
		}
	}
	if err := b.Delete(appendAccount(nil, spaceAccount, a), nil); err != nil {
		return err
	}
	return b.Set(appendAccount(nil, spaceTombstone, a), binary.AppendVarint(nil, at), nil)
}

// sweepAccount drops up to limit pending deliveries of a deleted account, and
// when there are no more all the rest. The pending are counted one by one,
// because State.pending is; their bodies and queue positions go with the rest.
func (s *State) sweepAccount(b *applying, e *Entry, a account.ID, limit int) error {
	if e.Ignored = !s.dir.IsDeleted(a); e.Ignored {
		return nil
	}
	for _, st := range [...]delivery.Status{delivery.Queued, delivery.Retrying} {
		n, err := s.dropFirst(b, append(appendAccount(nil, spaceRow, a), byte(st)), limit)
		if err != nil {
			return fmt.Errorf("sweep of %s: %w", a, err)
		}
		b.pending -= int64(n)
		if limit -= n; limit == 0 {
			return nil
		}
	}
	for _, space := range sweptSpaces {
		lower := appendAccount(nil, space, a)
		if err := s.dropRange(b, lower, successor(lower)); err != nil {
			return fmt.Errorf("sweep of %s: %w", a, err)
		}
	}
	e.Changed = a
	s.dir.forget(a)
	s.backlogs.forget(a)
	if err := b.Delete(appendAccount(nil, spaceDataKey, a), nil); err != nil {
		return err
	}
	return b.Delete(appendAccount(nil, spaceTombstone, a), nil)
}

// sweptSpaces are the key spaces in which an account's keys begin with it, but
// for those that are dropped when it is deleted.
var sweptSpaces = [...]byte{spaceRow, spaceLateRow, spaceBody, spaceLateBody, spaceQueue, spaceBacklog, spaceOrder, spaceTurn, spaceHeld}

// dropFirst drops the first keys with a prefix, at most limit, by one range
// tombstone, and returns how many there were.
func (s *State) dropFirst(b *applying, prefix []byte, limit int) (n int, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: successor(prefix)})
	if err != nil {
		return 0, err
	}
	upper := successor(prefix)
	for ok := it.First(); ok; ok = it.Next() {
		if n == limit {
			upper = append([]byte(nil), it.Key()...)
			break
		}
		n++
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil || n == 0 {
		return 0, err
	}
	return n, b.DeleteRange(prefix, upper, nil)
}

func (s *State) loadTombstones() error {
	return s.scan([]byte{spaceTombstone}, []byte{spaceTombstone + 1}, func(key, _ []byte) error {
		if len(key) != 9 {
			return fmt.Errorf("state: key %x: malformed", key)
		}
		s.dir.deleteAccount(account.ID(binary.BigEndian.Uint64(key[1:])))
		return nil
	})
}
