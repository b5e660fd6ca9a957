package kernel

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// BootID is the kernel's random name of this boot.
func BootID() ([16]byte, error) {
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return [16]byte{}, fmt.Errorf("reading boot id: %w", err)
	}
	return parseBootID(string(text))
}

func parseBootID(text string) (id [16]byte, err error) {
	raw, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(text), "-", ""))
	if err != nil || len(raw) != len(id) {
		return id, fmt.Errorf("parsing boot id %q: want a UUID", strings.TrimSpace(text))
	}
	copy(id[:], raw)
	return id, nil
}

// WallClock is the time of day at bootNs nanoseconds of CLOCK_BOOTTIME.
func WallClock(bootNs uint64) time.Time { return event.WallClock(bootNs) }
