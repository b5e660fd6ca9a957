package kernel

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
)

func itoa(n int) string { return strconv.Itoa(n) }

// playRole is what the test binary does when a test has started it as a child.
func playRole(role string) int {
	switch role {
	case "thread-exec": // execve from a thread that is not the leader
		done := make(chan error)
		go func() {
			runtime.LockOSThread()
			for syscall.Gettid() == syscall.Getpid() {
				// The main thread: hand the goroutine to another by holding this one.
				inner := make(chan struct{})
				go func() { runtime.LockOSThread(); close(inner); select {} }()
				<-inner
			}
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
