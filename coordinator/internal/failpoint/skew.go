//go:build skew

package failpoint

import (
	"os"
	"strconv"
	"strings"
	"time"
)

// Clock names the file that says by how many seconds the wall clock is moved, now and later.
// What time.Skew is says scripts/skewed-clock.sh.
const Clock = "VEDETTE_CLOCK"

func init() {
	path := os.Getenv(Clock)
	if path == "" {
		return
	}
	set := func() {
		text, err := os.ReadFile(path)
		if seconds, nerr := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && nerr == nil {
			time.Skew(seconds)
		}
	}
	set()
	go func() {
		for range time.Tick(50 * time.Millisecond) {
			set()
		}
	}()
}
