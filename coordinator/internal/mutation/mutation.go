// Package mutation damages files as disks, power cuts and people do, for tests: a seed and a
// number decide what is changed, so that what failed is made again.
package mutation

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

const (
	// page is what disks and databases change at once.
	page = 4096
	// few mutations are made where nobody asks for more (VEDETTE_MUTATIONS), of each file.
	few = 40
)

// Kinds of damage.
var kinds = []string{"flip", "flips", "cut", "zero", "noise", "swap", "repeat", "grow"}

// Dice are those of one mutation.
func Dice(seed uint64, file string, number int) *rand.Rand {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s %d", file, number)
	return rand.New(rand.NewPCG(seed, h.Sum64())) //nolint:gosec // it is to be drawn again
}

// Damage returns content damaged, never as it was, and how. Empty content stays so.
func Damage(content []byte, dice *rand.Rand) (damaged []byte, how string) {
	if len(content) == 0 {
		return nil, "nothing"
	}
	for {
		kind := kinds[dice.IntN(len(kinds))]
		damaged, how = damage(append([]byte(nil), content...), kind, dice)
		if string(damaged) != string(content) {
			return damaged, how
		}
	}
}

func damage(b []byte, kind string, dice *rand.Rand) ([]byte, string) {
	at := dice.IntN(len(b))
	size := min(page, len(b))
	block := at / size * size
	end := min(block+size, len(b))
	switch kind {
	case "flip", "flips":
		n := 1
		if kind == "flips" {
			n = 2 + dice.IntN(6)
		}
		for range n {
			b[dice.IntN(len(b))] ^= 1 << dice.IntN(8)
		}
		return b, fmt.Sprintf("%d bits flipped", n)
	case "cut":
		return b[:at], fmt.Sprintf("cut at %d", at)
	case "zero":
		clear(b[block:end])
		return b, fmt.Sprintf("zeros at %d", block)
	case "noise":
		for i := block; i < end; i++ {
			b[i] = byte(dice.Uint32())
		}
		return b, fmt.Sprintf("noise at %d", block)
	case "swap":
		other := dice.IntN(len(b)) / size * size
		for i := range min(end-block, len(b)-other) {
			b[block+i], b[other+i] = b[other+i], b[block+i]
		}
		return b, fmt.Sprintf("blocks at %d and %d swapped", block, other)
	case "repeat":
		return append(b[:end], append(append([]byte(nil), b[block:end]...), b[end:]...)...), fmt.Sprintf("block at %d twice", block)
	default:
		for range 1 + dice.IntN(page) {
			b = append(b, byte(dice.Uint32()))
		}
		return b, "noise at the end"
	}
}

// Tally is what came of a file's mutations.
type Tally struct{ Done, Refused, Healed, Harmless int }

// Each damages a file's content again and again and counts what look says came of it: "refused"
// (with what to do), "healed" (found, and made good from snapshots, log or the other nodes) or
// "harmless" (proved). Anything else is an error of the test. VEDETTE_MUTATIONS is how many,
// VEDETTE_SEED their seed.
func Each(t *testing.T, file string, content []byte, look func(damaged []byte) (came string, err error)) {
	t.Helper()
	count, err := strconv.Atoi(os.Getenv("VEDETTE_MUTATIONS"))
	if err != nil {
		count = few
	}
	seed, err := strconv.ParseUint(os.Getenv("VEDETTE_SEED"), 10, 64)
	if err != nil {
		seed = 1
	}
	first := 0
	if only, err := strconv.Atoi(os.Getenv("VEDETTE_MUTATION")); err == nil {
		first, count = only, only+1
	}
	var tally Tally
	for i := first; i < count; i++ {
		damaged, how := Damage(content, Dice(seed, file, i))
		came, err := look(damaged)
		tally.Done++
		switch {
		case err != nil:
			t.Errorf("%s, %s: %v\nagain: VEDETTE_SEED=%d VEDETTE_MUTATION=%d go test -run '^%s$'", file, how, err, seed, i, t.Name())
		case came == "refused":
			tally.Refused++
		case came == "healed":
			tally.Healed++
		case came == "harmless":
			tally.Harmless++
		default:
			t.Errorf("%s, %s: %q", file, how, came)
		}
	}
	// One line a file, which scripts/torture reads.
	t.Logf("mutations of %s: %d done, %d refused, %d healed, %d harmless, %d spread", file, tally.Done, tally.Refused, tally.Healed, tally.Harmless,
		tally.Done-tally.Refused-tally.Healed-tally.Harmless)
}
