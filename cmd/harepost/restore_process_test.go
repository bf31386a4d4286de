package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// takeBackup returns a backup with one pending delivery, the delivery's id, and
// the key of its account.
func takeBackup(t *testing.T) (file, id, key string) {
	t.Helper()
	s := startServer(t, "--dev", "--admin-token", testAdminToken)
	key = s.devKey()
	id = newUser(t, s.URL, key).sent(exitOK, "http://127.0.0.1:19999/x", "--delay", "1h", "-d", "precious")
	file = filepath.Join(t.TempDir(), "x.tar")
	operatorOf(t, s.URL).runs(exitOK, "backup", file)
	s.stop()
	return file, id, key
}

// holds starts a server on a restored directory and looks for the delivery.
func holds(t *testing.T, dir, id, key string) {
	t.Helper()
	s := startServer(t, "--dev", "--data-dir", dir)
	newUser(t, s.URL, key).prints("queued", exitOK, "deliveries", "get", id)
	s.stop()
}

// restoredWhole looks for what a restore leaves beside the data.
func restoredWhole(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{restoringSuffix, "../" + filepath.Base(dir) + restoringSuffix} {
		if _, err := os.Stat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s was left in %s: %v", name, dir, err)
		}
	}
}

// A directory that is there is filled and not replaced: it may be a link, the
// root of a volume, or where the command stands.
func TestRestoreFillsAnEmptyDirectory(t *testing.T) {
	file, id, key := takeBackup(t)
	u := user{t, nil}

	real, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	u.prints("as of log index", exitOK, "restore", file, link)
	holds(t, link, id, key)
	holds(t, real, id, key)
	restoredWhole(t, real)

	volume := t.TempDir()
	if err := os.Mkdir(filepath.Join(volume, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	u.prints("as of log index", exitOK, "restore", file, volume)
	holds(t, volume, id, key)
	u.prints("not empty", exitUsage, "restore", file, volume)
	holds(t, volume, id, key)

	here := t.TempDir()
	cmd := exec.Command(harepostBinary(t), "restore", "-", ".")
	in, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	cmd.Dir, cmd.Stdin, cmd.Env = here, in, cleanEnvironment()
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	holds(t, here, id, key)
	restoredWhole(t, here)
}

// containerScript is what the container image has: a volume as the data
// directory, on a root that cannot be written to. $0 is where the volume is.
const containerScript = `
mount --bind "$0/.." "$0/.." && mount -o remount,ro,bind "$0/.." &&
mount -t tmpfs -o size=300m none "$0" &&
"$@" && test -d "$0/wal" && test -d "$0/state" && test ! -e "$0/.restoring"`

func TestRestoreIntoAVolumeOnAReadOnlyRoot(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("mounting needs root and unshare(1)")
	}
	file, _, _ := takeBackup(t)
	data := filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	inContainer := func(args ...string) (string, error) {
		cmd := exec.Command(unshare, append([]string{"-m", "sh", "-c", containerScript, data}, args...)...)
		cmd.Env = cleanEnvironment()
		text, err := cmd.CombinedOutput()
		return string(text), err
	}
	if text, err := inContainer("mkdir", data+"/wal", data+"/state"); err != nil {
		t.Skipf("no mount namespaces here: %v: %s", err, text)
	}
	if text, err := inContainer(harepostBinary(t), "restore", file, data); err != nil {
		t.Errorf("%v: %s", err, text)
	}
	// Where nothing can be written, it is said before anything is read.
	text, err := inContainer(harepostBinary(t), "restore", "/dev/zero", filepath.Join(filepath.Dir(data), "other"))
	if err == nil || !strings.Contains(text, "read-only file system") {
		t.Errorf("%v: %s", err, text)
	}
}

// What cannot become a data directory is refused before the backup is read.
func TestRestoreRefusesWhatIsNoDirectory(t *testing.T) {
	u := user{t, nil}
	dir := t.TempDir()
	file, dangling := filepath.Join(dir, "file"), filepath.Join(dir, "dangling")
	writeFile(t, file, []byte("x"))
	if err := os.Symlink(filepath.Join(dir, "absent"), dangling); err != nil {
		t.Fatal(err)
	}
	u.prints("is not a directory", exitUsage, "restore", "/dev/zero", file)
	u.prints("link to nothing", exitUsage, "restore", "/dev/zero", dangling)
	u.prints("not empty", exitUsage, "restore", "/dev/zero", dir)
	u.prints("DIR is empty", exitUsage, "restore", "/dev/zero", "")
	u.prints("no such file", exitFailed, "restore", filepath.Join(dir, "absent.tar"), filepath.Join(dir, "new"))
	if _, err := os.Stat(filepath.Join(dir, "new"+restoringSuffix)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("something was made: %v", err)
	}
}

// A restore that was killed leaves what no server starts on, and the next
// restore replaces.
func TestAKilledRestoreIsRepeated(t *testing.T) {
	file, id, key := takeBackup(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	u := user{t, nil}
	dir := t.TempDir()
	left := filepath.Join(dir, restoringSuffix, "left")
	started := func() {
		t.Helper()
		cmd := exec.Command(harepostBinary(t), "restore", "-", dir)
		cmd.Env = cleanEnvironment()
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// All but the end: it has something on disk, and waits for the rest.
		if _, err := in.Write(whole[:len(whole)*9/10]); err != nil {
			t.Fatal(err)
		}
		eventually(t, "MANIFEST", func() string {
			if _, err := os.Stat(left); err == nil {
				return "it has not begun"
			}
			entries, _ := os.ReadDir(filepath.Join(dir, restoringSuffix, stateDir))
			return fmt.Sprint(entries)
		})
		u.prints("another restore is at work", exitFailed, "restore", file, dir)
		cmd.Process.Kill()
		cmd.Wait()
	}
	refused := func(when string) {
		t.Helper()
		for _, args := range [][]string{{"serve", "--data-dir", dir, "--listen", "127.0.0.1:0"}, {"check", dir}} {
			r := runProcess(t, nil, args...)
			if r.Status != exitFailed || !strings.Contains(r.Stderr, "restore was interrupted") || !strings.Contains(r.Stderr, "harepost restore") {
				t.Errorf("%s: %q: status %d\n%s%s", when, args, r.Status, r.Stdout, r.Stderr)
			}
		}
	}
	started()
	refused("killed while it unpacked")
	writeFile(t, left, nil)
	started() // again, over what the first left
	refused("killed again")
	u.prints("as of log index", exitOK, "restore", file, dir)

	// Between the two names that appear at the end.
	unfinished := filepath.Join(dir, restoringSuffix)
	if err := errors.Join(os.Mkdir(unfinished, 0o700), os.Rename(filepath.Join(dir, stateDir), filepath.Join(unfinished, stateDir))); err != nil {
		t.Fatal(err)
	}
	refused("killed while it finished")
	u.prints("as of log index", exitOK, "restore", file, dir)
	restoredWhole(t, dir)

	// After them: all is there.
	if err := os.Mkdir(unfinished, 0o700); err != nil {
		t.Fatal(err)
	}
	u.prints("not empty", exitUsage, "restore", file, dir)
	holds(t, dir, id, key)
	restoredWhole(t, dir)
}

// A damaged backup leaves a directory that was there as empty as it was.
func TestADamagedBackupLeavesTheDirectoryEmpty(t *testing.T) {
	file, _, _ := takeBackup(t)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	bad, dir := filepath.Join(t.TempDir(), "bad"), t.TempDir()
	writeFile(t, bad, bytes.Clone(whole[:len(whole)/2]))
	user{t, nil}.prints("damaged", exitFailed, "restore", bad, dir)
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}
