package state

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/lane"
)

// Directory is the accounts with their keys and domains, all in memory: they
// are looked at by every request. The applier writes it, any goroutine reads.
type Directory struct {
	mu       sync.RWMutex
	accounts map[account.ID]*entry
	keys     map[[sha256.Size]byte]keyRef
	dataKeys map[account.ID][]byte   // wrapped
	deleted  map[account.ID]struct{} // and not swept yet
}

type entry struct {
	account account.Account
	keys    map[account.KeyID]account.Key
	domains map[string]account.Domain
	lanes   map[uint64]lane.Setting // by destination; nil until there is one
}

type keyRef struct {
	account account.ID
	id      account.KeyID
}

func newDirectory() *Directory {
	return &Directory{
		accounts: make(map[account.ID]*entry),
		keys:     make(map[[sha256.Size]byte]keyRef),
		dataKeys: make(map[account.ID][]byte),
		deleted:  make(map[account.ID]struct{}),
	}
}

// Authenticate finds the account of a key by the key's hash. The look-up's
// time says nothing about a key: what is compared is a hash, and the last
// comparison is in constant time.
func (d *Directory) Authenticate(hash [sha256.Size]byte) (account.ID, account.KeyID, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	ref, ok := d.keys[hash]
	if !ok {
		return 0, 0, false
	}
	k := d.accounts[ref.account].keys[ref.id]
	return ref.account, ref.id, subtle.ConstantTimeCompare(k.Hash[:], hash[:]) == 1
}

// Account is an account.
func (d *Directory) Account(id account.ID) (account.Account, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[id]
	if e == nil {
		return account.Account{}, false
	}
	return e.account, true
}

// Has reports whether there is such an account. One that is deleted is not.
func (d *Directory) Has(id account.ID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.accounts[id] != nil
}

// Suspended are the accounts that are suspended.
func (d *Directory) Suspended() (ids []account.ID) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	for id, e := range d.accounts {
		if e.account.Suspended {
			ids = append(ids, id)
		}
	}
	return ids
}

// Deleted are the accounts that are deleted and still have something to be
// swept, sorted.
func (d *Directory) Deleted() []account.ID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Sorted(maps.Keys(d.deleted))
}

// IsDeleted reports whether the account is one of Deleted.
func (d *Directory) IsDeleted(id account.ID) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	_, ok := d.deleted[id]
	return ok
}

// Accounts are the ids of all accounts, sorted.
func (d *Directory) Accounts() []account.ID {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return slices.Sorted(maps.Keys(d.accounts))
}

// AccountsAfter are up to limit accounts whose ids are above after, by
// ascending id, and whether there are others.
func (d *Directory) AccountsAfter(after account.ID, limit int) (page []account.Account, more bool) {
	ids := d.Accounts()
	from, found := slices.BinarySearch(ids, after)
	if found {
		from++
	}
	ids = ids[from:]
	if more = len(ids) > limit; more {
		ids = ids[:limit]
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	for _, id := range ids {
		if e := d.accounts[id]; e != nil { // else deleted this moment
			page = append(page, e.account)
		}
	}
	return page, more
}

// Key is a key of an account.
func (d *Directory) Key(a account.ID, id account.KeyID) (account.Key, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[a]
	if e == nil {
		return account.Key{}, false
	}
	k, ok := e.keys[id]
	return k, ok
}

// Keys are the keys of an account, oldest first.
func (d *Directory) Keys(id account.ID) []account.Key {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[id]
	if e == nil {
		return nil
	}
	keys := make([]account.Key, 0, len(e.keys))
	for _, k := range e.keys {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b account.Key) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	return keys
}

// Domain is a domain of an account, by its normalised name.
func (d *Directory) Domain(id account.ID, name string) (account.Domain, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[id]
	if e == nil {
		return account.Domain{}, false
	}
	dom, ok := e.domains[name]
	return dom, ok
}

// Domains are the domains of an account, oldest first.
func (d *Directory) Domains(id account.ID) []account.Domain {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[id]
	if e == nil {
		return nil
	}
	domains := make([]account.Domain, 0, len(e.domains))
	for _, dom := range e.domains {
		domains = append(domains, dom)
	}
	slices.SortFunc(domains, func(a, b account.Domain) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(a.Name, b.Name))
	})
	return domains
}

// Covers reports whether a verified domain of the account covers the host:
// the domain itself and every name below it.
func (d *Directory) Covers(id account.ID, host string) bool {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[id]
	if e == nil {
		return false
	}
	for {
		if dom, ok := e.domains[host]; ok && !dom.VerifiedAt.IsZero() {
			return true
		}
		dot := strings.IndexByte(host, '.')
		if dot < 0 {
			return false
		}
		host = host[dot+1:]
	}
}

// DataKey is the wrapped data key of an account, nil if it has none. It must
// not be changed.
func (d *Directory) DataKey(id account.ID) []byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.dataKeys[id]
}

// DataKeys are all wrapped data keys.
func (d *Directory) DataKeys() map[account.ID][]byte {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return maps.Clone(d.dataKeys)
}

func (d *Directory) putDataKey(id account.ID, wrapped []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.dataKeys[id] = wrapped
}

// putAccount adds an account, or replaces what it is itself: its keys and
// domains stay.
func (d *Directory) putAccount(a account.Account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[a.ID]; e != nil {
		e.account = a
		return
	}
	d.accounts[a.ID] = &entry{
		account: a,
		keys:    make(map[account.KeyID]account.Key),
		domains: make(map[string]account.Domain),
	}
}

// deleteAccount takes an account out with all that it has.
func (d *Directory) deleteAccount(id account.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[id]; e != nil {
		for _, k := range e.keys {
			delete(d.keys, k.Hash)
		}
		delete(d.accounts, id)
	}
	d.deleted[id] = struct{}{}
}

// forget is for a deleted account of which nothing is left.
func (d *Directory) forget(id account.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.deleted, id)
	delete(d.dataKeys, id)
}

func (d *Directory) putKey(k account.Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[k.Account]; e != nil {
		e.keys[k.ID] = k
		d.keys[k.Hash] = keyRef{k.Account, k.ID}
	}
}

func (d *Directory) deleteKey(a account.ID, id account.KeyID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[a]; e != nil {
		delete(d.keys, e.keys[id].Hash)
		delete(e.keys, id)
	}
}

func (d *Directory) putDomain(dom account.Domain) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[dom.Account]; e != nil {
		e.domains[dom.Name] = dom
	}
}

func (d *Directory) deleteDomain(a account.ID, name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if e := d.accounts[a]; e != nil {
		delete(e.domains, name)
	}
}
