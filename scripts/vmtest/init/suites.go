package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

func runPlan() error {
	text, err := os.ReadFile(outcome.PlanFile)
	if err != nil {
		return fmt.Errorf("reading the plan: %w", err)
	}
	var plan outcome.Plan
	if err := json.Unmarshal(text, &plan); err != nil {
		return fmt.Errorf("decoding the plan: %w", err)
	}
	loadModules(plan.Modules)
	if err := loopbackUp(); err != nil {
		return err
	}
	if plan.Worker != nil {
		return become(*plan.Worker)
	}
	port, err := os.OpenFile(outcome.ReportPort, os.O_WRONLY|unix.O_NOCTTY, 0)
	if err != nil {
		return fmt.Errorf("opening the report's port: %w", err)
	}
	name, err := release()
	if err != nil {
		return err
	}
	report, err := outcome.NewWriter(port, name)
	if err != nil {
		return fmt.Errorf("beginning the report: %w", err)
	}
	if err := runSuites(plan, report); err != nil {
		return err
	}
	if err := report.End(); err != nil {
		return fmt.Errorf("ending the report: %w", err)
	}
	// The port is slower than we are: what is not sent when the machine goes off is lost.
	return errors.Join(unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1), port.Close())
}

// become mounts the worker's disk and is the worker from then on: process 1 waits for it
// as it does for us.
func become(worker outcome.Worker) error {
	if err := os.MkdirAll(worker.Folder, 0o700); err != nil {
		return fmt.Errorf("making %s: %w", worker.Folder, err)
	}
	if err := unix.Mount(worker.Disk, worker.Folder, "ext4", 0, ""); err != nil {
		return fmt.Errorf("mounting %s: %w", worker.Disk, err)
	}
	return fmt.Errorf("starting %s: %w", worker.Program, unix.Exec(worker.Program, []string{worker.Program}, append(os.Environ(), worker.Env...)))
}

// atOnce is how many test programs run beside each other: as many as the guest has
// processors, as make test does. Much of their time is spent waiting.
const atOnce = 2

func runSuites(plan outcome.Plan, report *outcome.Writer) error {
	waiting := make(chan outcome.Suite)
	done := make(chan outcome.Package)
	for range atOnce {
		go func() {
			for suite := range waiting {
				done <- runSuite(suite, plan.Slow)
			}
		}()
	}
	go func() {
		for _, suite := range plan.Suites {
			waiting <- suite
		}
		close(waiting)
	}()
	for range plan.Suites {
		p := <-done
		if err := report.Package(p); err != nil {
			return fmt.Errorf("reporting %s: %w", p.Name, err)
		}
	}
	return nil
}

// runSuite runs a test program; its own time-out comes first, because it names the
// test that hung, and the kill is for a program that cannot even do that.
func runSuite(suite outcome.Suite, slow int) outcome.Package {
	limit := time.Duration(suite.Seconds) * time.Second
	ctx, cancel := context.WithTimeout(context.Background(), limit+30*time.Second)
	defer cancel()
	arguments := append([]string{"-test.v=test2json", "-test.timeout=" + limit.String()}, suite.Flags...)
	cmd := exec.CommandContext(ctx, suite.Program, arguments...)
	cmd.Dir = suite.Dir
	cmd.Env = append(append(os.Environ(), "VEDETTE_TEST_SLOW="+strconv.Itoa(slow)), suite.Env...)
	cmd.WaitDelay = 5 * time.Second // a grandchild may hold the pipe
	fmt.Printf("init: running %s\n", suite.Package)
	begin := time.Now()
	gather := outcome.NewGather()
	status := ""
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	gathered := make(chan struct{})
	go func() {
		defer close(gathered)
		lines := bufio.NewReader(reader)
		for {
			line, err := lines.ReadString('\n')
			if line != "" {
				fmt.Printf("%s: %s\n", suite.Package, gather.Line(trimEnd(line)))
			}
			if err != nil {
				return
			}
		}
	}()
	if err := cmd.Run(); err != nil {
		status = err.Error()
	}
	_ = writer.Close()
	<-gathered
	return gather.End(suite.Package, status, time.Since(begin).Seconds())
}

func trimEnd(line string) string {
	for line != "" && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}
