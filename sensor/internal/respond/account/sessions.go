package account

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Owned are the processes that belong to a user's log-ins, whatever they became:
// their login UID is the user's, which neither su nor sudo changes. Of a person's
// account also all that run with the user's real or effective UID.
func Owned(proc string, uid uint32) []int {
	names, _ := filepath.Glob(filepath.Join(proc, "[0-9]*"))
	var pids []int
	for _, name := range names {
		pid, err := strconv.Atoi(filepath.Base(name))
		if err == nil && owns(name, uid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func owns(dir string, uid uint32) bool {
	if raw, err := readSome(filepath.Join(dir, "loginuid")); err == nil && strings.TrimSpace(string(raw)) == strconv.FormatUint(uint64(uid), 10) {
		return true
	}
	if uid < FirstPerson {
		return false
	}
	raw, err := readSome(filepath.Join(dir, "status"))
	if err != nil {
		return false
	}
	for line := range bytes.Lines(raw) {
		ids, ok := bytes.CutPrefix(line, []byte("Uid:"))
		if !ok {
			continue
		}
		fields := strings.Fields(string(ids)) // real, effective, saved, file system
		want := strconv.FormatUint(uint64(uid), 10)
		return len(fields) == 4 && (fields[0] == want || fields[1] == want)
	}
	return false
}

func readSome(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return io.ReadAll(io.LimitReader(f, 16<<10))
}
