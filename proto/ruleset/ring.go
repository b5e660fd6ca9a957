package ruleset

import (
	"crypto/sha256"
	"encoding/binary"
)

// Rings are what part of the fleet has a set from each ring on, in parts of a hundred.
var Rings = []uint32{1, 5, 25, 100}

// Place is a host's in the order in which the fleet gets sets: the same for ever, spread
// evenly over all numbers.
func Place(host string) uint32 {
	sum := sha256.Sum256([]byte("vedette-ring\x00" + host))
	return binary.BigEndian.Uint32(sum[:])
}

// RingOf is the first ring that a place is in.
func RingOf(place uint32) int {
	for ring, percent := range Rings {
		if uint64(place)*100 < uint64(percent)<<32 {
			return ring
		}
	}
	return len(Rings) - 1
}

// States of a set: on its way, with all hosts, taken back, overtaken by another.
const (
	Rolling  = "rolling"
	Complete = "complete"
	Halted   = "halted"
	Replaced = "replaced"
)

// Covers says whether a host is to use a set that has gone so far; first is in the first
// ring whatever its place is, so that no ring is empty.
func Covers(state string, ring int, first, host string) bool {
	switch state {
	case Complete:
		return true
	case Rolling:
		return host == first || RingOf(Place(host)) <= ring
	}
	return false
}
