package wal

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A writer turns what waits into frames: one write, one sync, one call of Committed, and then whatever
// came in the meantime. While the disk works, the next batch forms; a timer there is only for what nobody
// waits for, see Options.Later.
//
// It begins a segment of its own and never writes into one of an earlier life: behind the last valid
// frame there may be pieces of a torn write, and a new frame of the right length would bring them back.
type writer struct {
	l *Log

	file    vfs.File // the active segment, nil before the first write of this life
	segment *segment
	seed    uint32
	limit   int64 // frames of entries end here; the seal has its place behind
	end     int64 // where the next frame goes
	synced  int64 // what the next frame may promise
	crc     uint32
	marked  bool // nothing was written since the last mark

	spare  []Entry // the queue's other half
	frame  []byte  // header room and payload, raw
	packed []byte  // the same, compressed
	table  []byte  // the same, of a seal
}

func (w *writer) run() {
	for {
		batch, r, ok := w.take()
		if !ok {
			return
		}
		if err := w.work(batch, r); err != nil {
			w.l.fail(err)
		}
	}
}

// work commits a batch and then executes a truncation, if there is one.
func (w *writer) work(batch []Entry, r *request) error {
	for rest := batch; len(rest) > 0; {
		n, err := w.commit(rest)
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	w.keep(batch)
	if r == nil {
		return nil
	}
	return w.truncate(r)
}

// keepEntries bounds the memory of a queue that was once long.
const keepEntries = 64 << 10

func (w *writer) keep(batch []Entry) {
	if cap(batch) <= keepEntries {
		w.spare = batch[:0]
	}
}

// take waits for something to do: entries that somebody waits for, a truncation, or that Later has passed
// since there was something else. When nothing came meanwhile it writes the mark; when the log closes or has
// failed it puts things in order and answers false.
func (w *writer) take() ([]Entry, *request, bool) {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		switch {
		case l.failed != nil:
			l.mu.Unlock()
			l.bury()
			l.mu.Lock()
			return nil, nil, false
		case len(l.queue) > 0 && (l.urgent || l.due || l.closing) || l.request != nil:
			w.yieldLocked()
			batch := l.queue
			l.queue, w.spare = w.spare, nil
			l.urgent, l.due = false, false
			return batch, l.request, true
		case len(l.queue) == 0 && w.file != nil && (!w.marked && (l.due || l.closing) || l.closing && w.synced < w.end):
			closing := l.closing
			l.due = false
			l.mu.Unlock()
			if err := w.mark(closing); err != nil {
				l.fail(err)
			}
			l.mu.Lock()
		case l.closing:
			l.idle = true
			l.wakeLocked()
			return nil, nil, false
		default:
			if len(l.queue) == 0 && w.file != nil && !w.marked {
				l.later.Reset(l.o.Later)
			}
			l.work.Wait()
		}
	}
}

// mostYields bounds how often the writer steps back before it takes a batch.
const mostYields = 4

// yieldLocked lets the goroutines that are ready to run go first, while that brings more entries. On a
// busy machine many of them are about to append, and a frame costs a write, a sync and the wake-ups after
// it, whatever its size: so batches are larger just when CPU is what is short. There is no timer in it;
// where nobody else is ready it costs a fraction of a microsecond.
func (w *writer) yieldLocked() {
	l := w.l
	for range mostYields {
		before := len(l.queue)
		l.mu.Unlock()
		runtime.Gosched()
		l.mu.Lock()
		if len(l.queue) == before {
			return
		}
	}
}

