//go:build failpoint

package failpoint

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Variable holds what to do, by comma: "NAME=N" dies at the N-th hit of a place,
// "NAME=skip" leaves out what stands there, "NAME:N" is a number that a test wants.
const Variable = "VEDETTE_FAILPOINT"

type plan struct {
	mu      sync.Mutex // guards the counts in left
	left    map[string]int
	skips   map[string]bool
	numbers map[string]uint64
}

var told = sync.OnceValue(func() *plan {
	p := &plan{left: map[string]int{}, skips: map[string]bool{}, numbers: map[string]uint64{}}
	for _, one := range strings.Split(os.Getenv(Variable), ",") {
		if name, text, ok := strings.Cut(one, ":"); ok {
			p.numbers[name], _ = strconv.ParseUint(text, 10, 64)
		} else if name, text, ok := strings.Cut(one, "="); ok && text == "skip" {
			p.skips[name] = true
		} else if n, err := strconv.Atoi(text); ok && err == nil {
			p.left[name] = n
		}
	}
	return p
})

// Hit dies as SIGKILL kills when this is the hit that was told. The line before it is how
// a test knows that the place was reached.
func Hit(name string) {
	p := told()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.left[name] == 0 {
		return
	}
	if p.left[name]--; p.left[name] > 0 {
		return
	}
	fmt.Fprintln(os.Stderr, "failpoint reached:", name)
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal comes before this returns, but not necessarily before the next line
}

// Skips says whether what stands here is to be left out.
func Skips(name string) bool { return told().skips[name] }

// Number is otherwise, or what a test wants instead.
func Number(name string, otherwise uint64) uint64 {
	if n, ok := told().numbers[name]; ok {
		return n
	}
	return otherwise
}
