package kernel

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

func init() {
	if os.Getenv("VEDETTE_TEST_ROLE") != "" {
		runtime.LockOSThread()
	}
}

func itoa(n int) string { return strconv.Itoa(n) }

// playRole is what the test binary does when a test has started it as a child.
func playRole(role string) int {
	switch role {
	case "thread-exec": // execve from a thread that is not the leader
		// The main goroutine holds the main thread (see init), so this one has another.
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			fmt.Println(syscall.Gettid())
			done <- syscall.Exec("/bin/true", []string{"true", "from-a-thread"}, nil)
		}()
		fmt.Fprintln(os.Stderr, <-done)
		return 1
	default:
		fmt.Fprintln(os.Stderr, "unknown role", role)
		return 2
	}
}
