package sensor

import (
	"bytes"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// usage is what the sensor itself costs.
type usage struct {
	rss uint64
	cpu time.Duration // user and system, since the start
}

func readUsage() usage {
	var u usage
	var r unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &r) == nil {
		u.cpu = time.Duration(r.Utime.Nano() + r.Stime.Nano())
	}
	// The second field of statm is the resident set now, in pages; rusage has only its peak.
	if raw, err := os.ReadFile("/proc/self/statm"); err == nil {
		if fields := bytes.Fields(raw); len(fields) > 1 {
			if pages, err := strconv.ParseUint(string(fields[1]), 10, 64); err == nil {
				u.rss = pages * uint64(os.Getpagesize())
			}
		}
	}
	return u
}
