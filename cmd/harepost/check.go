package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/engine/delivery"
	"github.com/harepost/harepost/wal"
)

type checkCmd struct {
	Path    string `arg:"" optional:"" help:"A backup, or a data directory."`
	DataDir string `name:"data-dir" env:"HAREPOST_DATA_DIR" placeholder:"DIR" help:"The data directory."`
	JSON    bool   `name:"json" env:"HAREPOST_JSON" help:"Print JSON."`
}

// Help is shown by kong under the usage line.
func (c *checkCmd) Help() string {
	return `Of a data directory it reads and decodes every entry of the log and every delivery of the state, of a backup it checks every file's checksum and that none is missing. It changes nothing. Exit status 1 when there is damage. No server may have the directory open.`
}

// A checkReport is what check found.
type checkReport struct {
	DataDir string       `json:"data_dir"`
	Log     logReport    `json:"log"`
	State   *stateReport `json:"state"` // null when it could not be opened
	Damage  []string     `json:"damage"`
}

type logReport struct {
	Identity  string             `json:"identity"`
	First     uint64             `json:"first_index"`
	Last      uint64             `json:"last_index"`
	Frames    int64              `json:"frames"`
	Entries   int64              `json:"entries"`
	Segments  []logSegmentReport `json:"segments"`
	TornTail  bool               `json:"torn_tail"`
	Unproven  int64              `json:"unproven_entries"`
	Failure   string             `json:"failure,omitempty"`
	Leftovers []string           `json:"leftovers"`
}

type logSegmentReport struct {
	Name    string `json:"name"`
	First   uint64 `json:"first_index"`
	Last    uint64 `json:"last_index"`
	Frames  int64  `json:"frames"`
	Entries int64  `json:"entries"`
	Bytes   int64  `json:"bytes"`
	Used    int64  `json:"used_bytes"`
}

