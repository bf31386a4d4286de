package main

import (
	"bufio"
	"bytes"
	cryptorand "crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/harepost/harepost/engine/backup"
)

// backupTemporary is where a server puts a backup together.
const backupTemporary = "backup.tmp"

// noise is text of so many bytes that does not compress.
func noise(bytes int) string {
	raw := make([]byte, bytes*3/4)
	cryptorand.Read(raw)
	return base64.StdEncoding.EncodeToString(raw)
}

// absent checks that there is no such file.
func absent(t *testing.T, why, file string) {
	t.Helper()
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %s is there (%v)", why, file, err)
	}
}

// A stream is a backup as it comes over the wire.
type stream struct {
	conn  net.Conn
	first chan struct{} // closed when its first byte has come, or none will
	ended chan struct{}

	head sync.Once
	took time.Duration // until the first byte
	got  bytes.Buffer  // of the tar; to be read when it has ended
	err  error         // why it ended; nil: as if it were whole
}

// openBackup asks the server for a backup, and returns when it has been asked.
func (w *casualty) openBackup() *stream {
	w.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(w.url, "http://"))
	if err != nil {
		w.t.Fatal(err)
	}
	s := &stream{conn: conn, first: make(chan struct{}), ended: make(chan struct{})}
	began := time.Now()
	fmt.Fprintf(conn, "GET /v1/backup HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\n\r\n", testAdminToken)
	go func() {
		defer close(s.ended)
		defer conn.Close()
		defer s.head.Do(func() { close(s.first) })
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			s.err = err
			return
		}
		if resp.StatusCode != http.StatusOK {
			s.err = errors.New(resp.Status)
			return
		}
		s.head.Do(func() { s.took = time.Since(began); close(s.first) })
		_, s.err = io.Copy(&s.got, resp.Body)
	}()
	return s
}

// underWay returns when the server has begun to put the backup together in a
// directory, or its answer has come.
func (s *stream) underWay(unfinished string) {
	for {
		if _, err := os.Lstat(unfinished); err == nil {
			return
		}
		select {
		case <-s.first:
			return
		case <-time.After(time.Millisecond): // the server is another process
		}
	}
}

// The server is killed at any moment of a backup, before its first byte too, with
// load beside it. What came can be told from a backup, unless it is one; all that
// was acknowledged is there afterwards, as it was sent; and the next backup is
// made.
func TestKillDuringABackupUnderLoad(t *testing.T) {
	t.Parallel()
	w := startCasualty(t, "--admin-token", testAdminToken)
	var mu sync.Mutex
	bodies := map[string]string{} // of what was acknowledged
	keep := func(id, body string) {
		mu.Lock()
		defer mu.Unlock()
		bodies[id] = body
	}
	text := noise(400 << 10)
	send := func(body string) {
		c := w.trace("POST", "/v1/send", w.key, sendBody(w.target("/later"), `"delay_ms":3600000,"body":"`+body+`"`), nil)
		if c.status == http.StatusAccepted {
			keep(c.answer["queue_id"].(string), body)
		}
	}
	for i := range 40 {
		send(text[i:])
	}
	var load sync.WaitGroup
	ended := make(chan struct{})
	for i := range 2 {
		load.Go(func() {
			for n := 0; ; n++ {
				send(fmt.Sprint("beside ", i, " ", n))
				select {
				case <-time.After(5 * time.Millisecond):
				case <-ended:
					return
				}
			}
		})
	}
	stop := sync.OnceFunc(func() { close(ended); load.Wait() })
	defer stop()

	unharmed := w.openBackup()
	began := time.Now()
	<-unharmed.ended
	whole := time.Since(began)
	if _, err := backup.Read(&unharmed.got, nil); err != nil || unharmed.err != nil {
		t.Fatalf("nobody was killed: %v %v", unharmed.err, err)
	}
	t.Logf("the first byte comes after %s, the last after %s", unharmed.took, whole)
	unfinished := filepath.Join(w.server.DataDir, backupTemporary)
	before := 0
	w.kills("a backup", 6, func(round int) (inside bool) {
		s := w.openBackup()
		if round%2 == 0 { // while it is put together
			s.underWay(unfinished)
			w.moment(unharmed.took / 2)
		} else { // while it is sent
			<-s.first
			w.moment(whole - unharmed.took)
		}
		w.kill()
		<-s.ended
		if _, err := os.Lstat(unfinished); err == nil {
			inside = true
			if s.took == 0 {
				before++
			}
		}
		// The stream may be cut behind the backup's own end: then all of it is there.
		if _, err := backup.Read(&s.got, nil); err != nil && s.err == nil {
			t.Errorf("the stream ended as if it were whole, and the backup in it: %v", err)
		}
		w.start()
		absent(t, "the next life of the server", unfinished)
		return inside
	})
	t.Logf("%d kills came while the backup was put together, before its first byte", before)
	stop()
	for id, body := range bodies {
		if d := w.get("/v1/deliveries/" + id + "?include=payload"); d["body"] != body || d["status"] != "queued" {
			t.Errorf("%s is %v and does not have the body that was sent", id, d["status"])
		}
	}
	file := filepath.Join(t.TempDir(), "x.tar")
	admin := operatorOf(t, w.url)
	admin.prints("as of log index", exitOK, "backup", file)
	admin.prints("sound", exitOK, "check", file)
	w.endsSound()
}

