// Package backup is the form of a backup: a tar stream that says of itself
// whether it is whole.
//
//	manifest.json    what it is a backup of, see Manifest; always first
//	state/...        the files of a Pebble checkpoint
//	wal/...          the files of a log, from the oldest entry that the state needs
//	SHA256SUMS       a line for each file above, as sha256sum prints it; always last
//
// A stream that was cut off has no SHA256SUMS, one that was changed does not fit
// to it, and one with a file too many or too few does not either. So a backup can
// be checked with `tar xf` and `sha256sum -c` where no harepost is at hand. The
// sums are against accidents, not against people: whoever can change a backup
// can write sums for it.
//
// What a backup holds is as secret as the data directory. Under
// --encryption-key-file it is as sealed, too; the key file is not in it.
package backup

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"
)

// Format is the version of the form that this package writes and reads.
const Format = 1

// The directories inside a backup, which are the engine's own.
const (
	StateDir = "state"
	LogDir   = "wal"
)

const (
	manifestName = "manifest.json"
	sumsName     = "SHA256SUMS"

	mostManifestBytes = 64 << 10
	mostSumsBytes     = 64 << 20
)

// A Manifest says what a backup is of.
type Manifest struct {
	Format    int       `json:"format"`
	Version   string    `json:"harepost_version,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// Index is the log index that the backup is as of: everything acknowledged up
	// to it is in it, and nothing else.
	Index     uint64 `json:"log_index"`
	Encrypted bool   `json:"encrypted"` // needs the key file to be opened
}

// bytes is the manifest as it is written.
func (m Manifest) bytes() ([]byte, error) {
	m.Format = Format
	b, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("backup: manifest: %w", err)
	}
	return append(b, '\n'), nil
}

// ErrDamaged says that a backup is not what was written: it was cut off or
// changed. Errors that wrap it name the place.
var ErrDamaged = errors.New("the backup is damaged")

// A Writer writes a backup.
type Writer struct {
	tar  *tar.Writer
	sums bytes.Buffer
	at   time.Time
}

// NewWriter begins a backup on w.
func NewWriter(w io.Writer, m Manifest) (*Writer, error) {
	b, err := m.bytes()
	if err != nil {
		return nil, err
	}
	bw := &Writer{tar: tar.NewWriter(w), at: m.CreatedAt}
	return bw, bw.Add(manifestName, int64(len(b)), bytes.NewReader(b))
}

// Add writes a file of so many bytes. The name is a path with slashes.
func (w *Writer) Add(name string, size int64, from io.Reader) error {
	sum := sha256.New()
	if err := w.header(name, size); err != nil {
		return err
	}
	if _, err := io.CopyN(io.MultiWriter(sum, w.tar), from, size); err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	}
	fmt.Fprintf(&w.sums, "%x  %s\n", sum.Sum(nil), name)
	return nil
}

func (w *Writer) header(name string, size int64) error {
	err := w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o600, ModTime: w.at, Format: tar.FormatPAX})
	if err != nil {
		return fmt.Errorf("backup: %s: %w", name, err)
	}
	return nil
}

// Close ends the backup: without it, what was written is none. It does not
// close what is below.
func (w *Writer) Close() error {
	if err := w.header(sumsName, int64(w.sums.Len())); err != nil {
		return err
	}
	if _, err := w.tar.Write(w.sums.Bytes()); err != nil {
		return fmt.Errorf("backup: %s: %w", sumsName, err)
	}
	if err := w.tar.Close(); err != nil {
		return fmt.Errorf("backup: %w", err)
	}
	return nil
}

// A File is one that a backup is going to have.
type File struct {
	Name  string
	Bytes int64
}

// Size is how many bytes a Writer writes of a manifest and these files.
func Size(m Manifest, files []File) (int64, error) {
	b, err := m.bytes()
	if err != nil {
		return 0, err
	}
	var size, sums int64
	add := func(name string, bytes int64) error {
		var n counter
		head := Writer{tar: tar.NewWriter(&n), at: m.CreatedAt} // one for each: it wants to be given the file
		if err := head.header(name, bytes); err != nil {
			return err
		}
		size += int64(n) + (bytes+tarBlock-1)/tarBlock*tarBlock
		sums += int64(2*sha256.Size + len("  ") + len(name) + len("\n"))
		return nil
	}
	err = add(manifestName, int64(len(b)))
	for _, f := range files {
		err = errors.Join(err, add(f.Name, f.Bytes))
	}
	if err == nil {
		err = add(sumsName, sums)
	}
	return size + tarEnd, err
}

const (
	tarBlock = 512
	tarEnd   = 2 * tarBlock // of zeros
)

type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// Summary is what Read has seen.
type Summary struct {
	Manifest Manifest
	Files    int
	Bytes    int64 // of the files in it
	Padding  int64 // zeros behind its end, which a Writer does not write
}

// Read reads a backup to its end and checks all of it. create, if not nil, is
// called for each file of the directories, and what it returns gets the file's
// bytes and is closed; its names are one of the directories and a plain file name.
// Nothing that was written is known to be good before Read returns without an
// error. An error that wraps ErrDamaged is about the backup; others are about r
// or what create has made.
func Read(r io.Reader, create func(name string) (io.WriteCloser, error)) (Summary, error) {
	buffered := bufio.NewReaderSize(r, 256<<10)
	rd := &reader{tar: tar.NewReader(buffered), create: create, sums: make(map[string]string)}
	if err := rd.run(); err != nil {
		return rd.seen, err
	}
	// tar ends with zeros; anything else behind it is not ours.
	rest, err := io.Copy(io.Discard, zeros{buffered})
	rd.seen.Padding = rest
	switch {
	case errors.Is(err, errNotZero):
		return rd.seen, damaged("the backup is whole, but other bytes follow its end after %d of padding: was something appended to it?", rest)
	case err != nil:
		return rd.seen, readError("behind the last file", err)
	}
	return rd.seen, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
}

// zeros reads zeros, and errNotZero where there is anything else.
type zeros struct{ r io.Reader }

var errNotZero = errors.New("not zero")

func (z zeros) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if i := slices.IndexFunc(p[:n], func(b byte) bool { return b != 0 }); i >= 0 {
		return i, errNotZero
	}
	return n, err
}

type reader struct {
	tar    *tar.Reader
	create func(string) (io.WriteCloser, error)
	sums   map[string]string // by name, in hex
	seen   Summary
}

func (r *reader) run() error {
	for first := true; ; first = false {
		h, err := r.tar.Next()
		if errors.Is(err, io.EOF) {
			return damaged("it ends without %s: it was cut off", sumsName)
		}
		if err != nil {
			return readError("between files", err)
		}
		switch {
		case first && h.Name != manifestName:
			return fmt.Errorf("this is no backup of harepost: it begins with %q, not with %s", h.Name, manifestName)
		case first:
			err = r.manifest(h)
		case h.Name == sumsName:
			if err := r.check(h); err != nil {
				return err
			}
			if _, err := r.tar.Next(); !errors.Is(err, io.EOF) {
				return damaged("it goes on after %s", sumsName)
			}
			return nil
		default:
			err = r.file(h)
		}
		if err != nil {
			return err
		}
	}
}

// readError tells damage of the archive from an error of what it is read from.
func readError(where string, err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF) {
		return damaged("%s: %v", where, err)
	}
	return fmt.Errorf("read the backup, %s: %w", where, err)
}

func (r *reader) manifest(h *tar.Header) error {
	b, err := r.whole(h, mostManifestBytes)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, &r.seen.Manifest); err != nil {
		return damaged("%s: %v", manifestName, err)
	}
	if f := r.seen.Manifest.Format; f != Format {
		return fmt.Errorf("the backup has format %d, this harepost reads %d: use the version that wrote it (%s) or a later one",
			f, Format, r.seen.Manifest.Version)
	}
	sum := sha256.Sum256(b)
	r.sums[h.Name] = hex.EncodeToString(sum[:])
	return nil
}

// whole reads a small file into memory.
func (r *reader) whole(h *tar.Header, most int64) ([]byte, error) {
	if h.Typeflag != tar.TypeReg || h.Size > most {
		return nil, damaged("%s is not a file of at most %d bytes", h.Name, most)
	}
	b, err := io.ReadAll(r.tar)
	if err != nil {
		return nil, readError("in "+h.Name, err)
	}
	return b, nil
}

func (r *reader) file(h *tar.Header) error {
	if h.Typeflag != tar.TypeReg || !isOurs(h.Name) {
		return damaged("%q is not a file that a backup has", h.Name)
	}
	if _, twice := r.sums[h.Name]; twice {
		return damaged("%q is in it twice", h.Name)
	}
	sum := sha256.New()
	if err := r.copy(h, sum); err != nil {
		return err
	}
	r.sums[h.Name] = hex.EncodeToString(sum.Sum(nil))
	r.seen.Files++
	r.seen.Bytes += h.Size
	return nil
}

func (r *reader) copy(h *tar.Header, sum io.Writer) (err error) {
	out := &outlet{w: io.Discard}
	if r.create != nil {
		f, createErr := r.create(h.Name)
		if createErr != nil {
			return createErr
		}
		// Close is where a restored file is synced.
		defer func() { err = errors.Join(err, f.Close()) }()
		out.w = f
	}
	// The sum first: not every Write leaves its argument alone.
	if _, err := io.Copy(io.MultiWriter(sum, out), r.tar); out.err != nil {
		return out.err
	} else if err != nil {
		return readError("in "+h.Name, err)
	}
	return nil
}

// outlet remembers that it was writing that failed, not reading.
type outlet struct {
	w   io.Writer
	err error
}

func (o *outlet) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.err = err
	}
	return n, err
}

// isOurs keeps a hostile archive from writing anywhere else.
func isOurs(name string) bool {
	dir, file := path.Split(name)
	if dir != StateDir+"/" && dir != LogDir+"/" || file == "" || file[0] == '.' {
		return false
	}
	for i := 0; i < len(file); i++ {
		switch c := file[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '-', c == '_':
		default:
			return false
		}
	}
	return len(file) <= 255
}

// check holds the sums against what was read.
func (r *reader) check(h *tar.Header) error {
	b, err := r.whole(h, mostSumsBytes)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		got, there := r.sums[name]
		switch {
		case !ok:
			return damaged("%s has a line that is none: %q", sumsName, line)
		case !there:
			return damaged("%s is missing", name)
		case got != sum:
			return damaged("%s has another checksum than when it was written", name)
		}
		delete(r.sums, name)
	}
	for name := range r.sums {
		return damaged("%s is in it, and not in %s", name, sumsName)
	}
	return nil
}
