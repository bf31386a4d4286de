package command

import (
	"encoding/binary"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/wire"
)

// AppendPutAccount appends the command that replaces an account's own row. Its
// keys and domains stay as they are.
func AppendPutAccount(dst []byte, a *account.Account) []byte {
	return a.Append(head(dst, KindPutAccount))
}

// ReadPutAccount decodes the payload. Strings alias it.
func ReadPutAccount(r *wire.Reader) (a account.Account, err error) {
	a.Read(r)
	return a, finish(r)
}

// A KeyUse says when a key was last used.
type KeyUse struct {
	Account account.ID
	Key     account.KeyID
	At      int64 // Unix milliseconds
}

// MostKeyUses bounds one command of them, so that it holds up the log for a few
// milliseconds at most.
const MostKeyUses = 4096

// AppendTouchKeys appends the command that notes when keys were last used; no
// more than MostKeyUses. Payload: their number, then of each account and key,
// 8 bytes each, and the moment in zigzag milliseconds.
func AppendTouchKeys(dst []byte, uses []KeyUse) []byte {
	dst = binary.AppendUvarint(head(dst, KindTouchKeys), uint64(len(uses)))
	for _, u := range uses {
		dst = binary.BigEndian.AppendUint64(dst, uint64(u.Account))
		dst = binary.BigEndian.AppendUint64(dst, uint64(u.Key))
		dst = binary.AppendVarint(dst, u.At)
	}
	return dst
}

// ReadTouchKeys decodes the payload.
func ReadTouchKeys(r *wire.Reader) (uses []KeyUse, err error) {
	for n := r.Int(MostKeyUses); n > 0 && r.Err() == nil; n-- {
		uses = append(uses, KeyUse{account.ID(r.Uint64()), account.KeyID(r.Uint64()), r.Varint()})
	}
	return uses, finish(r)
}

// AppendDeleteAccount appends the command that ends an account: from then on
// it has no keys, no domains and no secret, and nothing is accepted for it. at
// is when, in Unix milliseconds.
func AppendDeleteAccount(dst []byte, a account.ID, at int64) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindDeleteAccount), uint64(a))
	return binary.AppendVarint(dst, at)
}

// ReadDeleteAccount decodes the payload.
func ReadDeleteAccount(r *wire.Reader) (a account.ID, at int64, err error) {
	a, at = account.ID(r.Uint64()), r.Varint()
	return a, at, finish(r)
}

// MostSwept bounds a step of a sweep.
const MostSwept = 1 << 20

// AppendSweepAccount appends the command that drops up to limit pending
// deliveries of a deleted account; the step that finds fewer drops all that is
// left of it.
func AppendSweepAccount(dst []byte, a account.ID, limit int) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindSweepAccount), uint64(a))
	return binary.AppendUvarint(dst, uint64(limit))
}

// ReadSweepAccount decodes the payload.
func ReadSweepAccount(r *wire.Reader) (a account.ID, limit int, err error) {
	a, limit = account.ID(r.Uint64()), r.Int(MostSwept)
	if limit == 0 {
		r.Fail()
	}
	return a, limit, finish(r)
}