// A childProcess is a command of the program that is to be killed.
type childProcess struct {
	t      *testing.T
	cmd    *exec.Cmd
	ended  chan struct{}
	output syncBuffer
}

func startChild(t *testing.T, env []string, stdin io.Reader, args ...string) *childProcess {
	t.Helper()
	p := &childProcess{t: t, cmd: exec.Command(harepostBinary(t), args...), ended: make(chan struct{})}
	p.cmd.Env = append(cleanEnvironment(), env...)
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = stdin, &p.output, &p.output
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	go func() {
		defer close(p.ended)
		p.cmd.Wait() // its error is the status
	}()
	return p
}

// kill kills, and reports whether it came before the end.
func (p *childProcess) kill() (before bool) {
	p.t.Helper()
	p.cmd.Process.Kill()
	<-p.ended
	return p.cmd.ProcessState.ExitCode() == -1
}

// A backup of a server with some data, and the server.
func smallBackup(t *testing.T) (s *serverProcess, file string, whole []byte) {
	t.Helper()
	s = startServer(t, "--dev", "--admin-token", testAdminToken)
	key := s.devKey()
	for range 20 {
		if code, text := s.request("POST", "/v1/send", key, sendBody("http://127.0.0.1:1024/", `"delay_ms":3600000,"body":"`+noise(400<<10)+`"`)); code != http.StatusAccepted {
			t.Fatal(code, text)
		}
	}
	file = filepath.Join(t.TempDir(), "whole.tar")
	operatorOf(t, s.URL).prints("as of log index", exitOK, "backup", file)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return s, file, whole
}

