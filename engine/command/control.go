package command

import (
	"encoding/binary"

	"github.com/harepost/harepost/engine/account"
	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/engine/job"
	"github.com/harepost/harepost/engine/wire"
)

// MostControlled bounds the deliveries of one Control, so that it holds up
// the log for a few milliseconds at most.
const MostControlled = 500

// A Control replays, cancels or purges deliveries: one that somebody named, or
// a step of a job. What has changed since they were chosen is skipped when the
// command is applied. Payload:
//
//	kind     byte, see package job
//	account  8 bytes
//	at       zigzag milliseconds
//	job      8 bytes: the job whose step it is, 0: none
//	after    16 bytes: up to where the job has come with it
//	last     byte: 1, the job is done with it
//	ids      16 bytes each, to the end
type Control struct {
	Kind    job.Kind
	Account account.ID
	At      int64 // Unix milliseconds
	Job     job.ID
	After   delivery.ID
	Last    bool
	IDs     []delivery.ID
}

// AppendControl appends the command.
func AppendControl(dst []byte, c *Control) []byte {
	dst = append(head(dst, KindControl), byte(c.Kind))
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Account))
	dst = binary.AppendVarint(dst, c.At)
	dst = binary.BigEndian.AppendUint64(dst, uint64(c.Job))
	dst = append(dst, c.After[:]...)
	dst = wire.AppendBool(dst, c.Last)
	for i := range c.IDs {
		dst = append(dst, c.IDs[i][:]...)
	}
	return dst
}

// ReadControl decodes the payload.
func ReadControl(r *wire.Reader) (c Control, err error) {
	c.Kind = job.Kind(r.Byte())
	c.Account = account.ID(r.Uint64())
	c.At = r.Varint()
	c.Job = job.ID(r.Uint64())
	copy(c.After[:], r.Fixed(len(c.After)))
	c.Last = r.Bool()
	n := len(r.Rest()) / len(delivery.ID{})
	if !c.Kind.Valid() || n > MostControlled {
		r.Fail()
	}
	for r.Err() == nil && len(r.Rest()) > 0 {
		var id delivery.ID
		copy(id[:], r.Fixed(len(id)))
		c.IDs = append(c.IDs, id)
	}
	return c, r.Err()
}

// AppendPutJob appends the command that makes a job or replaces it.
func AppendPutJob(dst []byte, j *job.Job) []byte { return j.Append(head(dst, KindPutJob)) }

// ReadPutJob decodes the payload. Strings alias it.
func ReadPutJob(r *wire.Reader) (j job.Job, err error) {
	j.Read(r)
	return j, finish(r)
}
