package state

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/lane"
)

// putLane replaces what is set for a lane.
func (s *State) putLane(b *applying, e *Entry, set lane.Setting) error {
	if e.Ignored = !s.dir.Has(set.Account); e.Ignored {
		return nil
	}
	e.Set = Lane{set.Account, set.Destination}
	s.dir.putLane(set)
	key := appendSetting(nil, e.Set)
	if set.IsNothing() {
		return b.Delete(key, nil)
	}
	return b.Set(key, set.Append(nil), nil)
}

func appendSetting(dst []byte, l Lane) []byte {
	return binary.BigEndian.AppendUint64(appendAccount(dst, spaceSetting, l.Account), l.Destination)
}

// putLane keeps what is set for a lane, or forgets it if that is nothing.
func (d *Directory) putLane(set lane.Setting) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.accounts[set.Account]
	if e == nil {
		return
	}
	if set.IsNothing() {
		delete(e.lanes, set.Destination)
		return
	}
	if e.lanes == nil {
		e.lanes = make(map[uint64]lane.Setting)
	}
	e.lanes[set.Destination] = set
}

// Setting is what is set for a lane; false: nothing.
func (d *Directory) Setting(l Lane) (lane.Setting, bool) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[l.Account]
	if e == nil {
		return lane.Setting{}, false
	}
	set, ok := e.lanes[l.Destination]
	return set, ok
}

// Settings are the lanes of an account for which something is set, by
// destination.
func (d *Directory) Settings(a account.ID) []lane.Setting {
	d.mu.RLock()
	defer d.mu.RUnlock()
	e := d.accounts[a]
	if e == nil || len(e.lanes) == 0 {
		return nil
	}
	list := make([]lane.Setting, 0, len(e.lanes))
	for _, set := range e.lanes {
		list = append(list, set)
	}
	slices.SortFunc(list, func(x, y lane.Setting) int { return cmp.Compare(x.Destination, y.Destination) })
	return list
}

// EachSetting calls fn with what is set for the lanes of all accounts.
func (d *Directory) EachSetting(fn func(lane.Setting)) {
	for _, a := range d.Accounts() {
		for _, set := range d.Settings(a) {
			fn(set)
		}
	}
}

// CountSettings is for how many lanes of an account something is set.
func (d *Directory) CountSettings(a account.ID) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if e := d.accounts[a]; e != nil {
		return len(e.lanes)
	}
	return 0
}
