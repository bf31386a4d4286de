package bench

import (
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// allocatedBytes is what the files below a directory take of the disk: less than
// their sizes where they have holes.
func allocatedBytes(dir string) (total uint64, err error) {
	err = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		total += uint64(st.Blocks) * 512 // the unit of st_blocks, whatever the file system's is
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("bench: what %s takes of the disk: %w", dir, err)
	}
	return total, nil
}
