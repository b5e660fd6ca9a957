package session

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// maxLook bounds what one look takes of a file that others write, 1,000 records; the rest is
// the next look's.
const maxLook = 1000 * recordSize

// file follows a file of records from where it ended at the first look.
type file struct {
	path   string
	inode  uint64
	offset int64
	looked bool
}

// look returns what was added since the last one. No file is no fault: many systems
// have none.
func (f *file) look() ([]record, error) {
	open, err := os.OpenFile(f.path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, fs.ErrNotExist) {
		f.looked, f.inode, f.offset = true, 0, 0
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("opening login records: %w", err)
	}
	defer open.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(open.Fd()), &stat); err != nil {
		return nil, fmt.Errorf("looking at %s: %w", f.path, err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, fmt.Errorf("reading %s: not a regular file", f.path)
	}
	switch {
	case !f.looked:
		f.inode, f.offset = stat.Ino, stat.Size-stat.Size%recordSize
	case f.inode != stat.Ino || stat.Size < f.offset: // rotated, or cut short
		f.inode, f.offset = stat.Ino, 0
	}
	f.looked = true
	raw, err := io.ReadAll(io.NewSectionReader(open, f.offset, min(maxLook, max(stat.Size-f.offset, 0))))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", f.path, err)
	}
	records := parse(raw)
	f.offset += int64(len(records)) * recordSize
	return records, nil
}
