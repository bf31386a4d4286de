package raftstore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/cockroachdb/errors/oserror"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/harepost/harepost/wal"
)

// The small files in DIR/cluster are JSON that a person can read, with a version and a checksum:
//
//	{"version": 1, "crc32c": "1a2b3c4d", "content": {...}}
//
// The checksum is that of content without the space between its tokens. They are replaced as a whole: what is
// there after a crash is the file of before or the new one.
type sealedFile struct {
	Version int             `json:"version"`
	CRC32C  string          `json:"crc32c"`
	Content json.RawMessage `json:"content"`
}

// sealedFileBytes bounds what is read of such a file.
const sealedFileBytes = 4 << 20

var (
	// ErrDamaged means that a file of the cluster directory is not what was written.
	ErrDamaged = errors.New("raftstore: the file is damaged")
	// ErrFuture means that a later version of the program wrote it.
	ErrFuture = errors.New("raftstore: a newer harepost wrote the file")
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func contentSum(content []byte) (string, error) {
	var compact bytes.Buffer
	if err := json.Compact(&compact, content); err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(compact.Bytes(), castagnoli)), nil
}

// readSealed reads a file into content. ok is false when there is none.
func readSealed(fs vfs.FS, path string, version int, content any) (ok bool, err error) {
	f, err := fs.Open(path)
	if oserror.IsNotExist(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("raftstore: open %s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, sealedFileBytes+1))
	if err = errors.Join(err, f.Close()); err != nil {
		return false, fmt.Errorf("raftstore: read %s: %w", path, err)
	}
	if len(text) > sealedFileBytes {
		return false, fmt.Errorf("%w: %s is larger than %d bytes", ErrDamaged, path, sealedFileBytes)
	}
	var s sealedFile
	if err := json.Unmarshal(text, &s); err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	if s.Version > version {
		return false, fmt.Errorf("%w: %s has version %d, this one knows %d: run the later version", ErrFuture, path, s.Version, version)
	}
	sum, err := contentSum(s.Content)
	if err == nil && (sum != s.CRC32C || s.Version < 1) {
		err = fmt.Errorf("its checksum is %s, the file says %q", sum, s.CRC32C)
	}
	if err == nil {
		err = json.Unmarshal(s.Content, content)
	}
	if err != nil {
		return false, fmt.Errorf("%w: %s: %w", ErrDamaged, path, err)
	}
	return true, nil
}

// writeSealed puts content in the place of a file, durably before it returns. Two writers of one file take turns
// elsewhere.
func writeSealed(fs vfs.FS, path string, version int, content any) error {
	raw, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("raftstore: write %s: %w", path, err)
	}
	sum, err := contentSum(raw)
	if err != nil {
		return fmt.Errorf("raftstore: write %s: %w", path, err)
	}
	text, err := json.MarshalIndent(sealedFile{Version: version, CRC32C: sum, Content: raw}, "", "  ")
	if err != nil {
		return fmt.Errorf("raftstore: write %s: %w", path, err)
	}
	if err := replaceFile(fs, path, append(text, '\n')); err != nil {
		return fmt.Errorf("raftstore: write %s: %w", path, err)
	}
	return nil
}

func replaceFile(fs vfs.FS, path string, text []byte) error {
	unfinished := path + ".tmp"
	f, err := fs.Create(unfinished, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(unfinished, path); err != nil {
		return err
	}
	return wal.SyncDir(fs, fs.PathDir(path))
}
