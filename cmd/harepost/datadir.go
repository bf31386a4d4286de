package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/harepost/harepost/raftstore"
	"github.com/harepost/harepost/wal"
	"golang.org/x/sys/unix"
)

// The directories that the engine keeps inside the data directory.
const (
	walDir   = "wal"
	stateDir = "state"
)

// clusterDir is there in the directory of a node of a cluster.
const clusterDir = raftstore.ClusterDir

// lostFound is in the root of a new volume, and belongs to the file system.
const lostFound = "lost+found"

// prepareDataDir makes the data directory or refuses what cannot be one before
// anything is written there: --data-dir /home/me is a slip, and would be a mess.
func prepareDataDir(dir string) error {
	if err := checkDataDir(dir); err != nil {
		return err
	}
	// Empty, where a restore came to its end but for this. It is in nobody's way.
	_ = os.Remove(filepath.Join(dir, restoringSuffix))
	// Whoever made dir may have let everyone look in, so these are closed on
	// their own.
	for _, name := range []string{walDir, stateDir} {
		sub := filepath.Join(dir, name)
		if _, err := os.Stat(sub); !errors.Is(err, fs.ErrNotExist) {
			continue // the engine tells what is wrong with it
		}
		if err := makeDir(sub); err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		}
	}
	return nil
}

// checkDataDir refuses a directory that holds other things than ours.
func checkDataDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	if restoreInterrupted(dir) {
		return fmt.Errorf("--data-dir: %w", interruptedRestore(dir))
	}
	ours, foreign := false, ""
	for _, e := range entries {
		switch name := e.Name(); name {
		case walDir, stateDir:
			ours = true
		case clusterDir, stateDir + ".new", stateDir + ".old": // of a node of a cluster, and of one that takes over another state
			ours = true
		case lostFound, devAccountFile, "backup.tmp", restoringSuffix: // of a mounted volume; of an earlier start; of a restore that is done
		default:
			foreign = name
		}
	}
	if foreign != "" && !ours {
		return fmt.Errorf("--data-dir: %s holds other things than Harepost data (%q): give an empty directory, or one that does not exist", dir, foreign)
	}
	return nil
}

// checkAlone refuses the directory of a node to a server that would run alone: what
// other nodes acknowledge meanwhile would be missing here, and what this server
// accepts there.
func checkAlone(dir, nodeID string) error {
	if _, err := os.Lstat(filepath.Join(dir, clusterDir)); nodeID != "" || err != nil {
		return nil // what else is wrong with it others say
	}
	return fmt.Errorf("--data-dir: %s belongs to a node of a cluster: give --node-id and --cluster-addr, or make a single server's of it with `harepost cluster detach`", dir)
}

// makeDir makes dir and its parents. Payloads will stand there, so only
// the owner may look in. Each new name is synced into its parent: a power cut
// must not take the directory away from under what was acknowledged.
func makeDir(dir string) error {
	dir = filepath.Clean(dir)
	parent := filepath.Dir(dir)
	if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) && parent != dir {
		if err := makeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return syncDir(parent)
}

// lockDataDir locks the directory itself until the file is closed or the
// process ends. Log and state lock files of their own inside it; but a file can
// be deleted by who thinks that it is left over, and then two would write.
func lockDataDir(dir string) (*os.File, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir, err), d.Close())
	}
	return d, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// explainOpen adds to an error of opening the data directory what the operator
// can do about it.
func explainOpen(dir string, err error) error {
	advice := ""
	switch damage, damaged := errors.AsType[*wal.CorruptionError](err); {
	case isLocked(err):
		advice = "another process has the directory open: stop it first, or give another --data-dir"
	case errors.Is(err, wal.ErrVersion):
		advice = "a newer harepost wrote this directory: run that version or a later one"
	case damaged:
		advice = fmt.Sprintf("nothing was changed. Keep a copy of the directory, look at the disk and the kernel's log, and see `harepost check --data-dir %s`; restore %s from a backup if it is damaged", dir, damage.File)
	case errors.Is(err, syscall.ENOSPC):
		advice = "the disk is full: make room, nothing was lost"
	case errors.Is(err, fs.ErrPermission):
		advice = "this user may not read or write the directory"
	default:
		advice = fmt.Sprintf("`harepost check --data-dir %s` tells what is in the directory", dir)
	}
	return fmt.Errorf("%w\n%s", err, advice)
}

// isLocked tells whether another process has the directory. The state's lock
// is Pebble's, which hands the system's refusal on.
func isLocked(err error) bool {
	return errors.Is(err, wal.ErrLocked) || errors.Is(err, syscall.EAGAIN)
}
