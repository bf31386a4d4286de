package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/harepost/harepost/engine/backup"
)

type restoreCmd struct {
	File string `arg:"" help:"The backup; - is standard input."`
	Dir  string `arg:"" help:"The data directory to make, or to fill if it is there. It must be empty; the lost+found of a volume does not count."`
	JSON bool   `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// Help is shown by kong under the usage line.
func (c *restoreCmd) Help() string {
	return `The data appears in DIR only when all of the backup is there, fits to its checksums, was read like check does, and is on disk. Until then it is in DIR/.restoring if DIR is there (the root of a volume, a link), else in DIR.restoring beside it: an interrupted restore may leave that, no server starts on it, and the next restore replaces it.

Then: harepost serve --data-dir DIR, with the --encryption-key-file that the server had. Run restore as the user that the server runs as. What was delivered after the backup was taken is pending in it again, if it was pending then.`
}

// restoringSuffix names what is being restored: a directory beside the data
// directory, or one inside it.
const restoringSuffix = ".restoring"

// Run makes a data directory of the backup.
func (c *restoreCmd) Run(sh *shell) error {
	if c.Dir == "" {
		return usagef("the name of DIR is empty")
	}
	r, err := planRestore(filepath.Clean(c.Dir))
	if err != nil {
		return err
	}
	in, err := openInput(sh, c.File)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer in.Close()
	lock, err := r.begin()
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	defer lock.Close()
	seen, err := r.unpack(sh.ctx, in)
	if err != nil {
		err = errors.Join(fmt.Errorf("restore: %w", err), os.RemoveAll(r.unfinished))
		if sh.ctx.Err() != nil {
			return fmt.Errorf("%w: nothing was restored", errInterrupted)
		}
		return err
	}
	if err := r.finish(); err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	if c.JSON {
		return printJSON(sh.out, seen.Manifest)
	}
	fmt.Fprintf(sh.out, "%s  %s in %d files, as of log index %d of %s\n", painterFor(sh.out).bold(r.dir),
		bytesText(seen.Bytes), seen.Files, seen.Manifest.Index, seen.Manifest.CreatedAt.Format(time.RFC3339))
	if seen.Manifest.Encrypted {
		fmt.Fprintln(sh.err, "It is encrypted: serve it with the --encryption-key-file that the server had.")
	}
	return nil
}

func openInput(sh *shell, file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(sh.in), nil
	}
	return os.Open(file)
}

// A restoration makes a data directory. One that is there already is filled, and
// not replaced: it may be the root of a volume or a link, its parent may be read-only,
// and it has the owner that it should have.
//
//	dir is absent   dir.restoring/{state,wal}  ──> dir, one rename
//	dir is there    dir/.restoring/{state,wal} ──> dir/wal, then dir/state
//
// In the second way a crash may come between the renames. Until both are made,
// .restoring has what dir lacks: restoreInterrupted is then true, and no server
// starts on it.
type restoration struct {
	dir        string
	unfinished string // where it is made, on the same file system
	fills      bool   // dir is there
}

// planRestore refuses what cannot be filled. It changes nothing.
func planRestore(dir string) (restoration, error) {
	info, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := os.Lstat(dir); err == nil {
			return restoration{}, usagef("%s is a link to nothing", dir)
		}
		return restoration{dir, dir + restoringSuffix, false}, nil
	}
	if err != nil {
		return restoration{}, fmt.Errorf("restore: %w", err)
	}
	if !info.IsDir() {
		return restoration{}, usagef("%s is not a directory", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return restoration{}, fmt.Errorf("restore: %w", err)
	}
	for _, e := range entries {
		switch name := e.Name(); {
		case name == lostFound, name == restoringSuffix:
		case name == walDir && restoredHalf(dir):
		default:
			return restoration{}, usagef("%s is not empty: restore goes into a directory of its own, nothing is ever overwritten", dir)
		}
	}
	return restoration{dir, filepath.Join(dir, restoringSuffix), true}, nil
}

// begin makes the directories, so that where nothing can be written it is known
// before the backup is read. The lock keeps other restores away until it is
// closed.
func (r restoration) begin() (lock *os.File, err error) {
	info, err := os.Lstat(r.unfinished)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = makeDir(r.unfinished)
	case err == nil && !info.IsDir():
		err = fmt.Errorf("%s is not a directory", r.unfinished)
	}
	if err != nil {
		return nil, err
	}
	if lock, err = lockDataDir(r.unfinished); err != nil {
		return nil, fmt.Errorf("another restore is at work: %w", err)
	}
	if err = r.clear(); err == nil {
		err = errors.Join(makeDir(r.part(stateDir)), makeDir(r.part(walDir)))
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// clear removes what an interrupted restore left. What it had moved goes first:
// without it the rest still says that there was a restore.
func (r restoration) clear() error {
	if r.fills && restoredHalf(r.dir) {
		if err := os.RemoveAll(filepath.Join(r.dir, walDir)); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(r.unfinished)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(r.part(e.Name())))
	}
	return err
}

func (r restoration) part(name string) string { return filepath.Join(r.unfinished, name) }

// unpack writes the backup's files, synced, and reads them as check would: the
// checksums say that they are what the server sent, and this that a server can
// start on them.
func (r restoration) unpack(ctx context.Context, from io.Reader) (backup.Summary, error) {
	seen, err := backup.Read(interruptible{ctx, from}, func(name string) (io.WriteCloser, error) {
		f, err := os.OpenFile(r.part(filepath.FromSlash(name)), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return nil, err
		}
		return syncedFile{f}, nil
	})
	for _, dir := range []string{r.part(stateDir), r.part(walDir), r.unfinished} {
		if err == nil {
			err = syncDir(dir)
		}
	}
	if err != nil {
		return seen, err
	}
	report, err := inspect(ctx, r.unfinished)
	if err == nil && len(report.Damage) > 0 {
		err = fmt.Errorf("a server would not start on it: %s", report.Damage[0])
	}
	return seen, errors.Join(err, ctx.Err())
}

// A syncedFile is on disk when it is closed.
type syncedFile struct{ *os.File }

// Close syncs and closes.
func (f syncedFile) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// finish gives what was restored its names. Each is on disk before the next: the
// state must never be there without its log, and the log alone is known for what
// it is by the state that is still in .restoring.
func (r restoration) finish() error {
	if !r.fills {
		if err := os.Rename(r.unfinished, r.dir); err != nil {
			return err
		}
		return syncDir(filepath.Dir(r.dir))
	}
	for _, name := range []string{walDir, stateDir} {
		if err := os.Rename(r.part(name), filepath.Join(r.dir, name)); err != nil {
			return err
		}
		if err := errors.Join(syncDir(r.dir), syncDir(r.unfinished)); err != nil {
			return err
		}
	}
	if err := os.Remove(r.unfinished); err != nil {
		return err
	}
	return syncDir(r.dir)
}

// restoreInterrupted tells whether dir is what a restore that came not to its end
// has left.
func restoreInterrupted(dir string) bool {
	return isThere(dir, restoringSuffix) && !(isThere(dir, walDir) && isThere(dir, stateDir))
}

// interruptedRestore is why nothing works with such a directory.
func interruptedRestore(dir string) error {
	return fmt.Errorf("%s is not complete: a restore was interrupted. Run it again, it replaces what is there: harepost restore FILE %s", dir, dir)
}

// restoredHalf tells whether a restore came as far as between its two renames.
// Only then is anything of dir itself the restore's.
func restoredHalf(dir string) bool {
	unfinished := filepath.Join(dir, restoringSuffix)
	return isThere(dir, walDir) && !isThere(dir, stateDir) && isThere(unfinished, stateDir) && !isThere(unfinished, walDir)
}

func isThere(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}
