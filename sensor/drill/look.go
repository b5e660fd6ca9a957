package drill

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/vedette-edr/vedette/proto/drill"
)

// Bounds of a look at what a drill is about.
const (
	maxLooked = 20_000  // files
	maxHashed = 1 << 20 // bytes of one
)

// sight is what lies at a drill's paths on the host: each file's kind, mode, owner and content.
type sight map[string]string

// look at the host's files, before and after.
func look(d drill.Drill) sight {
	seen := sight{}
	for _, path := range strings.Fields(d.Paths) {
		_ = filepath.WalkDir(path, func(at string, e fs.DirEntry, err error) error {
			if err != nil || len(seen) >= maxLooked {
				return nil //nolint:nilerr // what is not there is seen as not being there
			}
			seen[at] = appearance(at)
			return nil
		})
	}
	return seen
}

func appearance(path string) string {
	st, err := os.Lstat(path)
	if err != nil {
		return "gone"
	}
	text := st.Mode().String()
	if raw, ok := st.Sys().(*syscall.Stat_t); ok {
		text += fmt.Sprintf(" %d:%d %d", raw.Uid, raw.Gid, raw.Ino)
	}
	switch {
	case st.Mode().Type() == fs.ModeSymlink:
		to, _ := os.Readlink(path)
		text += " " + to
	case st.Mode().IsRegular():
		f, err := os.Open(path)
		if err != nil {
			break
		}
		defer f.Close()
		sum := sha256.New()
		n, _ := io.CopyN(sum, f, maxHashed)
		text += fmt.Sprintf(" %d %d %x %d", st.Size(), n, sum.Sum(nil), st.ModTime().UnixNano())
	}
	return text
}

// differs names what is not as it was.
func (s sight) differs(after sight) (left []string) {
	for _, path := range slices.Sorted(maps.Keys(s)) {
		if after[path] != s[path] {
			left = append(left, path+" is not as it was")
		}
	}
	for _, path := range slices.Sorted(maps.Keys(after)) {
		if _, was := s[path]; !was {
			left = append(left, path+" was not there before")
		}
	}
	return left
}
