package drill

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlays keep the host's symlinks, and what those lead to is the host's own. So a drill
// writes only by what is here, which leaves nothing that is the drill's own.

// own is where a path leads, when that is the drill's own; else the drill is skipped.
func (s *stage) own(path string) (string, error) {
	to, err := resolve(path)
	if err != nil {
		return "", lacks(fmt.Sprintf("%s within its own folders (%v)", path, err))
	}
	if !slices.ContainsFunc(s.roots(), func(root string) bool { return to == root || strings.HasPrefix(to, root+"/") }) {
		return "", lacks(fmt.Sprintf("%s within its own folders: it leads to %s, which is the host's", path, to))
	}
	// An overlay is no copy of a device.
	if st, err := os.Lstat(to); err == nil && !st.IsDir() && !st.Mode().IsRegular() {
		return "", lacks(path + " as an ordinary file")
	}
	return to, nil
}

// roots are the overlays, and the folders that bear the run's nonce.
func (s *stage) roots() (all []string) {
	places := append(strings.Fields(s.Private), s.dir)
	for _, parent := range []string{"/tmp", "/var/tmp", "/dev/shm"} {
		if at, err := filepath.EvalSymlinks(parent); err == nil {
			all = append(all, filepath.Join(at, s.placeName(false)), filepath.Join(at, s.placeName(true)))
		}
	}
	for _, place := range places {
		if at, err := filepath.EvalSymlinks(place); err == nil && at != "/" {
			all = append(all, at)
		}
	}
	return all
}

// resolve follows every symlink; what is missing at the end of a path may be missing.
func resolve(path string) (string, error) {
	to, err := filepath.EvalSymlinks(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return to, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", errors.New("it is a link to what is not there")
	}
	parent, err := resolve(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}

// folder makes a folder with those above it.
func (s *stage) folder(path string) (string, error) {
	to, err := s.own(path)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return "", fmt.Errorf("making a folder: %w", err)
	}
	return to, nil
}

// open makes or opens a file to be written; folders that are missing are made. It follows no
// link even if one came after the look.
func (s *stage) open(path string, flags int) (*os.File, error) {
	if _, err := s.folder(filepath.Dir(path)); err != nil {
		return nil, err
	}
	to, err := s.own(path)
	if err != nil {
		return nil, err
	}
	f, err := openNoLinks(to, flags)
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", path, err)
	}
	return f, nil
}

func openNoLinks(path string, flags int) (*os.File, error) {
	flags |= unix.O_WRONLY | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW
	fd, err := unix.Openat2(unix.AT_FDCWD, path, &unix.OpenHow{Flags: uint64(flags), Mode: 0o644, Resolve: unix.RESOLVE_NO_SYMLINKS}) //nolint:gosec // flags are positive
	if errors.Is(err, unix.ENOSYS) {                                                                                                  // before Linux 5.6
		fd, err = unix.Open(path, flags, 0o644)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil //nolint:gosec // a descriptor
}

// write makes or adds to a file.
func (s *stage) write(path, text string) error {
	f, err := s.open(path, unix.O_APPEND)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, text)
	return errors.Join(err, f.Close())
}

// link makes a symlink.
func (s *stage) link(to, path string) error {
	dir, err := s.folder(filepath.Dir(path))
	if err != nil {
		return err
	}
	return os.Symlink(to, filepath.Join(dir, filepath.Base(path)))
}

// owning does something to a path only if it is the drill's own.
func owning(path string, do func(s *stage, to string) error) func(*stage) error {
	return func(s *stage) error {
		to, err := s.own(path)
		if err != nil {
			return err
		}
		return do(s, to)
	}
}

// cuts empties a file.
func cuts(path string) func(*stage) error {
	return owning(path, func(_ *stage, to string) error { return os.Truncate(to, 0) })
}

// rewrites writes a file as it is.
func rewrites(path string) func(*stage) error {
	return func(s *stage) error {
		raw, err := os.ReadFile(path)
		if err != nil {
			return lacks(path)
		}
		f, err := s.open(path, unix.O_TRUNC)
		if err != nil {
			return err
		}
		_, err = f.Write(raw)
		return errors.Join(err, f.Close())
	}
}
