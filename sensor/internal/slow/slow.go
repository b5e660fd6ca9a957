// Package slow stretches the deadlines of tests on a machine that is known to
// be slow, such as vmtest's emulated one.
//
// Its one idea: a test that waits for something states how long a normal machine may
// take; how much slower this one is, is said once, from outside.
package slow

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// Variable of the environment that holds the factor, a whole number.
const Variable = "VEDETTE_TEST_SLOW"

// maxFactor keeps a stretched minute below any package's time-out.
const maxFactor = 100

var factor = sync.OnceValue(func() time.Duration {
	n, err := parse(os.Getenv(Variable))
	if err != nil {
		panic(err) // a test that believed it had more time would fail for no reason
	}
	return n
})

// Deadline is how long to wait for what takes at most d on a normal machine.
func Deadline(d time.Duration) time.Duration { return d * factor() }

func parse(text string) (time.Duration, error) {
	if text == "" {
		return 1, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > maxFactor {
		return 0, fmt.Errorf("%s is %q: want a whole number from 1 to %d", Variable, text, maxFactor)
	}
	return time.Duration(n), nil
}
