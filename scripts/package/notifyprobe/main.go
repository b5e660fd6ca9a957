// Notifyprobe stands where systemd stands: it gives a service the socket of
// sd_notify(3), runs it, and writes to standard error what the service says, one
// "notify: " line for each assignment.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: notifyprobe SOCKET COMMAND [ARGUMENT…]")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "notifyprobe:", err)
		os.Exit(1)
	}
}

func run(socket string, command []string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the last notify socket: %w", err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("opening the notify socket: %w", err)
	}
	// The service may run as another user.
	if err := os.Chmod(socket, 0o666); err != nil {
		return fmt.Errorf("opening the notify socket: %w", err)
	}
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		message := make([]byte, 4096)
		for {
			n, err := conn.Read(message)
			if err != nil {
				return
			}
			for line := range strings.Lines(string(message[:n])) {
				fmt.Fprintln(os.Stderr, "notify:", strings.TrimSpace(line))
			}
		}
	}()

	service := exec.Command(command[0], command[1:]...)
	service.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=2000000")
	service.Stdout, service.Stderr = os.Stdout, os.Stderr
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	if err := service.Start(); err != nil {
		return fmt.Errorf("starting the service: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		for {
			select {
			case s := <-signals:
				_ = service.Process.Signal(s)
			case <-ended:
				return
			}
		}
	}()
	err = service.Wait()
	close(ended)
	_ = conn.Close()
	<-heard
	return err
}
