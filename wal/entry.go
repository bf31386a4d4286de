package wal

import (
	"encoding/binary"
	"errors"
)

// Index is the position of an entry in the log. The first entry has index 1; 0 means "none".
type Index uint64

// EntryType tells the log's user what an entry holds. The log stores it and does not look at it.
type EntryType uint8

// An Entry is one record of the log.
type Entry struct {
	Index  Index     // assigned by Append; when set by the caller it must be the next one
	Term   uint64    // stored; the log gives it no meaning
	Type   EntryType // stored
	Ext    []byte    // stored beside Data; for small facts about it
	Data   []byte    // kept by reference until Committed returns or the log has failed: not to be changed before
	Cookie any       // not stored; handed back to Committed with the entry
}

// An entry inside a frame's payload:
//
//	uvarint  length of data
//	uvarint  term, less the term of the entry before it in the frame (modulo 2^64; 0 before the first)
//	byte     type
//	uvarint  length of ext
//	bytes    ext, then data
//
// The frame header has the index of the first; the others count on from it.
const maxEntryOverheadBytes = 3*binary.MaxVarintLen64 + 1

// entrySlotBytes is what a waiting entry is charged beyond its bytes, so that a flood of empty
// entries is bounded as well. It is about the size of an Entry.
const entrySlotBytes = 96

func (e *Entry) bytes() int64 { return int64(len(e.Ext)) + int64(len(e.Data)) }

func (e *Entry) queueBytes() int64 { return e.bytes() + entrySlotBytes }

func appendEntry(dst []byte, e *Entry, previousTerm uint64) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(e.Data)))
	dst = binary.AppendUvarint(dst, e.Term-previousTerm)
	dst = append(dst, byte(e.Type))
	dst = binary.AppendUvarint(dst, uint64(len(e.Ext)))
	dst = append(dst, e.Ext...)
	return append(dst, e.Data...)
}

var errEntryBytes = errors.New("entry does not decode")

// An entryDecoder walks the entries of one uncompressed payload. Ext and Data of what it hands out
// alias the payload.
type entryDecoder struct {
	rest []byte
	next Index
	term uint64
}

func (d *entryDecoder) done() bool { return len(d.rest) == 0 }

func (d *entryDecoder) entry() (Entry, error) {
	dataBytes, err := d.uvarint()
	if err != nil {
		return Entry{}, err
	}
	delta, err := d.uvarint()
	if err != nil {
		return Entry{}, err
	}
	if len(d.rest) == 0 {
		return Entry{}, errEntryBytes
	}
	typ := EntryType(d.rest[0])
	d.rest = d.rest[1:]
	extBytes, err := d.uvarint()
	if err != nil {
		return Entry{}, err
	}
	have := uint64(len(d.rest))
	if extBytes > have || dataBytes > have-extBytes {
		return Entry{}, errEntryBytes
	}
	d.term += delta
	e := Entry{Index: d.next, Term: d.term, Type: typ}
	e.Ext, d.rest = d.rest[:extBytes:extBytes], d.rest[extBytes:]
	e.Data, d.rest = d.rest[:dataBytes:dataBytes], d.rest[dataBytes:]
	d.next++
	return e, nil
}

func (d *entryDecoder) uvarint() (uint64, error) {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		return 0, errEntryBytes
	}
	d.rest = d.rest[n:]
	return v, nil
}
