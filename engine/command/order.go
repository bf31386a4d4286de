package command

import (
	"encoding/binary"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/wire"
)

// A ReleaseOrder lets the deliveries of an ordering key go on that wait for a dead
// letter which retention has dropped. It does nothing if that one is still there,
// or if the key waits for another by now. Payload: account and number, 8 bytes
// each, the hash, 16 bytes, and the moment in zigzag milliseconds.
type ReleaseOrder struct {
	Account account.ID
	Number  uint64 // of the dead letter, see delivery.Row
	Hash    delivery.OrderHash
	At      int64 // Unix milliseconds
}

// AppendReleaseOrder appends the command.
func AppendReleaseOrder(dst []byte, c *ReleaseOrder) []byte {
	dst = binary.BigEndian.AppendUint64(head(dst, KindReleaseOrder), uint64(c.Account))
	dst = binary.BigEndian.AppendUint64(dst, c.Number)
	dst = append(dst, c.Hash[:]...)
	return binary.AppendVarint(dst, c.At)
}

// ReadReleaseOrder decodes the payload.
func ReadReleaseOrder(r *wire.Reader) (c ReleaseOrder, err error) {
	c.Account, c.Number = account.ID(r.Uint64()), r.Uint64()
	copy(c.Hash[:], r.Fixed(len(c.Hash)))
	c.At = r.Varint()
	return c, finish(r)
}
