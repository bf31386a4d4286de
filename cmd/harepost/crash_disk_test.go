package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A smallDisk is a tmpfs in a mount namespace of its own, which a process
// holds and which is gone with it.
type smallDisk struct {
	t      *testing.T
	dir    string
	holder string // its pid
	enter  string // nsenter(1)
}

func newSmallDisk(t *testing.T, mebibytes int) *smallDisk {
	t.Helper()
	unshare, err1 := exec.LookPath("unshare")
	enter, err2 := exec.LookPath("nsenter")
	if err := errors.Join(err1, err2); err != nil || os.Geteuid() != 0 {
		t.Skipf("mounting a small disk needs root, unshare(1) and nsenter(1): %v", err)
	}
	d := &smallDisk{t: t, dir: t.TempDir(), enter: enter}
	script := fmt.Sprintf(`mount -t tmpfs -o size=%dm none "$0" && echo mounted && exec cat`, mebibytes)
	holder := exec.Command(unshare, "-m", "sh", "-c", script, d.dir)
	holder.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err1 := holder.StdinPipe()
	stdout, err2 := holder.StdoutPipe()
	if err := errors.Join(err1, err2, holder.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdin.Close(); holder.Wait() })
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "mounted\n" {
		t.Skip("mounting a small disk: no mount namespaces here")
	}
	d.holder = fmt.Sprint(holder.Process.Pid)
	return d
}

// command is a command that sees the disk.
func (d *smallDisk) command(name string, args ...string) *exec.Cmd {
	return exec.Command(d.enter, append([]string{"-t", d.holder, "-m", "--", name}, args...)...)
}

// grow makes room.
func (d *smallDisk) grow(mebibytes int) {
	d.t.Helper()
	if text, err := d.command("mount", "-o", fmt.Sprintf("remount,size=%dm", mebibytes), d.dir).CombinedOutput(); err != nil {
		d.t.Fatalf("grow the disk: %v: %s", err, text)
	}
}

// serve starts a server whose data lies on the disk.
func (d *smallDisk) serve() *serverProcess {
	d.t.Helper()
	args := serveArgs(d.t, []string{"--dev", "--data-dir", filepath.Join(d.dir, "data")})
	return startServerCommand(d.t, d.command(harepostBinary(d.t), args...))
}

// A disk that has no room for the log's next file: sends are refused before
// anything of them is kept, what was accepted is delivered, and with room again
// sends are taken again. Nothing that was acknowledged is lost, after a kill
// either.
func TestCrashOnAFullDiskLosesNothing(t *testing.T) {
	t.Parallel()
	disk := newSmallDisk(t, 96)
	answer := make(chan struct{}) // closed: the target answers
	held := make(chan struct{}, 1)
	target := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		held <- struct{}{}
		select {
		case <-answer:
		case <-r.Context().Done():
		}
	}))
	defer target.Close()
	s := disk.serve()
	key := s.devKey()
	_, receipt := s.request(http.MethodPost, "/v1/send", key, sendBody(target.URL, `"delivery":{"timeout_ms":30000}`))
	underWay := idOf(t, receipt)
	<-held

	acknowledged, refusal := fillDisk(t, s, key)
	t.Logf("%d sends of 400 KiB were accepted, then: %s", len(acknowledged), refusal)
	if len(acknowledged) == 0 {
		t.Fatal("nothing was accepted")
	}
	close(answer)
	until(t, "what was accepted is delivered on a full disk", func() (bool, string) {
		_, text := s.request(http.MethodGet, "/v1/deliveries/"+underWay, key, "")
		return strings.Contains(text, `"status":"delivered"`), text + s.stderr.String()
	})
	disk.grow(512)
	until(t, "sends are taken again", func() (bool, string) {
		code, text := s.request(http.MethodPost, "/v1/send", key, sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000`))
		if code == http.StatusAccepted {
			acknowledged[idOf(t, text)] = ""
		}
		return code == http.StatusAccepted, text + s.stderr.String()
	})
	s.kill9()

	again := disk.serve()
	for id, body := range acknowledged {
		code, text := again.request(http.MethodGet, "/v1/deliveries/"+id+"?include=payload", key, "")
		var kept struct{ Body, Status string }
		if err := json.Unmarshal([]byte(text), &kept); err != nil || code != http.StatusOK || kept.Body != body {
			t.Errorf("acknowledged, and after the restart %d %.200s", code, text)
		}
	}
}

// A disk that is full of dead letters: a purge makes room, and the server takes
// sends again by itself.
func TestAPurgeMakesRoomOnAFullDisk(t *testing.T) {
	t.Parallel()
	disk := newSmallDisk(t, 48)
	s := disk.serve()
	key := s.devKey()
	const dies = `"delivery":{"max_attempts":1},"body":`
	random := rand.NewChaCha8([32]byte{2})
	noise := make([]byte, 300<<10)
	accepted := 0
	for refused := 0; refused < 40; { // not only until the next look at the disk
		random.Read(noise)
		body := sendBody("http://127.0.0.1:1024/", dies+`"`+base64.StdEncoding.EncodeToString(noise)+`"`)
		switch status, text := s.request(http.MethodPost, "/v1/send", key, body); status {
		case http.StatusAccepted:
			accepted, refused = accepted+1, 0
		case http.StatusServiceUnavailable:
			refused++
			<-time.After(50 * time.Millisecond) // the keeper is in another process
		default:
			t.Fatalf("%d %s\n%s", status, text, s.stderr.String())
		}
		if accepted > 400 {
			t.Fatal("a disk of 48 MiB took 400 sends of 400 KB")
		}
	}
	t.Logf("%d sends of 400 KB were taken", accepted)
	until(t, "all are dead", func() (bool, string) {
		_, text := s.request(http.MethodGet, "/v1/deliveries?status=queued&limit=1", key, "")
		return strings.Contains(text, `"data":[]`), text
	})
	if status, text := s.request(http.MethodDelete, "/v1/dead-letters?all=true", key, ""); status != http.StatusAccepted {
		t.Fatalf("purge: %d %s", status, text)
	}
	until(t, "sends are taken again", func() (bool, string) {
		status, text := s.request(http.MethodPost, "/v1/send", key, sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000`))
		return status == http.StatusAccepted, text + s.stderr.String()
	})
	if status := s.stop(); status != exitOK {
		t.Errorf("status %d\n%s", status, s.stderr.String())
	}
}

