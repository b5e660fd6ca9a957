package isolation

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
	"github.com/vedette-edr/vedette/sensor/internal/slow"
)

// senderVariable makes this program a sender over AF_XDP on the device of that number: a
// process of its own, because the first cut stops whoever holds such a socket.
const senderVariable = "VEDETTE_TEST_XDP_SENDER"

// staleAfter is how long what a sender was told to send is worth sending: one that stood
// still must not send, when it goes on, what belongs to an earlier phase.
const staleAfter = time.Second

// sendXDP is the sender: a line for each frame, the time after which it is stale (ns of
// CLOCK_MONOTONIC) and the frame in hexadecimal; and for each a line back, "sent" or why not.
// A socket that is refused is asked for again with the next frame, as an intruder would.
func sendXDP(text string) error {
	index, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	var socket *netnstest.XDP
	open := func() (err error) {
		if socket == nil {
			socket, err = netnstest.OpenXDP(index)
		}
		return err
	}
	say := func(err error) {
		word := "sent"
		if err != nil {
			word = err.Error()
		}
		fmt.Println(word)
	}
	say(open())
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		deadline, frame, _ := strings.Cut(lines.Text(), " ")
		until, err := strconv.ParseInt(deadline, 10, 64)
		if err != nil {
			return err
		}
		raw, err := hex.DecodeString(frame)
		if err != nil {
			return err
		}
		if err = open(); err == nil {
			if monotonic() > until {
				err = errors.New("stale")
			} else {
				err = socket.Send(raw)
			}
		}
		say(err)
	}
	return lines.Err()
}

func monotonic() int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // cannot fail for this clock
	return now.Nano()
}

// sender is a sender's process as its test sees it.
type sender struct {
	pid    int
	in     *os.File
	heard  chan string
	opened string // what it said of its socket: "sent", or why it has none
}

// startSender returns a sender on a device of the host, whose socket the kernel may have
// refused; no sender is a kernel without AF_XDP.
func startSender(t *testing.T, host *netnstest.Namespace, index int) (*sender, error) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = write.Close() })
	defer func() { _ = read.Close() }()
	s := &sender{in: write, heard: make(chan string, 1024)}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", senderVariable, index))
	cmd.Stdin, cmd.Stderr = read, os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	host.Must(t, "starting a sender", cmd.Start)
	s.pid = cmd.Process.Pid
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer close(s.heard)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.heard <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	if s.opened, err = s.answer(); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(s.opened, unix.EAFNOSUPPORT.Error()) {
		return nil, errors.New(s.opened)
	}
	return s, nil
}

// tell has a frame sent and does not wait for it.
func (s *sender) tell(frame []byte) error {
	for { // what was said meanwhile
		select {
		case <-s.heard:
			continue
		default:
		}
		break
	}
	_, err := fmt.Fprintf(s.in, "%d %x\n", monotonic()+int64(slow.Deadline(staleAfter)), frame)
	return err
}

// send is tell, and waits.
func (s *sender) send(frame []byte) error {
	if err := s.tell(frame); err != nil {
		return err
	}
	word, err := s.answer()
	if err == nil && word != "sent" {
		err = errors.New(word)
	}
	return err
}

func (s *sender) answer() (string, error) {
	select {
	case word, ok := <-s.heard:
		if !ok {
			return "", errors.New("the sender has ended")
		}
		return word, nil
	case <-time.After(slow.Deadline(5 * time.Second)):
		return "", errors.New("the sender says nothing")
	}
}

// stands says whether the sender is stopped.
func (s *sender) stands() bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.pid))
	_, rest, _ := strings.Cut(string(text), ") ")
	return err == nil && strings.HasPrefix(rest, "T")
}

// xdpFrame is what it sends: a look-up to the world.
func (l *lab) xdpFrame(payload []byte) []byte {
	packet := netnstest.IP4(unix.IPPROTO_UDP, host4, world4, netnstest.UDP(4444, 53, payload), netnstest.Options{})
	return netnstest.Ether(l.peerMAC, l.hostMAC, unix.ETH_P_IP, packet)
}
