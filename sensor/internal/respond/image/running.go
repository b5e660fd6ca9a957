package image

import (
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// HashOf is the content that a process was executed from, from its own link to
// it, also when the file has no name any more; false when it cannot be told.
func (g *Guard) HashOf(proc string, pid int, sizes map[Hash]int64) (Hash, bool) {
	fd, err := unix.Open(filepath.Join(proc, strconv.Itoa(pid), "exe"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return Hash{}, false
	}
	defer func() { _ = unix.Close(fd) }()
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > MaxBytes {
		return Hash{}, false
	}
	mayBe := false
	for _, size := range sizes {
		mayBe = mayBe || size < 0 || size == st.Size
	}
	if !mayBe {
		return Hash{}, false
	}
	g.cacheMu.Lock()
	hash, cached := g.cache[identityOf(&st)]
	g.cacheMu.Unlock()
	if cached {
		return hash, true
	}
	hash, err = g.hash(fd, func() bool { return false })
	return hash, err == nil
}

// IsBlocked says whether a content is now.
func (g *Guard) IsBlocked(hash Hash) bool {
	blocked := g.blocked.Load()
	if blocked == nil {
		return false
	}
	_, bad := (*blocked)[hash]
	return bad
}

// Blocked are the contents that are.
func (g *Guard) Blocked() map[Hash]int64 {
	if blocked := g.blocked.Load(); blocked != nil {
		return *blocked
	}
	return nil
}

// Running are the PIDs that run one of the contents.
func (g *Guard) Running(proc string, sizes map[Hash]int64) []int {
	names, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			continue
		}
		if hash, ok := g.HashOf(proc, pid, sizes); ok {
			if _, bad := sizes[hash]; bad {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}