// fillDisk sends, 20 MiB a second at most, until a send is refused, and returns
// the bodies of those that were not. The server looks at the disk once a second
// and has a file of 64 MiB begun.
func fillDisk(t *testing.T, s *serverProcess, key string) (bodies map[string]string, refusal string) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1}) // text that no compression makes room of
	noise := make([]byte, 300<<10)
	bodies = map[string]string{}
	pace := time.NewTicker(20 * time.Millisecond)
	defer pace.Stop()
	for len(bodies) < 400 {
		<-pace.C
		random.Read(noise)
		body := base64.StdEncoding.EncodeToString(noise)
		code, text := s.request(http.MethodPost, "/v1/send", key, sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000,"body":"`+body+`"`))
		if code == http.StatusAccepted {
			bodies[idOf(t, text)] = body
			continue
		}
		var object struct{ Error string }
		if err := strictJSON([]byte(text), &object); err != nil || object.Error == "" || code != http.StatusServiceUnavailable && code != http.StatusInsufficientStorage {
			t.Fatalf("the refusal is %d %s: %v\n%s", code, text, err, s.stderr.String())
		}
		return bodies, fmt.Sprint(code, " ", text)
	}
	t.Fatal("160 MiB were accepted on a disk of 96 MiB")
	return nil, ""
}

func idOf(t testing.TB, receipt string) string {
	t.Helper()
	var r struct {
		QueueID string `json:"queue_id"`
	}
	if err := json.Unmarshal([]byte(receipt), &r); err != nil || r.QueueID == "" {
		t.Fatalf("%v in %s", err, receipt)
	}
	return r.QueueID
}

// While a server has a directory, nobody else gets it, and it does not notice.
func TestCrashNothingIfASecondServerComes(t *testing.T) {
	t.Parallel()
	first := startServer(t, "--dev")
	key := first.devKey()
	id := first.send(key, "http://127.0.0.1:1024/")
	f := func(args ...string) {
		t.Helper()
		r := runProcess(t, nil, append(args, "--data-dir", first.DataDir)...)
		if r.Status != exitFailed || !strings.Contains(r.Stderr, "open") {
			t.Errorf("%s: status %d:\n%s%s", args, r.Status, r.Stdout, r.Stderr)
		}
	}
	f("serve", "--listen", "127.0.0.1:0")
	f("check")
	if code, text := first.request(http.MethodGet, "/v1/deliveries/"+id, key, ""); code != http.StatusOK {
		t.Errorf("the first server after that: %d %s", code, text)
	}
	first.send(key, "http://127.0.0.1:1024/")
}

// A frameOnDisk is a frame of a log's segment, see the log's FORMAT.md.
type frameOnDisk struct {
	at, end int64 // with header, without padding
	kind    byte
}

const (
	frameOfEntries = 1
	frameOfMark    = 4
	firstFrameAt   = 4096
	frameHeadBytes = 40
)

// framesOf reads where the frames of a segment lie.
func framesOf(t testing.TB, file string) (frames []frameOnDisk) {
	t.Helper()
	all, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for at := int64(firstFrameAt); at+frameHeadBytes <= int64(len(all)); {
		head := all[at:]
		kind, end := head[32], at+frameHeadBytes+int64(binary.LittleEndian.Uint32(head[4:]))
		if kind < frameOfEntries || kind > frameOfMark || end > int64(len(all)) || binary.LittleEndian.Uint32(head) == 0 {
			break
		}
		frames = append(frames, frameOnDisk{at, end, kind})
		at = (end + 7) &^ 7
	}
	return frames
}

// segments are the files of the log, oldest first.
func segmentsOf(t testing.TB, dataDir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dataDir, walDir, "*.wal"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no segments in %s: %v", dataDir, err)
	}
	slices.Sort(files)
	return files
}

// A wreck is the directory of a server that was killed, and what it had
// acknowledged in its two lives.
type wreck struct {
	dir string
	key string
	ids []string
}

// makeWreck leaves two segments: one that is followed by another, and the
// last, which ends with a mark, as that of an idle server does.
func makeWreck(t *testing.T) wreck {
	t.Helper()
	x := wreck{dir: filepath.Join(t.TempDir(), "data")}
	for range 2 {
		s := startServer(t, "--dev", "--data-dir", x.dir)
		x.key = s.devKey()
		for range 5 {
			x.ids = append(x.ids, idOf(t, postLater(s, x.key)))
		}
		last := segmentsOf(t, x.dir)
		until(t, "the log is marked", func() (bool, string) {
			frames := framesOf(t, last[len(last)-1])
			return len(frames) > 0 && frames[len(frames)-1].kind == frameOfMark, fmt.Sprint(frames)
		})
		s.kill9()
	}
	if segments := segmentsOf(t, x.dir); len(segments) != 2 {
		t.Fatalf("two lives left the segments %q", segments)
	}
	return x
}

// postLater queues a delivery that is not attempted while the test runs, so
// that nothing but acceptances is in the log.
func postLater(s *serverProcess, key string) string {
	_, text := s.request(http.MethodPost, "/v1/send", key, sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000,"body":"a payload"`))
	return text
}

