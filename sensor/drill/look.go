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
	"strconv"
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
		// What a drill would write through a link is what it leads to.
		if there, err := os.Stat(path); err == nil {
			text += content(path, there)
		}
	default:
		text += content(path, st)
	}
	return text
}

// content of an ordinary file. A log has none, only its size: its host writes to it meanwhile.
func content(path string, st fs.FileInfo) string {
	if !st.Mode().IsRegular() {
		return ""
	}
	if strings.HasPrefix(path, "/var/log/") {
		return fmt.Sprint(grows, st.Size())
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	sum := sha256.New()
	n, _ := io.CopyN(sum, f, maxHashed)
	return fmt.Sprintf(" %d %d %x %d", st.Size(), n, sum.Sum(nil), st.ModTime().UnixNano())
}

// grows comes before the size of what may have grown.
const grows = " at least "

func same(before, after string) bool {
	was, least, grew := strings.Cut(before, grows)
	is, size, grown := strings.Cut(after, grows)
	if !grew || !grown {
		return before == after
	}
	m, err1 := strconv.ParseInt(least, 10, 64)
	n, err2 := strconv.ParseInt(size, 10, 64)
	return was == is && err1 == nil && err2 == nil && n >= m
}

// differs names what is not as it was.
func (s sight) differs(after sight) (left []string) {
	for _, path := range slices.Sorted(maps.Keys(s)) {
		if !same(s[path], after[path]) {
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
