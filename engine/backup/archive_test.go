package backup

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func sample(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := NewWriter(&out, Manifest{Version: "v1", CreatedAt: time.Unix(1_800_000_000, 0).UTC(), Index: 42})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"state/000004.sst": strings.Repeat("rows ", 700), "wal/00000000000000000001-00000001.wal": "entries", "state/empty": "",
	} {
		if err := w.Add(name, int64(len(text)), strings.NewReader(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

type kept struct{ bytes.Buffer }

func (*kept) Close() error { return nil }

func TestWhatIsWrittenIsRead(t *testing.T) {
	files := map[string]*kept{}
	seen, err := Read(bytes.NewReader(sample(t)), func(name string) (io.WriteCloser, error) {
		files[name] = new(kept)
		return files[name], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{Format: Format, Version: "v1", CreatedAt: time.Unix(1_800_000_000, 0).UTC(), Index: 42}
	if seen.Manifest != want || seen.Files != 3 || seen.Bytes != 3507 {
		t.Errorf("%+v", seen)
	}
	if files["wal/00000000000000000001-00000001.wal"].String() != "entries" || files["state/000004.sst"].Len() != 3500 || files["state/empty"].Len() != 0 {
		t.Errorf("%d files", len(files))
	}
}

type unsynced struct{ bytes.Buffer }

var errUnsynced = errors.New("sync: input/output error")

func (*unsynced) Close() error { return errUnsynced }

// A file that cannot be closed, which is when it is synced, was not restored.
func TestAFailedCloseIsAFailedRead(t *testing.T) {
	_, err := Read(bytes.NewReader(sample(t)), func(string) (io.WriteCloser, error) { return new(unsynced), nil })
	if !errors.Is(err, errUnsynced) {
		t.Errorf("%v", err)
	}
}

// Wherever a backup is cut off, it is noticed.
func TestEveryCutIsFound(t *testing.T) {
	whole := sample(t)
	end := len(bytes.TrimRight(whole, "\x00"))
	for n := range end {
		if _, err := Read(bytes.NewReader(whole[:n]), nil); err == nil {
			t.Fatalf("the first %d of %d bytes pass for a backup", n, len(whole))
		}
	}
}

// Whichever bit of a file's contents flips, it is noticed. In the padding and in
// what tar has about a file beside name and size, a flip may be harmless.
func TestFlippedBitsAreFoundOrHarmless(t *testing.T) {
	whole := sample(t)
	want := map[string]string{}
	collect := func(files map[string]string) func(string) (io.WriteCloser, error) {
		return func(name string) (io.WriteCloser, error) { return &named{name: name, to: files}, nil }
	}
	if _, err := Read(bytes.NewReader(whole), collect(want)); err != nil {
		t.Fatal(err)
	}
	found := 0
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		got := map[string]string{}
		if _, err := Read(bytes.NewReader(b), collect(got)); err != nil {
			found++
			continue
		}
		if len(got) != len(want) {
			t.Fatalf("byte %d: %d files, %d are wanted", i, len(got), len(want))
		}
		for name, text := range want {
			if got[name] != text {
				t.Fatalf("byte %d: %s changed, and nobody noticed", i, name)
			}
		}
	}
	if found < 3500 {
		t.Errorf("only %d flips were found", found)
	}
}

type named struct {
	bytes.Buffer
	name string
	to   map[string]string
}

func (n *named) Close() error { n.to[n.name] = n.String(); return nil }

// An archive that somebody made to write elsewhere is refused before it does.
func TestHostileNamesAreRefused(t *testing.T) {
	for _, name := range []string{
		"../x", "state/../../x", "/etc/passwd", "state/", "state", "state/a/b", "wal/.hidden", "wal/a b", "other/x", "x",
		"state/" + strings.Repeat("a", 300), "state/\x00", "wal\\x", "state/x\n",
	} {
		var out bytes.Buffer
		w, err := NewWriter(&out, Manifest{})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Add(name, 1, strings.NewReader("x")); err != nil {
			continue // tar itself will not have it
		}
		w.Close()
		_, err = Read(&out, func(name string) (io.WriteCloser, error) {
			t.Errorf("%q is made", name)
			return new(kept), nil
		})
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, kind := range []byte{tar.TypeSymlink, tar.TypeLink, tar.TypeDir, tar.TypeFifo, tar.TypeChar} {
		var out bytes.Buffer
		w, _ := NewWriter(&out, Manifest{})
		if err := w.tar.WriteHeader(&tar.Header{Typeflag: kind, Name: "state/x", Linkname: "/etc/passwd"}); err != nil {
			t.Fatal(err)
		}
		w.Close()
		if _, err := Read(&out, nil); !errors.Is(err, ErrDamaged) {
			t.Errorf("type %c: %v", kind, err)
		}
	}
}

func TestOtherFilesAreNoBackups(t *testing.T) {
	noise := make([]byte, 4096)
	rand.NewChaCha8([32]byte{}).Read(noise)
	var other bytes.Buffer
	tw := tar.NewWriter(&other)
	tw.WriteHeader(&tar.Header{Name: "holiday.jpg", Size: 1, Mode: 0o600})
	tw.Write([]byte("x"))
	tw.Close()
	var newer bytes.Buffer
	tw = tar.NewWriter(&newer)
	text := `{"format":2,"harepost_version":"v9"}`
	tw.WriteHeader(&tar.Header{Name: manifestName, Size: int64(len(text)), Mode: 0o600})
	tw.Write([]byte(text))
	tw.Close()
	for what, b := range map[string][]byte{"empty": nil, "noise": noise, "another tar": other.Bytes(), "a newer one": newer.Bytes(),
		"twice": append(bytes.TrimRight(sample(t), "\x00"), sample(t)...), "with a tail": append(sample(t), "tail"...)} {
		if _, err := Read(bytes.NewReader(b), nil); err == nil {
			t.Errorf("%s passes for a backup", what)
		} else {
			t.Logf("%s: %v", what, err)
		}
	}
	if _, err := Read(&newer, nil); err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("a newer one: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(sample(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := Read(bytes.NewReader(b), func(name string) (io.WriteCloser, error) {
			if !isOurs(name) {
				t.Fatalf("%q is made", name)
			}
			return new(kept), nil
		})
		if err != nil && err.Error() == "" {
			t.Fatal("an error without words")
		}
	})
}

// The size of a backup is known before its files are read.
func TestTheSizeIsKnownBefore(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 50 {
		m := Manifest{Version: "v1", CreatedAt: time.Unix(1_800_000_000, int64(n%2)*1000), Index: rng.Uint64() >> rng.IntN(64)}
		var files []File
		for range n {
			name := StateDir + "/" + strings.Repeat("long", rng.IntN(60)) + "000004.sst" // some do not fit into a header
			files = append(files, File{name, rng.Int64N(3 * tarBlock)})
		}
		want, err := Size(m, files)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		w, err := NewWriter(&out, m)
		for _, f := range files {
			err = errors.Join(err, w.Add(f.Name, f.Bytes, bytes.NewReader(make([]byte, f.Bytes))))
		}
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		if int64(out.Len()) != want {
			t.Errorf("%d files take %d bytes, not %d as was said", n, out.Len(), want)
		}
	}
}

// Padding that a writer does not write is told.
func TestPaddingIsTold(t *testing.T) {
	for n := range 3 {
		seen, err := Read(bytes.NewReader(append(sample(t), make([]byte, n)...)), nil)
		if err != nil || seen.Padding != int64(n) {
			t.Errorf("%d zeros: %d, %v", n, seen.Padding, err)
		}
	}
}