// commit makes as many entries durable as fit into one frame, and answers how many.
func (w *writer) commit(batch []Entry) (int, error) {
	n, waited := w.gather(batch)
	frame, h := w.pack(batch[:n])
	need := frameBytes(len(frame) - frameHeaderBytes)
	if w.file == nil || w.end+need > w.limit {
		if err := w.rotate(batch[0].Index, need); err != nil {
			return 0, err
		}
	}
	off := w.end
	c := Commit{Entries: n, RawBytes: int64(h.rawBytes), StoredBytes: need}
	if err := w.write(frame, &h, &c); err != nil {
		return 0, err
	}
	if err := w.publish(batch[n-1].Index, off); err != nil {
		return 0, err
	}
	w.l.o.Observe(c)
	w.l.o.Committed(batch[:n])
	w.l.release(waited)
	clear(batch[:n]) // what they point to is the caller's again
	if most := 4 * w.l.o.FrameBytes; cap(w.frame) > most || cap(w.packed) > most {
		w.frame, w.packed = nil, nil // a very large entry went by
	}
	return n, nil
}

// gather encodes entries up to FrameBytes, at least one, into w.frame.
func (w *writer) gather(batch []Entry) (n int, queueBytes int64) {
	w.frame = append(w.frame[:0], make([]byte, frameHeaderBytes)...)
	var term uint64
	for n < len(batch) && n < math.MaxInt32 {
		e := &batch[n]
		if n > 0 && int64(len(w.frame))+e.bytes()+maxEntryOverheadBytes > int64(w.l.o.FrameBytes) {
			break
		}
		w.frame = appendEntry(w.frame, e, term)
		term = e.Term
		queueBytes += e.queueBytes()
		n++
	}
	return n, queueBytes
}

// pack stores w.frame's payload the shorter way and completes all of the header but its place.
func (w *writer) pack(batch []Entry) ([]byte, frameHeader) {
	h := frameHeader{kind: kindEntries, first: batch[0].Index, count: uint32(len(batch)),
		rawBytes: uint32(len(w.frame) - frameHeaderBytes)}
	b := w.frame
	if w.l.o.Compression != CompressionNone {
		packed, smaller := compressFrame(w.packed, w.frame)
		if w.packed = packed; smaller {
			b, h.codec = packed, codecS2
		}
	}
	return b, h
}

// write puts a frame (h and the payload in b) at the end of the segment and syncs it.
func (w *writer) write(b []byte, h *frameHeader, c *Commit) error {
	begin := time.Now()
	if err := w.put(b, h); err != nil {
		return err
	}
	written := time.Now()
	if err := w.sync(); err != nil {
		return err
	}
	if c != nil {
		c.Write, c.Sync = written.Sub(begin), time.Since(written)
	}
	return nil
}

func (w *writer) put(b []byte, h *frameHeader) error {
	h.synced, h.previous = w.synced, w.crc
	b, crc := finishFrame(b, h, w.seed)
	if err := writeFull(w.file, b, w.end); err != nil {
		return fmt.Errorf("write segment %d: %w", w.segment.number, err)
	}
	w.end += int64(len(b))
	w.crc = crc
	w.marked = h.kind == kindMark
	return nil
}

func (w *writer) sync() error {
	if err := w.file.SyncData(); err != nil {
		return fmt.Errorf("sync segment %d: %w", w.segment.number, err)
	}
	w.synced = w.end
	return nil
}

// mark writes that everything so far is synced, when there is nothing else to do: from then on damage
// to the last commit is told from a torn write. It is not synced by itself. If a power cut takes it,
// the commit before it is whole (it was synced), and a mark is only needed when it is not; and the
// kernel writes it within its half minute, or with the next commit. So it costs an idle log 40 bytes
// and no latency. Only the one of Close is synced.
func (w *writer) mark(sync bool) error {
	if !w.marked {
		var b [frameHeaderBytes]byte
		w.l.mu.Lock()
		h := &frameHeader{kind: kindMark, first: w.l.next}
		w.l.mu.Unlock()
		if err := w.put(b[:], h); err != nil {
			return err
		}
	}
	if !sync {
		return nil
	}
	return w.sync()
}

// publish makes a durable frame visible, unless the log failed elsewhere meanwhile: after that nothing
// is acknowledged.
func (w *writer) publish(last Index, off int64) error {
	l := w.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.failed != nil {
		return l.failed
	}
	s := w.segment
	s.points = addPoint(s.points, l.next, off)
	s.last, s.end, s.crc = last, w.end, w.crc
	l.next = last + 1
	return nil
}

