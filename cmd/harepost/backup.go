package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/harepost/harepost/engine/backup"
	"golang.org/x/sys/unix"
)

type backupCmd struct {
	operated `embed:""`
	File     string `arg:"" help:"Where the backup goes; - is standard output."`
	Force    bool   `name:"force" help:"Replace FILE if it is there."`
}

// Help is shown by kong under the usage line.
func (c *backupCmd) Help() string {
	return `The server goes on meanwhile. All that it had acknowledged when the backup began is in it. FILE gets its name only when all of it has arrived, fits to its checksums and is on disk.

--timeout bounds how long the server may take to begin; there is no bound on the rest while it goes on.

What a backup holds is as secret as the data directory. Under --encryption-key-file it is as sealed, and the key file is not in it: keep that elsewhere, and keep it.`
}

// Run takes the backup.
func (c *backupCmd) Run(sh *shell) error {
	if c.File == "-" {
		if isTerminal(sh.out) {
			return usagef("a backup is no text: give a FILE, or send standard output somewhere")
		}
		_, err := c.fetch(sh, sh.out)
		return err
	}
	switch info, err := os.Lstat(c.File); {
	case err == nil && info.IsDir():
		return usagef("%s is a directory: give the name of a file", c.File)
	case err == nil && !c.Force:
		return usagef("%s is there already: give another name, or --force to replace it", c.File)
	}
	began := time.Now()
	seen, err := c.save(sh)
	if err != nil {
		return err
	}
	if c.JSON {
		return printJSON(sh.out, seen.Manifest)
	}
	fmt.Fprintf(sh.out, "%s  %s in %d files, as of log index %d, took %s\n", painterFor(sh.out).bold(c.File),
		bytesText(seen.Bytes), seen.Files, seen.Manifest.Index, time.Since(began).Round(time.Millisecond))
	return nil
}

// save writes the file under another name first.
func (c *backupCmd) save(sh *shell) (seen backup.Summary, err error) {
	dir := filepath.Dir(c.File)
	f, err := createUnfinished(c.File)
	if err != nil {
		return seen, fmt.Errorf("backup: %w", err)
	}
	if seen, err = c.fetch(sh, f); err != nil {
		return seen, errors.Join(err, os.Remove(f.Name()), f.Close())
	}
	// Closed last: until it has its name, its lock is what says that it is in use.
	if err = f.Sync(); err == nil {
		err = os.Rename(f.Name(), c.File)
	}
	if err != nil {
		return seen, fmt.Errorf("backup: %w", errors.Join(err, os.Remove(f.Name()), f.Close()))
	}
	if err := errors.Join(f.Close(), syncDir(dir)); err != nil {
		return seen, fmt.Errorf("backup: %w", err)
	}
	return seen, nil
}

// fetch copies the server's backup to w, and checks it on the way.
func (c *backupCmd) fetch(sh *shell, w io.Writer) (backup.Summary, error) {
	api, err := c.dial()
	if err != nil {
		return backup.Summary{}, err
	}
	out := &outlet{w: w}
	reading, writing := io.Pipe()
	var seen backup.Summary
	checked := make(chan error, 1)
	go func() {
		var damage error
		if seen, damage = backup.Read(reading, nil); damage == nil {
			_, damage = io.Copy(io.Discard, reading) // what may follow its end
		}
		reading.CloseWithError(damage)
		checked <- damage
	}()
	err = api.Backup(sh.ctx, io.MultiWriter(out, writing))
	writing.CloseWithError(err)
	if damage := <-checked; damage != nil && out.n > 0 {
		err = damage // what it was about to read says more
	}
	switch {
	case out.err != nil:
		return seen, fmt.Errorf("backup: %w", out.err)
	case err != nil && out.n == 0:
		return seen, c.explain(err)
	case err != nil && sh.ctx.Err() != nil:
		return seen, sh.ctx.Err()
	case err != nil:
		return seen, fmt.Errorf("backup: it broke off after %s: %w\nnothing was kept; see the server's log, and try again", bytesText(out.n), err)
	}
	return seen, nil
}

// outlet counts what goes through, and remembers that it was writing that failed.
type outlet struct {
	w   io.Writer
	n   int64
	err error
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	o.n += int64(n)
	if err != nil {
		o.err = err
	}
	return n, err
}

// unfinishedInfix stands between the name of a backup and a number while the
// backup is written.
const unfinishedInfix = ".unfinished-"

// createUnfinished creates the file that becomes file, and locks it. What a
// backup of this name left that was killed goes first.
func createUnfinished(file string) (*os.File, error) {
	dir, prefix := filepath.Dir(file), "."+filepath.Base(file)+unfinishedInfix
	removeUnfinished(dir, prefix)
	for {
		f, err := os.CreateTemp(dir, prefix+"*") // mode 0600
		if err != nil {
			return nil, err
		}
		// Where files cannot be locked nobody removes any, so that goes on without.
		busy := errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK)
		if _, err := os.Lstat(f.Name()); err == nil && !busy {
			return f, nil
		}
		// Another took it for left over, before it was locked.
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// removeUnfinished removes what backups left that were killed: files of just
// this name whose lock nobody has. A file that cannot be removed is in nobody's
// way.
func removeUnfinished(dir, prefix string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // creating a file there tells what is wrong
	}
	for _, entry := range entries {
		number, ok := strings.CutPrefix(entry.Name(), prefix)
		if !ok || number == "" || strings.Trim(number, "0123456789") != "" || !entry.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, entry.Name())
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOFOLLOW, 0) // NFS locks for writers only
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = os.Remove(name)
		}
		f.Close()
	}
}

// checkBackup is check of a file.
func (c *checkCmd) checkBackup(sh *shell, f *os.File) error {
	seen, err := backup.Read(interruptible{sh.ctx, f}, nil)
	if sh.ctx.Err() != nil {
		return errInterrupted
	}
	if c.JSON {
		report := struct {
			File     string          `json:"file"`
			Manifest backup.Manifest `json:"manifest"`
			Files    int             `json:"files"`
			Bytes    int64           `json:"bytes"`
			Damage   []string        `json:"damage"`
		}{f.Name(), seen.Manifest, seen.Files, seen.Bytes, []string{}}
		if err != nil {
			report.Damage = append(report.Damage, err.Error())
		}
		return errors.Join(printJSON(sh.out, report), exitIf(err))
	}
	p := painterFor(sh.out)
	if err != nil {
		fmt.Fprintln(sh.out, p.red("damaged")+": "+err.Error())
		return exitIf(err)
	}
	fmt.Fprintf(sh.out, "%s\n\n%s in %d files, as of log index %d, taken %s by harepost %s\n\n%s: every file fits to its checksum\n", p.bold(f.Name()),
		bytesText(seen.Bytes), seen.Files, seen.Manifest.Index, seen.Manifest.CreatedAt.Format(time.RFC3339), seen.Manifest.Version, p.green("sound"))
	return nil
}

// exitIf ends with status 1 after a finding that is printed already.
func exitIf(err error) error {
	if err == nil {
		return nil
	}
	return exitWith(exitFailed, nil)
}
