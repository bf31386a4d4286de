package state

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/harepost/harepost/engine/wire"
)

type meta struct {
	applied, low uint64
	pending      int64
	ordered      uint64 // see State.ordered
	noBacklogs   bool   // the lanes have no rows of what they have in the disk queue
}

// The versions. Those before the present one are still read.
const (
	firstMetaVersion   = 1 // neither ordered nor rows of backlogs
	orderedMetaVersion = 2 // ordered
	metaVersion        = 3
)

func (m meta) append(dst []byte) []byte {
	dst = append(dst, metaVersion)
	dst = binary.BigEndian.AppendUint64(dst, m.applied)
	dst = binary.BigEndian.AppendUint64(dst, m.low)
	dst = binary.AppendVarint(dst, m.pending)
	return binary.AppendUvarint(dst, m.ordered)
}

func decodeMeta(b []byte) (meta, error) {
	r := wire.NewReader(b)
	version := r.Byte()
	if version < firstMetaVersion || version > metaVersion {
		r.Fail()
	}
	m := meta{applied: r.Uint64(), low: r.Uint64(), pending: r.Varint(), noBacklogs: version < metaVersion}
	if version >= orderedMetaVersion {
		m.ordered = r.Uvarint()
	}
	if r.Err() != nil {
		return meta{}, fmt.Errorf("state: applied index: %w", r.Err())
	}
	return m, nil
}

func (s *State) loadMeta() error {
	v, closer, err := s.db.Get([]byte{spaceMeta})
	if errors.Is(err, pebble.ErrNotFound) {
		s.young.setLow(1)
		return nil
	}
	if err != nil {
		return fmt.Errorf("state: applied index: %w", err)
	}
	m, err := decodeMeta(v)
	if err := errors.Join(err, closer.Close()); err != nil {
		return err
	}
	s.applied = m.applied
	s.pending.Store(m.pending)
	s.ordered = m.ordered
	s.backlogs.all = m.noBacklogs
	s.young.setLow(m.low)
	return nil
}

// durableMeta reads what a crash at this moment would leave.
func (s *State) durableMeta() (m meta, ok bool, err error) {
	it, err := s.db.NewIter(&pebble.IterOptions{
		OnlyReadGuaranteedDurable: true,
		LowerBound:                []byte{spaceMeta},
		UpperBound:                []byte{spaceMeta + 1},
	})
	if err != nil {
		return meta{}, false, err
	}
	if it.First() {
		ok = true
		m, err = decodeMeta(it.Value())
	}
	return m, ok, errors.Join(err, it.Close())
}

// reportDurable tells the owner of the log what it may drop, after each flush.
func (s *State) reportDurable() {
	for {
		select {
		case <-s.flushed:
		case <-s.stop:
			return
		}
		if s.opts.Durable == nil {
			continue
		}
		m, ok, err := s.durableMeta()
		if err != nil {
			s.opts.Logger.Error("state: read the durable index; the log keeps more than it needs", "error", err)
			continue
		}
		if ok {
			s.opts.Durable(m.applied, m.low)
		}
	}
}
