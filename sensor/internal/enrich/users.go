package enrich

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"time"
)

const (
	// usersRefresh is how often passwd's modification time is looked at.
	usersRefresh = uint64(5e9)
	maxPasswd    = 4 << 20
)

// users names UIDs by passwd, without cgo and so without NSS: a user that only a
// directory service knows is shown by number.
type users struct {
	path   string
	names  map[uint32]string
	looked uint64
	stamp  time.Time
	size   int64
}

func (u *users) name(uid uint32, now uint64) string {
	if u.names == nil || now > u.looked+usersRefresh {
		u.looked = now
		u.refresh()
	}
	if n, ok := u.names[uid]; ok {
		return n
	}
	return strconv.FormatUint(uint64(uid), 10)
}

func (u *users) refresh() {
	info, err := os.Stat(u.path)
	if err != nil || !info.Mode().IsRegular() {
		if u.names == nil {
			u.names = map[uint32]string{0: "root"}
		}
		return
	}
	if u.names != nil && info.ModTime().Equal(u.stamp) && info.Size() == u.size {
		return
	}
	file, err := os.Open(u.path)
	if err != nil {
		return
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxPasswd))
	if err != nil {
		return
	}
	u.names, u.stamp, u.size = parsePasswd(raw), info.ModTime(), info.Size()
}

// parsePasswd reads passwd(5); the first entry of a UID is its name.
func parsePasswd(raw []byte) map[uint32]string {
	names := map[uint32]string{}
	for line := range bytes.Lines(raw) {
		fields := bytes.SplitN(bytes.TrimRight(line, "\n"), []byte(":"), 4)
		if len(fields) < 4 || len(fields[0]) == 0 || fields[0][0] == '#' {
			continue
		}
		uid, err := strconv.ParseUint(string(fields[2]), 10, 32)
		if err != nil {
			continue
		}
		if _, have := names[uint32(uid)]; !have {
			names[uint32(uid)] = string(fields[0])
		}
	}
	if _, have := names[0]; !have {
		names[0] = "root"
	}
	return names
}