// refused checks that neither a start nor a check takes the directory, that
// both name the place, and that looking changed nothing.
func (x wreck) refused(t *testing.T, file string, offset int64) {
	t.Helper()
	before := contentsOf(t, filepath.Join(x.dir, walDir))
	place := fmt.Sprintf("%s at offset %d: ", filepath.Base(file), offset)
	r := runProcess(t, nil, "serve", "--data-dir", x.dir, "--listen", "127.0.0.1:0")
	if r.Status != exitFailed || !strings.Contains(r.Stderr, place) || !strings.Contains(r.Stderr, "harepost check") {
		t.Errorf("start: status %d, want 1 and %q:\n%s", r.Status, place, r.Stderr)
	}
	r = runProcess(t, nil, "check", "--data-dir", x.dir)
	if r.Status != exitFailed || !strings.Contains(r.Stdout, place) {
		t.Errorf("check: status %d, want 1 and %q:\n%s%s", r.Status, place, r.Stdout, r.Stderr)
	}
	after := contentsOf(t, filepath.Join(x.dir, walDir))
	for name, text := range before {
		if !bytes.Equal(after[name], text) {
			t.Errorf("%s was changed by looking at it", name)
		}
	}
}

// whole checks that a start takes the directory and has everything.
func (x wreck) whole(t *testing.T) {
	t.Helper()
	s := startServer(t, "--dev", "--data-dir", x.dir)
	for _, id := range x.ids {
		if code, text := s.request(http.MethodGet, "/v1/deliveries/"+id, x.key, ""); code != http.StatusOK || !strings.Contains(text, `"status":"queued"`) {
			t.Errorf("acknowledged, and now %d %s", code, text)
		}
	}
	if t.Failed() {
		t.Logf("the start said:\n%s", s.stderr.String())
	}
	s.send(x.key, "http://127.0.0.1:1024/")
	s.kill9()
}

