package raftstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/harepost/harepost/wal"
)

// ErrKeyNotFound is what Get and GetUint64 give for a key that was never set. raft knows it by its text.
var ErrKeyNotFound = errors.New("not found")

const (
	stableVersion = 1

	// MaxKeyBytes and MaxValueBytes bound what Set takes. raft's keys are CurrentTerm, LastVoteTerm and
	// LastVoteCand; the longest value is the address of a node.
	MaxKeyBytes   = 64
	MaxValueBytes = 1 << 10
)

// stable is what raft keeps beside its log. All of it is written anew with each change, which is one page
// of the log's meta file:
//
//	byte     version, 1
//	uvarint  number of keys, then for each, in their order:
//	uvarint  length of the key, 1 to MaxKeyBytes
//	bytes    key
//	uvarint  length of the value, at most MaxValueBytes
//	bytes    value
//
// No bytes at all: no keys.
type stable struct {
	mu     sync.Mutex // held across the write: it is of one page, and raft writes from one goroutine
	values map[string][]byte
}

func (t *stable) load(b []byte) error {
	values, err := decodeStable(b)
	if err != nil {
		return fmt.Errorf("raftstore: read the stable values: %w", err)
	}
	t.values = values
	return nil
}

func encodeStable(values map[string][]byte) []byte {
	b := []byte{stableVersion}
	b = binary.AppendUvarint(b, uint64(len(values)))
	for _, k := range slices.Sorted(maps.Keys(values)) {
		b = appendBytes(appendBytes(b, []byte(k)), values[k])
	}
	return b
}

func appendBytes(dst, b []byte) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(b))), b...)
}

var errStableBytes = errors.New("they do not decode")

func decodeStable(b []byte) (map[string][]byte, error) {
	values := map[string][]byte{}
	if len(b) == 0 {
		return values, nil
	}
	if b[0] != stableVersion {
		return nil, fmt.Errorf("%w: they have version %d, known is %d", wal.ErrVersion, b[0], stableVersion)
	}
	n, rest, err := takeUvarint(b[1:])
	if err != nil {
		return nil, err
	}
	previous := ""
	for range n {
		var key, value []byte
		if key, rest, err = takeBytes(rest, MaxKeyBytes); err != nil {
			return nil, err
		}
		if value, rest, err = takeBytes(rest, MaxValueBytes); err != nil {
			return nil, err
		}
		if string(key) <= previous {
			return nil, fmt.Errorf("%w: key %q is empty or stands behind %q", errStableBytes, key, previous)
		}
		previous = string(key)
		values[previous] = append([]byte{}, value...)
	}
	if len(rest) > 0 {
		return nil, fmt.Errorf("%w: %d bytes are left", errStableBytes, len(rest))
	}
	return values, nil
}

func takeUvarint(b []byte) (v uint64, rest []byte, err error) {
	v, n := binary.Uvarint(b)
	if n <= 0 {
		return 0, nil, errStableBytes
	}
	return v, b[n:], nil
}

func takeBytes(b []byte, most uint64) (value, rest []byte, err error) {
	n, rest, err := takeUvarint(b)
	if err != nil {
		return nil, nil, err
	}
	if n > most || n > uint64(len(rest)) {
		return nil, nil, errStableBytes
	}
	return rest[:n], rest[n:], nil
}

// Set keeps a value, synced before it returns. Both are copied. An empty key, and more bytes than fit
// (MaxKeyBytes, MaxValueBytes, and what wal.MaxStableBytes leaves for all together), are an error that changes
// nothing; any other failure is the end of the store, see the package comment.
func (s *Store) Set(key, value []byte) error {
	if len(key) == 0 || len(key) > MaxKeyBytes || len(value) > MaxValueBytes {
		return fmt.Errorf("raftstore: set %.64q: %d bytes of key and %d of value, 1 to %d and at most %d are possible",
			key, len(key), len(value), MaxKeyBytes, MaxValueBytes)
	}
	refused, failed := s.set(string(key), append([]byte{}, value...))
	if failed != nil {
		return s.stop(fmt.Errorf("set %q: %w", key, failed))
	}
	return refused
}

// set gives two errors: one that changes nothing, and one that is the end.
func (s *Store) set(key string, value []byte) (refused, failed error) {
	t := &s.stable
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := s.Err(); err != nil {
		return nil, err
	}
	values := maps.Clone(t.values)
	values[key] = value
	b := encodeStable(values)
	if len(b) > wal.MaxStableBytes {
		return fmt.Errorf("raftstore: set %q: %d bytes of stable values, at most %d fit", key, len(b), wal.MaxStableBytes), nil
	}
	if err := s.log.SetStable(b); err != nil {
		return nil, err
	}
	if err := s.Err(); err != nil {
		return nil, err // elsewhere, meanwhile: nothing is acknowledged any more
	}
	t.values = values
	return nil, nil
}

// Get gives a copy of a value, or ErrKeyNotFound.
func (s *Store) Get(key []byte) ([]byte, error) {
	t := &s.stable
	t.mu.Lock()
	defer t.mu.Unlock()
	value, ok := t.values[string(key)]
	if !ok {
		return nil, ErrKeyNotFound
	}
	return append([]byte{}, value...), nil
}

// SetUint64 is Set for a number, in 8 bytes, big-endian.
func (s *Store) SetUint64(key []byte, value uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, value))
}

// GetUint64 gives a number that SetUint64 kept, or ErrKeyNotFound.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	value, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, fmt.Errorf("raftstore: the value of %q is no number, it has %d bytes", key, len(value))
	}
	return binary.BigEndian.Uint64(value), nil
}