func (l *Log) release(bytes int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.queueBytes -= bytes
	if l.waiting > 0 {
		l.room.Broadcast()
	}
}

// rotate ends the active segment and begins the next, with room for a frame of need bytes. When it
// returns, the new segment is there after any crash: header synced, then the name, then the directory,
// then meta, which is what makes it part of the log.
func (w *writer) rotate(first Index, need int64) error {
	l := w.l
	open := w.file != nil
	if err := w.seal(); err != nil {
		return err
	}
	h := l.nextHeader(first)
	if open {
		h.previousEnd, h.previousCRC = w.end, w.crc // the seal included
	}
	spare, err := l.takeSpare(need)
	if err != nil {
		return err
	}
	return w.begin(spare, h, nil)
}

// seal closes the active segment, with its offset table if a truncation did not end it already.
func (w *writer) seal() error {
	if w.file == nil {
		return nil
	}
	if !w.segment.cutShort {
		w.table = append(w.table[:0], make([]byte, frameHeaderBytes)...)
		w.table = appendTable(w.table, w.segment.points)
		n := uint32(len(w.table) - frameHeaderBytes)
		w.l.mu.Lock()
		h := &frameHeader{kind: kindSeal, first: w.l.next, rawBytes: n}
		w.l.mu.Unlock()
		if err := w.write(w.table, h, nil); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	if err := w.close(); err != nil {
		return fmt.Errorf("close segment %d: %w", w.segment.number, err)
	}
	return nil
}

// nextHeader is that of the segment after the newest, where its last entries end.
func (l *Log) nextHeader(first Index) *segmentHeader {
	h := &segmentHeader{version: formatVersion, number: 1, first: first, identity: l.identity, salt: l.salt, created: l.o.Now()}
	l.mu.Lock()
	defer l.mu.Unlock()
	if n := len(l.segments); n > 0 {
		s := l.segments[n-1]
		h.number, h.previous, h.previousEnd, h.previousCRC = s.number+1, s.number, s.end, s.crc
	}
	return h
}

// begin makes a prepared file the newest segment. fill, if not nil, writes its first frames, which are
// synced together with the header.
func (w *writer) begin(spare *spare, h *segmentHeader, fill func() error) error {
	l := w.l
	if h.number == 0 {
		return fmt.Errorf("segment numbers are used up")
	}
	page := make([]byte, headerBytes)
	h.encode(page)
	w.file, w.seed = spare.file, frameSeed(h.salt, h.number)
	w.end, w.synced, w.crc, w.marked = headerBytes, headerBytes, h.crc, true
	w.limit = spare.bytes - endReserveBytes(spare.bytes)
	w.segment = &segment{number: h.number, name: h.fileName(), start: h.first, last: h.first - 1,
		end: headerBytes, crc: h.crc, bytes: spare.bytes}
	if err := writeFull(w.file, page, 0); err != nil {
		return fmt.Errorf("write header of segment %d: %w", h.number, err)
	}
	if fill != nil {
		if err := fill(); err != nil {
			return err
		}
	}
	if err := w.file.SyncData(); err != nil {
		return fmt.Errorf("sync header of segment %d: %w", h.number, err)
	}
	w.synced = w.end
	if err := l.d.fs.Rename(l.d.path(spare.name), l.d.path(w.segment.name)); err != nil {
		return fmt.Errorf("name segment %d: %w", h.number, err)
	}
	if err := l.d.sync(); err != nil {
		return err
	}
	if err := l.meta.update(func(m *metaState) {
		m.lastSegment = h.number
		m.firstSegment = max(m.firstSegment, 1)
	}); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.segments = append(slices.Clip(l.segments), w.segment)
	return nil
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	f := w.file
	w.file = nil
	return f.Close()
}
