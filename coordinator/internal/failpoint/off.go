//go:build !failpoint

package failpoint

// Hit is a place where the process may be told to die.
func Hit(string) {}

// Skips says whether what stands here is to be left out, so that a test can be seen to
// find it missing.
func Skips(string) bool { return false }

// Number is otherwise, or what a test wants instead.
func Number(_ string, otherwise uint64) uint64 { return otherwise }