// `harepost backup` is killed while it writes: there is no file under the name
// that was asked for, or the one from before, or a whole backup.
func TestKillOfABackupsClientLeavesNoHalf(t *testing.T) {
	t.Parallel()
	s, _, whole := smallBackup(t)
	// A server that stops halfway, until the client is gone.
	halfway := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Write(whole[:len(whole)/2])
		rw.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer halfway.Close()
	dir := t.TempDir()
	old := filepath.Join(dir, "old.tar")
	writeFile(t, old, []byte("the old one"))
	for _, args := range [][]string{{"backup", filepath.Join(dir, "new.tar")}, {"backup", "--force", old}} {
		base := filepath.Base(args[len(args)-1])
		client := startChild(t, operatorOf(t, halfway.URL).env, nil, args...)
		until(t, "the client writes", func() (bool, string) {
			for _, name := range glob(t, filepath.Join(dir, "."+base+".*")) {
				if info, err := os.Stat(name); err == nil && info.Size() > int64(len(whole)/4) {
					return true, ""
				}
			}
			return false, client.output.String()
		})
		if !client.kill() {
			t.Fatalf("%q ended by itself: %s", args, client.output.String())
		}
	}
	absent(t, "a killed client", filepath.Join(dir, "new.tar"))
	if b, err := os.ReadFile(old); string(b) != "the old one" {
		t.Errorf("the backup from before is now %d bytes, %v", len(b), err)
	}

	random, hits, rounds := crashSeed(t), 0, max(crashRuns(t, 4), 1)
	began := time.Now()
	admin := operatorOf(t, s.URL)
	admin.prints("as of log index", exitOK, "backup", filepath.Join(dir, "new.tar"))
	took := time.Since(began)
	for i := range rounds {
		file := filepath.Join(dir, fmt.Sprint("random", i))
		client := startChild(t, admin.env, nil, "backup", file)
		<-time.After(time.Duration(random.Int64N(int64(took)))) // the moment is the experiment
		client.kill()
		if len(glob(t, filepath.Join(dir, "."+filepath.Base(file)+".*"))) > 0 {
			hits++
		}
		if _, err := os.Stat(file); err == nil {
			admin.prints("sound", exitOK, "check", file)
		}
		// The server notices that nobody reads any more, and makes the next one.
		until(t, "the server makes another backup", func() (bool, string) {
			r := runProcess(t, admin.env, "backup", "--force", file)
			return r.Status == exitOK, r.Stderr
		})
		admin.prints("sound", exitOK, "check", file)
	}
	t.Logf("%d of %d random kills came while the client wrote", hits, rounds)
	if status := s.stop(); status != exitOK {
		t.Errorf("status %d", status)
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// `harepost restore` is killed: there is no directory under the name that was
// asked for, or a whole one; and running it again restores.
func TestKillOfARestoreLeavesNoHalf(t *testing.T) {
	t.Parallel()
	s, file, whole := smallBackup(t)
	s.stop()
	dir := t.TempDir()
	u := user{t, nil}
	again := func(data string) {
		t.Helper()
		u.prints("as of log index", exitOK, "restore", file, data)
		u.prints("sound", exitOK, "check", data)
		absent(t, "a restore", data+restoringSuffix)
	}

	data := filepath.Join(dir, "halfway")
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	half := startChild(t, nil, reading, "restore", "-", data)
	reading.Close()
	// When it is written, all but what the pipe holds has been read.
	if _, err := writing.Write(whole[:len(whole)/2]); err != nil {
		t.Fatal(err)
	}
	if !half.kill() {
		t.Fatalf("ended by itself: %s", half.output.String())
	}
	writing.Close()
	absent(t, "a killed restore", data)
	if _, err := os.Stat(data + restoringSuffix); err != nil {
		t.Errorf("the kill was meant to leave what is unfinished: %v", err)
	}
	again(data)

	random, hits, rounds := crashSeed(t), 0, max(crashRuns(t, 4), 1)
	began := time.Now()
	again(filepath.Join(dir, "unharmed"))
	took := time.Since(began)
	for i := range rounds {
		data := filepath.Join(dir, fmt.Sprint("random", i))
		restore := startChild(t, nil, nil, "restore", file, data)
		<-time.After(time.Duration(random.Int64N(int64(took)))) // the moment is the experiment
		restore.kill()
		if _, err := os.Stat(data + restoringSuffix); err == nil {
			hits++
		}
		if _, err := os.Stat(data); err == nil {
			u.prints("sound", exitOK, "check", data)
			continue
		}
		again(data)
	}
	t.Logf("%d of %d random kills came while the directory was unfinished", hits, rounds)
}
