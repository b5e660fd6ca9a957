package consensus

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"
)

// Ensure only a write that found no room is tried again, and a fsync never is.
func TestNoRoom(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		want bool
	}{
		"a write without room":    {&fs.PathError{Op: "write", Err: syscall.ENOSPC}, true},
		"preallocation":           {fmt.Errorf("making a segment: %w", syscall.ENOSPC), true},
		"over the quota":          {&fs.PathError{Op: "write", Err: syscall.EDQUOT}, true},
		"a fsync without room":    {fmt.Errorf("storing: %w", &fs.PathError{Op: "sync", Err: syscall.ENOSPC}), false},
		"a fsync that failed":     {&fs.PathError{Op: "sync", Err: syscall.EIO}, false},
		"a write that failed":     {&fs.PathError{Op: "write", Err: syscall.EIO}, false},
		"a read-only file system": {&fs.PathError{Op: "open", Err: syscall.EROFS}, false},
		"anything else":           {errors.New("x"), false},
	} {
		if got := noRoom(c.err); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