// Run checks the backup or the directory and prints what is in it.
func (c *checkCmd) Run(sh *shell) error {
	if c.Path == "" && c.DataDir == "" {
		return usagef("nothing to check: name a backup or a data directory")
	}
	if c.Path != "" { // HAREPOST_DATA_DIR may be set for the server
		f, err := os.Open(c.Path)
		if err != nil {
			return fmt.Errorf("check: %w", err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return fmt.Errorf("check: %w", err)
		}
		if !info.IsDir() {
			return c.checkBackup(sh, f)
		}
		c.DataDir = c.Path
	}
	if restoreInterrupted(c.DataDir) {
		return fmt.Errorf("check: %w", interruptedRestore(c.DataDir))
	}
	if _, err := os.Stat(filepath.Join(c.DataDir, walDir)); err != nil {
		return fmt.Errorf("check: %s is not a data directory: %w", c.DataDir, err)
	}
	lock, err := lockDataDir(c.DataDir)
	var r checkReport
	if err == nil {
		defer lock.Close()
		r, err = inspect(sh.ctx, c.DataDir)
	}
	if sh.ctx.Err() != nil {
		return errInterrupted
	}
	if isLocked(err) {
		return fmt.Errorf("check: a server has %s open: stop it first (%w)", c.DataDir, err)
	}
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if c.JSON {
		err = printJSON(sh.out, r)
	} else {
		r.print(sh)
	}
	if len(r.Damage) > 0 {
		return errors.Join(err, exitWith(exitFailed, nil))
	}
	return err
}

// inspect reads log and state. Damage is in the report; the error is for what
// could not be looked at. When ctx ends, so does the reading, and what the report
// then says means nothing.
func inspect(ctx context.Context, dir string) (checkReport, error) {
	r := checkReport{DataDir: dir, Damage: []string{}}
	disk := endingFS{vfs.Default, ctx}
	log, err := wal.Verify(disk, filepath.Join(dir, walDir))
	if err != nil {
		return r, err
	}
	r.Log = reportLog(log)
	for _, finding := range log.Findings {
		r.Damage = append(r.Damage, finding.Error())
	}
	st, err := inspectState(disk, filepath.Join(dir, stateDir))
	switch {
	case isLocked(err):
		return r, err
	case err != nil:
		r.Damage = append(r.Damage, err.Error())
		return r, nil
	}
	r.State = &st
	for _, finding := range st.findings {
		r.Damage = append(r.Damage, finding.Error())
	}
	first, next := logBounds(log)
	if st.Applied >= next && len(log.Findings) == 0 {
		r.Damage = append(r.Damage, fmt.Sprintf("the state holds entry %d, the log ends before it with %d", st.Applied, next-1))
	}
	if first > st.Low {
		r.Damage = append(r.Damage, fmt.Sprintf("the state needs the log from entry %d, it begins with %d", st.Low, first))
	}
	return r, nil
}

// logBounds are the index of the oldest entry and of the next to come. A log
// without entries has a place too: the newest segment says where it goes on.
func logBounds(v wal.Report) (first, next uint64) {
	first, next = uint64(v.First), uint64(v.Last)+1
	if n := len(v.Segments); n > 0 {
		next = max(next, uint64(v.Segments[n-1].Last)+1)
	}
	if first == 0 {
		first = next
	}
	return first, next
}

func reportLog(v wal.Report) logReport {
	r := logReport{
		Identity: hex.EncodeToString(v.Identity[:]), First: uint64(v.First), Last: uint64(v.Last),
		Frames: v.Frames, Entries: v.Entries, TornTail: v.TornTail, Unproven: v.Unproven,
		Failure: v.Failure, Leftovers: append([]string{}, v.Leftovers...), Segments: []logSegmentReport{},
	}
	for _, s := range v.Segments {
		r.Segments = append(r.Segments, logSegmentReport{s.Name, uint64(s.First), uint64(s.Last), s.Frames, s.Entries, s.Bytes, s.Used})
	}
	return r
}

func (r checkReport) print(sh *shell) {
	out, p := sh.out, painterFor(sh.out)
	fmt.Fprintf(out, "%s\n\n", p.bold(r.DataDir))
	fmt.Fprintf(out, "log    entries %d to %d in %d frames, node %s\n", r.Log.First, r.Log.Last, r.Log.Frames, r.Log.Identity)
	if r.State != nil {
		fmt.Fprintf(out, "state  applied up to entry %d, needs the log from %d; %d accounts, %d attempts queued in %d lanes\n",
			r.State.Applied, r.State.Low, r.State.Accounts, r.State.Queued, r.State.Lanes)
		if r.State.Waiting > 0 || r.State.Held > 0 {
			fmt.Fprintf(out, "       %d deliveries wait for others with their ordering key; dead letters hold %d keys\n", r.State.Waiting, r.State.Held)
		}
		if r.State.Deleted > 0 {
			fmt.Fprintf(out, "       %d deleted accounts with %d deliveries left, which a server goes on to drop\n", r.State.Deleted, r.State.Leaving)
		}
		for _, status := range delivery.Statuses {
			if n := r.State.Deliveries[status.String()]; n > 0 {
				fmt.Fprintf(out, "       %d %s\n", n, p.status(status.String()))
			}
		}
	}
	fmt.Fprintln(out)
	t := newTable("SEGMENT", "FIRST", "LAST", "FRAMES", "ENTRIES", "USED", "SIZE")
	for _, s := range r.Log.Segments {
		t.add(plain(s.Name), plain(fmt.Sprint(s.First)), plain(fmt.Sprint(s.Last)), plain(fmt.Sprint(s.Frames)),
			plain(fmt.Sprint(s.Entries)), plain(bytesText(s.Used)), plain(bytesText(s.Bytes)))
	}
	t.write(out, p, "")
	fmt.Fprintln(out)
	r.printNotes(sh)
	if len(r.Damage) == 0 {
		fmt.Fprintln(out, p.green("sound")+": a server can start on it")
	}
	for _, d := range r.Damage {
		fmt.Fprintln(out, p.red("damaged")+": "+d)
	}
}

// printNotes tells what is normal after a crash and needs nobody.
func (r checkReport) printNotes(sh *shell) {
	if r.Log.TornTail {
		fmt.Fprintln(sh.out, "note: the last write was cut off, as a crash does; it was never acknowledged and is dropped at the next start")
	}
	if r.Log.Unproven > 0 {
		fmt.Fprintf(sh.out, "note: %d entries of the last write are not proven to be synced; the next start copies and syncs them\n", r.Log.Unproven)
	}
	if r.Log.Failure != "" {
		fmt.Fprintf(sh.out, "note: the log noted a failure: %s\n", printable(r.Log.Failure))
	}
	for _, name := range r.Log.Leftovers {
		fmt.Fprintf(sh.out, "note: %s is not needed, a start removes it or uses it again\n", name)
	}
}
