// Package wal is the write-ahead log: it makes entries durable, many at a time, and gives them back
// after a restart.
//
//	log, err := wal.Open(dir, wal.Options{AppliedIndex: applied, Committed: ..., Failed: ...})
//	err = log.Replay(applied+1, apply) // bring the state up to the log
//	log.Start()
//	err = log.Append(wal.Entry{...})   // returns at once; Committed tells when it is durable
//	err = log.TruncateFront(flushed+1) // when the state has what is below
//	e, err := log.Cursor().Read(i)     // any entry, best one after the other
//	err = log.Close()
//
// # What it guarantees
//
// An entry that Committed has seen is there after any crash, kill or power cut, at the same index, with
// the same bytes. Entries are committed in the order in which they were appended, without gaps. What was
// appended and not yet committed when the process ends is there or not, as a prefix of what was waiting.
//
// Damage is found and never skipped: Open either gives the whole log or refuses, with the file and the
// offset. The one thing it drops is the torn tail, that is, what the last, never acknowledged write left
// behind. It knows it by this: one write is outstanding at a time, each frame says how far the segment
// was synced when it was built, and so a bad place that a later frame calls synced, that lies in a
// segment which another follows, or that holds entries which the state has applied (AppliedIndex), was
// acknowledged. What remains is damage to the very last commit of a log that had no time for even one
// more frame; an idle log writes a mark to close that gap.
//
// The first failed write, sync, allocation or directory operation ends the log for good (ErrFailed). It
// is not tried again, because kernels report success the second time and have lost the bytes. What was
// waiting is unknown. The next Open copies whatever it reads beyond the last proven sync into a new,
// synced segment before it trusts it. It does so after every stop, not only when the note of a failure
// (the file DIR.FAILED beside the log's directory) is there: the note is written to a disk that just
// failed, and a tail is at most one commit long.
//
// The disk is trusted in one point: to write a sector anew with the same bytes in part of it does not
// lose these when the power goes.
//
// # What it refuses
//
// Two owners (ErrLocked), another identity (ErrIdentity), a newer format (ErrVersion), a log that ends
// before the state does (ErrBehind), a full queue (ErrQueueFull).
//
// # Goroutines
//
// Start begins two, Close ends both. The writer owns the active segment; Append wakes it, and it calls
// Committed, Observe and Failed. The preparer keeps one zero-filled segment file ready and recycles those
// that TruncateFront gave up; the writer taking one, or TruncateFront, wakes it. If the disk is too full
// for the next segment, NoSpace says so while the active one still has room.
//
// # Files
//
//	LOCK                             held while the log is open
//	meta                             identity, first and last segment, the bytes of SetStable
//	00000000000000000001-00000001.wal   segment 1, begins with entry 1
//	00000000000000004212-00000002.wal   segment 2, begins with entry 4212
//	00000003.spare                   prepared or recycled, no part of the log
//
// A segment is written only in the life of the process that began it. After a restart the first append
// begins the next one, however empty the last one was: so nothing is ever written where a torn write may
// have left pieces. Its header says at which offset, and with which checksum, the segment before it
// ends; what lies beyond is void. That makes every segment but the newest exact to the byte, and it
// makes recovery's copy of the tail, and a truncation, take effect at one point in time: when meta
// names the new segment, after its header, its name and the directory were synced.
//
// Segments are numbered without gaps, and meta has the first and the last number. A missing one is
// therefore known, at either end and in the middle. Files below the first are garbage of a truncation.
// One file above the last may be there: a segment that was being made when the process stopped.
//
// # Bytes
//
// All numbers are little-endian, all checksums CRC32C. FORMAT.md has the layout of each structure, with
// an example.
//
// # Where this differs from its models
//
// The frames follow LevelDB's and Pebble's record log (the synced offset, the checksum tied to the file)
// and etcd's (checksums chained, segments prepared ahead). Different here: the frame's seed has a secret
// salt beside the segment number (see frameSeed); meta's two slots hold the same state instead of
// alternating (see metaFile); a new segment per life instead of an append behind the tail.
package wal