func contentsOf(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]byte{}
	for _, e := range entries {
		if all[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Damage to what was acknowledged is found and named. Once the bytes are as
// they were, everything is there: the refusals had touched nothing.
func TestCrashedLogsWithDamageAreRefused(t *testing.T) {
	t.Parallel()
	x := makeWreck(t)
	segments := segmentsOf(t, x.dir)
	f := func(name, file string, at, offset int64) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			restore := flipByte(t, file, at)
			x.refused(t, file, offset)
			restore()
		})
	}
	sealed, last := framesOf(t, segments[0]), framesOf(t, segments[1])
	middle := sealed[len(sealed)/2]
	f("payload in a segment that is followed by another", segments[0], middle.end-1, middle.at)
	f("checksum in a segment that is followed by another", segments[0], middle.at, middle.at)
	// Behind the last entries there is only a mark, which nobody needs any more.
	end := sealed[len(sealed)-2]
	f("last entries of a segment that is followed by another", segments[0], end.end-1, end.at)
	f("payload in the last segment, before what a later frame calls synced", segments[1], last[0].end-1, last[0].at)
	f("length in the last segment", segments[1], last[0].at+6, last[0].at)
	f("header of the last segment", segments[1], 20, 0)

	t.Run("garbage over frames of the last segment", func(t *testing.T) {
		restore := overwriteBytes(t, segments[1], last[1].at, bytes.Repeat([]byte("garbage "), 20))
		x.refused(t, segments[1], last[1].at)
		restore()
	})
	t.Run("a segment is missing", func(t *testing.T) {
		aside := filepath.Join(t.TempDir(), "aside")
		if err := os.Rename(segments[0], aside); err != nil {
			t.Fatal(err)
		}
		for _, args := range [][]string{{"serve", "--listen", "127.0.0.1:0"}, {"check"}} {
			r := runProcess(t, nil, append(args, "--data-dir", x.dir)...)
			if r.Status != exitFailed || !strings.Contains(r.Stdout+r.Stderr, "-00000001.wal: segment is missing") {
				t.Errorf("%s: status %d:\n%s%s", args, r.Status, r.Stdout, r.Stderr)
			}
		}
		if err := os.Rename(aside, segments[0]); err != nil {
			t.Fatal(err)
		}
	})
	x.whole(t)
}

// What the last write left behind when it was cut off was never acknowledged:
// a start drops it, and has everything else.
func TestCrashedLogsWithATornTailStart(t *testing.T) {
	t.Parallel()
	f := func(name string, tear func(t *testing.T, file string, frames []frameOnDisk)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			x := makeWreck(t)
			segments := segmentsOf(t, x.dir)
			tear(t, segments[1], framesOf(t, segments[1]))
			r := runProcess(t, nil, "check", "--data-dir", x.dir)
			if r.Status != exitOK {
				t.Errorf("check: status %d:\n%s%s", r.Status, r.Stdout, r.Stderr)
			}
			x.whole(t)
		})
	}
	f("the mark is back to zeros in part", func(t *testing.T, file string, frames []frameOnDisk) {
		mark := frames[len(frames)-1]
		overwriteBytes(t, file, mark.end-20, make([]byte, 20))
	})
	f("half a frame behind the mark", func(t *testing.T, file string, frames []frameOnDisk) {
		all, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		next := frames[len(frames)-1].end
		half := all[frames[0].at : (frames[0].at+frames[0].end)/2]
		overwriteBytes(t, file, next, half)
	})
	f("garbage behind the mark", func(t *testing.T, file string, frames []frameOnDisk) {
		garbage := make([]byte, 8192)
		rand.NewChaCha8([32]byte{2}).Read(garbage)
		overwriteBytes(t, file, frames[len(frames)-1].end, garbage)
	})
}

// overwriteBytes writes text into a file and returns what undoes it.
func overwriteBytes(t testing.TB, file string, at int64, text []byte) (restore func()) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := make([]byte, len(text))
	if _, err := f.ReadAt(before, at); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(text, at); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		overwriteBytes(t, file, at, before)
	}
}

func flipByte(t testing.TB, file string, at int64) (restore func()) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	if _, err := f.ReadAt(b, at); err != nil {
		t.Fatal(err)
	}
	return overwriteBytes(t, file, at, []byte{^b[0]})
}
