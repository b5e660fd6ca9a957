package kernel

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// roleT lets a child use the parts of tests.
type roleT struct {
	testing.TB
	failed int
}

func (t *roleT) Helper() {}

func (t *roleT) Error(args ...any) {
	fmt.Fprintln(os.Stderr, args...)
	t.failed = 1
}

func (t *roleT) Fatal(args ...any) {
	t.Error(args...)
	os.Exit(1)
}

// The main goroutine keeps the main thread: a test that changes its thread's
// network namespace must never get that one, which cannot end and stands for the
// process in /proc/self.
func init() { runtime.LockOSThread() }

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
	case "activity": // one of everything, in a network namespace of its own
		if err := loopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		t := &roleT{}
		exchangeAt(t, "127.0.0.1")
		resolve(t, "udp4", "127.0.0.1:53", "leak.example.")
		return t.failed
	case "connect":
		t := &roleT{}
		exchangeAt(t, "127.0.0.1")
		return t.failed
	case "connect-loop": // as often as each line says, until there is none
		return connectLoop()
	case "xdp-flood": // frames past every hook, until it is killed
		return xdpFlood()
	case "tell-time":
		return tellTime()
	case "udp-flood":
		return udpFlood()
	case "dial": // once, and send as much as is asked for
		c, err := net.Dial("tcp", os.Getenv("VEDETTE_TEST_PEER"))
		if err == nil {
			n, _ := strconv.Atoi(os.Getenv("VEDETTE_TEST_BYTES"))
			_, err = c.Write(make([]byte, n))
			_ = c.Close()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "watch": // until it is told that it was stopped
		source, err := Open(Config{KeepKnown: true})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer source.Close()
		ctx, cancel := context.WithCancel(context.Background())
		source.Post(&event.Tamper{What: "ready"}) // comes out when the reader has looked at its clock
		err = source.Run(ctx, func(e event.Event) {
			if t, is := e.(*event.Tamper); is {
				fmt.Println(t.What)
				if t.What != "ready" {
					cancel()
				}
			}
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "accept": // once, from a listener that another made
		listener, err := net.FileListener(os.NewFile(3, "listener"))
		if err == nil {
			var conn net.Conn
			if conn, err = listener.Accept(); err == nil {
				_, err = io.Copy(conn, conn)
				conn.Close()
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "login": // a session of its own, as PAM begins one, and a program in it
		err := os.WriteFile("/proc/self/loginuid", []byte("0"), 0)
		if err == nil {
			err = exec.Command("/bin/true", "in-a-session").Run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	case "probe":
		_, err := Probe()
		fmt.Println(err)
		return 0
	default:
		fmt.Fprintln(os.Stderr, "unknown role", role)
		return 2
	}
}

// connectLoop connects to itself. Without the net package: its poller and its goroutines
// would be most of the time.
func connectLoop() int {
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	address := &unix.SockaddrInet4{Port: 7777, Addr: [4]byte{127, 0, 0, 1}}
	if err == nil {
		err = errors.Join(unix.Bind(listener, address), unix.Listen(listener, 16))
	}
	for lines := bufio.NewScanner(os.Stdin); err == nil && lines.Scan(); fmt.Println(".") {
		n, wrong := strconv.Atoi(lines.Text())
		for err = wrong; err == nil && n > 0; n-- {
			err = connectOnce(listener, address)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func connectOnce(listener int, address unix.Sockaddr) error {
	client, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Connect(client, address); err != nil {
		return errors.Join(err, unix.Close(client))
	}
	server, _, err := unix.Accept(listener)
	if err != nil {
		return errors.Join(err, unix.Close(client))
	}
	// Reset, so that no port waits and none runs out.
	err = unix.SetsockoptLinger(client, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(client), unix.Close(server))
}
