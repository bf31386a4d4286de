package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/harepost/harepost/engine/backup"
)

// backupDir is where a backup is put together, inside the engine's directory.
const backupDir = "backup.tmp"

// backupFlushWait bounds how long a backup waits for a flush.
const backupFlushWait = 5 * time.Second

// A Backup is a copy of all that the engine holds, as of one index of the log:
// what was acknowledged before Backup was called is in it, with every attempt
// that was on record. It is made of hard links to the state's files and a copy of
// the log from where those need it, so that it costs little room at first, and
// more the longer it is kept open: what it links is not freed meanwhile.
type Backup struct {
	// Manifest goes into the backup; the owner may set the version.
	Manifest backup.Manifest

	engine *Engine
	files  []backupFile
	close  sync.Once
	err    error
}

type backupFile struct {
	name string // in the backup
	path string
	size int64
}

// backups is the one backup that may be open, and what it holds back.
type backups struct {
	open sync.Mutex // held while a Backup is open

	mu      sync.Mutex
	holding bool
	low     uint64 // what the log was asked to let go of meanwhile
}

// Backup makes a backup of what is there now. Nothing waits for it: sends and
// deliveries go on. Errors: ErrBackupRunning while another is open; ErrClosed; or
// what the disk said, with which nothing is left behind. The Backup must be
// closed.
func (e *Engine) Backup(ctx context.Context) (*Backup, error) {
	if err := e.reads.begin(); err != nil {
		return nil, err
	}
	defer e.reads.end()
	if err := e.ended(); err != nil {
		return nil, err
	}
	if !e.backups.open.TryLock() {
		return nil, ErrBackupRunning
	}
	b := &Backup{engine: e}
	err := e.removeBackup() // a crash may have left one
	if err == nil {
		err = b.collect(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("engine: backup: %w", err), b.Close())
	}
	return b, nil
}

// collect takes the state first and the log after it: a log that is newer than
// the state is what a crash leaves, and a start knows how to go on from there.
func (b *Backup) collect(ctx context.Context) error {
	e, fs := b.engine, b.engine.opts.FS
	dir := fs.PathJoin(e.dir, backupDir)
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	e.backups.hold()
	defer e.letGo()
	// Not needed for the backup to be whole, but what is flushed needs no log. On
	// a full disk it would never end.
	flushing, cancel := context.WithTimeout(ctx, backupFlushWait)
	defer cancel()
	if err := e.state().FlushContext(flushing); err != nil && flushing.Err() == nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	_, low, err := e.state().Checkpoint(fs.PathJoin(dir, stateDir))
	if err != nil {
		return err
	}
	last, err := e.log.CopyTo(fs.PathJoin(dir, walDir), low)
	if err != nil {
		return err
	}
	b.Manifest = backup.Manifest{CreatedAt: e.now(), Index: last, Encrypted: e.opts.Keyring != nil}
	return errors.Join(b.list(fs, dir, stateDir, backup.StateDir), b.list(fs, dir, walDir, backup.LogDir))
}

// lockName is what both stores call the file that keeps others out.
const lockName = "LOCK"

func (b *Backup) list(fs vfs.FS, dir, from, as string) error {
	from = fs.PathJoin(dir, from)
	names, err := fs.List(from)
	if err != nil {
		return err
	}
	for _, name := range names {
		if name == lockName {
			continue
		}
		f := backupFile{name: as + "/" + name, path: fs.PathJoin(from, name)}
		info, err := fs.Stat(f.path)
		if err != nil {
			return err
		}
		f.size = info.Size()
		b.files = append(b.files, f)
	}
	return nil
}

// Bytes is the size of what is in the backup.
func (b *Backup) Bytes() (n int64) {
	for _, f := range b.files {
		n += f.size
	}
	return n
}

// Write writes the backup in the form of package backup. On error, also that of
// ctx and ErrClosed when the engine ends, what was written is none, and can be
// told from one.
func (b *Backup) Write(ctx context.Context, w io.Writer) error {
	bw, err := backup.NewWriter(w, b.Manifest)
	if err != nil {
		return err
	}
	for _, f := range b.files {
		if err := b.add(ctx, bw, f); err != nil {
			return err
		}
	}
	return bw.Close()
}

func (b *Backup) add(ctx context.Context, w *backup.Writer, f backupFile) (err error) {
	file, err := b.engine.opts.FS.Open(f.path, vfs.SequentialReadsOption)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return w.Add(f.name, f.size, &interruptible{file, ctx, b.engine})
}

// interruptible reads until its caller or the engine has had enough.
type interruptible struct {
	io.Reader
	ctx    context.Context
	engine *Engine
}

func (r *interruptible) Read(p []byte) (int, error) {
	if err := errors.Join(r.ctx.Err(), r.engine.ended()); err != nil {
		return 0, err
	}
	return r.Reader.Read(p)
}

// Close removes what the backup was put together from. It may be called twice.
func (b *Backup) Close() error {
	b.close.Do(func() {
		b.err = b.engine.removeBackup()
		b.engine.backups.open.Unlock()
	})
	return b.err
}

func (e *Engine) removeBackup() error {
	if err := e.opts.FS.RemoveAll(e.opts.FS.PathJoin(e.dir, backupDir)); err != nil {
		return fmt.Errorf("engine: remove %s: %w", backupDir, err)
	}
	return nil
}

// hold keeps the log from letting go of anything.
func (b *backups) hold() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.holding, b.low = true, 0
}

// held notes what the log need not keep, and reports whether it must for now.
func (b *backups) held(low uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.holding {
		b.low = max(b.low, low)
	}
	return b.holding
}

// letGo ends hold.
func (e *Engine) letGo() {
	b := &e.backups
	b.mu.Lock()
	low := b.low
	b.holding, b.low = false, 0
	b.mu.Unlock()
	if low > 0 {
		e.release(0, low)
	}
}
