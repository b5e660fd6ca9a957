// Command init is process 1 of vmtest's guest: it makes a Linux system of a
// kernel and a cpio archive, runs the test programs of its plan, tells their
// outcome on the second serial port and switches the machine off.
//
// Process 1 only reaps; a child does the work, because a wait for any process
// would take away what the tests' own waits are for.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		if err := runPlan(); err != nil {
			fmt.Println("init:", err)
			os.Exit(1)
		}
		return
	}
	if err := boot(); err != nil {
		fmt.Println("init:", err)
	}
	unix.Sync()
	// -no-reboot: to the host, a reboot is an end too, should ACPI not be there.
	fmt.Println("init:", errors.Join(unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF), unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)))
}

func boot() error {
	if err := becomeRoot(); err != nil {
		return err
	}
	if err := mountAll(); err != nil {
		return err
	}
	worker := exec.Command("/proc/self/exe")
	worker.Stdout, worker.Stderr = os.Stdout, os.Stderr
	worker.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=/tmp", "LANG=C.UTF-8"}
	if err := worker.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for children: %w", err)
		case pid == worker.Process.Pid:
			return nil
		}
	}
}
