package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// MaxStableBytes is the most that SetStable keeps.
const MaxStableBytes = headerBytes - 64 - 4

const (
	metaMagic = "haremet\n"
	metaSlots = 2
)

// metaState is what one slot of the meta file says. Layout, little-endian; the rest is zero:
//
//	   0  magic "haremet\n"
//	   8  u32 format version
//	  16  u64 sequence: the higher of two valid slots counts
//	  24  16 bytes identity
//	  40  u64 salt of the checksums
//	  48  u32 number of the first segment that is still part of the log, 0 when none was made yet
//	  52  u32 number of the last one
//	  56  u32 length of the stable bytes
//	  64  stable bytes
//	4092  u32 CRC32C over the page before it
type metaState struct {
	sequence     uint64
	identity     [16]byte
	salt         uint64
	firstSegment uint32
	lastSegment  uint32
	stable       []byte
}

func (m *metaState) encode(b []byte) {
	clear(b[:headerBytes])
	le := binary.LittleEndian
	copy(b, metaMagic)
	le.PutUint32(b[8:], formatVersion)
	le.PutUint64(b[16:], m.sequence)
	copy(b[24:], m.identity[:])
	le.PutUint64(b[40:], m.salt)
	le.PutUint32(b[48:], m.firstSegment)
	le.PutUint32(b[52:], m.lastSegment)
	le.PutUint32(b[56:], uint32(len(m.stable)))
	copy(b[64:], m.stable)
	putPageCRC(b)
}

func parseMeta(b []byte) (metaState, error) {
	if err := checkPage(b, metaMagic); err != nil {
		return metaState{}, err
	}
	le := binary.LittleEndian
	m := metaState{
		sequence:     le.Uint64(b[16:]),
		salt:         le.Uint64(b[40:]),
		firstSegment: le.Uint32(b[48:]),
		lastSegment:  le.Uint32(b[52:]),
	}
	copy(m.identity[:], b[24:40])
	n := le.Uint32(b[56:])
	if n > MaxStableBytes || m.firstSegment > m.lastSegment || (m.firstSegment == 0) != (m.lastSegment == 0) {
		return metaState{}, errors.New("fields contradict each other")
	}
	m.stable = append([]byte(nil), b[64:64+n]...)
	return m, nil
}

// readMeta gives the newer of the two slots and which it was. A log always has one that is valid: an
// update writes and syncs one slot before it touches the other.
func readMeta(fs vfs.FS, path string) (m metaState, slot int, err error) {
	f, err := fs.Open(path)
	if err != nil {
		return metaState{}, 0, err
	}
	buf := make([]byte, metaSlots*headerBytes)
	n, err := f.ReadAt(buf, 0)
	if err == io.EOF {
		err = nil // a short file fails by its checksums
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return metaState{}, 0, fmt.Errorf("wal: read meta: %w", err)
	}
	slot = -1
	var bad [metaSlots]error
	for i := range metaSlots {
		page := buf[min(n, i*headerBytes):min(n, (i+1)*headerBytes)]
		s, err := parseMeta(page)
		if errors.Is(err, ErrVersion) {
			return metaState{}, 0, fmt.Errorf("wal: meta slot %d: %w", i, err)
		}
		bad[i] = err
		if err == nil && (slot < 0 || s.sequence > m.sequence) {
			m, slot = s, i
		}
	}
	if slot < 0 {
		return metaState{}, 0, &CorruptionError{File: metaName, Offset: 0, Reason: fmt.Sprintf("no valid slot: %v; %v", bad[0], bad[1])}
	}
	return m, slot, nil
}

// A metaFile is the open meta file. An update is written to both slots, each synced before the next is
// touched, so that one slot may be torn or rot later without an acknowledged update being lost. (With
// slots that merely alternate, a rotten newer slot would bring back the older state, such as a vote
// that was already given away.)
type metaFile struct {
	file vfs.File

	mu     sync.Mutex // held across the writes: updates are rare and must not mix
	state  metaState
	newest int // a slot that holds state durably; the other one is written first
	page   [headerBytes]byte
	closed bool
}

// close ends updates, of which one that is under way is waited for.
func (m *metaFile) close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return m.file.Close()
}

// update changes the state and makes it durable. After an error, but for ErrClosed, the file must not be used again.
func (m *metaFile) update(change func(*metaState)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return ErrClosed
	}
	next := m.state
	change(&next)
	next.sequence++
	next.encode(m.page[:])
	for _, slot := range [metaSlots]int{1 - m.newest, m.newest} {
		if err := writeFull(m.file, m.page[:], int64(slot)*headerBytes); err != nil {
			return fmt.Errorf("write meta: %w", err)
		}
		if err := m.file.SyncData(); err != nil {
			return fmt.Errorf("sync meta: %w", err)
		}
	}
	m.state = next
	return nil
}

func (m *metaFile) get() metaState {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

// createMeta makes the first meta file under another name and moves it into place, so that a meta file
// without a valid slot is always damage and never an unfinished start.
func createMeta(d directory, m metaState) error {
	path := d.path(metaName)
	f, err := d.fs.Create(path+tempSuffix, vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("wal: create meta: %w", err)
	}
	buf := make([]byte, metaSlots*headerBytes)
	for i := range metaSlots {
		m.encode(buf[i*headerBytes:])
	}
	err = writeFull(f, buf, 0)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("wal: create meta: %w", err)
	}
	if err := d.fs.Rename(path+tempSuffix, path); err != nil {
		return fmt.Errorf("wal: create meta: %w", err)
	}
	return d.sync()
}

func openMeta(d directory, m metaState, newest int) (*metaFile, error) {
	f, err := d.fs.OpenReadWrite(d.path(metaName), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, fmt.Errorf("wal: open meta: %w", err)
	}
	return &metaFile{file: f, state: m, newest: newest}, nil
}
