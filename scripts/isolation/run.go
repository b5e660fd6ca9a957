package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

type config struct {
	seconds   float64
	guest     string
	guestOnly bool
	reboots   int
}

const (
	testPackage = "sensor/internal/respond/isolation"
	// wholePackage is the facade, whose tests are the sensor's isolation with both layers:
	// the stages that they are do not know each other.
	wholePackage = "sensor"
	out          = "out"
	// keeperVariable names to the tests who isolates in their place (keeperProgram).
	keeperVariable = "VEDETTE_ISOLATION_KEEPER"
	// secondsVariable says how long each phase is.
	secondsVariable = "VEDETTE_ISOLATION_SECONDS"
	fullVariable    = "VEDETTE_ISOLATION_FULL"
	// rowMark begins a line with a row (measureMark of the tests).
	rowMark = "ISOLATION-ROW "
	// beside are the tests that prove the rest: their figures become notes.
	beside = "^(TestEstablishedFlowsEnd|TestReplacingLeaksNothing|TestTampering|TestOwnedTable|TestHeldTable|TestHeldForThisProcess|TestNoResidue|TestAdapterPluggedIn|TestStrangers|TestLateDeviceShut|TestLateDevices|TestLateDevicesInKernel|TestDHCP|TestOpenings|TestEgressOnly)$"
	// matrix is the test that prints rows.
	matrix = "^(TestMeasure|TestAllPathsCut|TestIsolatedAtRest)$"
	// guestMatrix is what is measured where time says nothing.
	guestMatrix = "^TestMeasure$"
	// fullFrom is where the tests beside it repeat as often as was asked for.
	fullFrom = 60
	// fewReboots and manyReboots are how often the guest boots, and when they are full.
	fewReboots, manyReboots = 3, 50
	// maxLine bounds a line of a test or of the guest's console.
	maxLine = 1 << 20
)

func run(ctx context.Context, cfg config) error {
	var rows []figure.Row
	var grids []*grid
	if !cfg.guestOnly {
		here, err := onThisKernel(ctx, cfg)
		if err != nil {
			return err
		}
		grids = append(grids, here)
		rows = append(rows, here.rows()...)
	}
	if cfg.guest != "" {
		there, err := inGuest(ctx, cfg)
		if err != nil {
			rows = append(rows, figure.Missing(cfg.guest+" matrix", "packets", "= 0", err))
		}
		booted, err := realBoots(ctx, cfg)
		if err != nil {
			rows = append(rows, figure.Missing(cfg.guest+" real boots", "packets", "= 0", err))
		}
		grids = append(grids, there, booted)
		rows = append(append(rows, there.rows()...), booted.rows()...)
	}
	for _, g := range grids {
		if err := g.print(os.Stdout); err != nil {
			return err
		}
	}
	if err := figure.Write(out, "isolation", rows); err != nil {
		return err
	}
	missed := 0
	for _, row := range rows {
		if !row.OK {
			missed++
			fmt.Printf("NO  %s: %g %s, want %s (%s)\n", row.Name, row.Value, row.Unit, row.Target, row.Note)
		}
	}
	if missed > 0 {
		return fmt.Errorf("%w: %d of %d (out/isolation.jsonl)", figure.ErrMissed, missed, len(rows))
	}
	fmt.Printf("all %d figures reached (out/isolation.jsonl)\n", len(rows))
	return nil
}

// onThisKernel builds the tests and runs them: the matrix first, alone, since it
// measures, and what proves the rest after it.
func onThisKernel(ctx context.Context, cfg config) (*grid, error) {
	dir, err := os.MkdirTemp("", "vedette-isolation-")
	if err != nil {
		return nil, fmt.Errorf("making a folder for the tests: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program, whole := filepath.Join(dir, "isolation.test"), filepath.Join(dir, "sensor.test")
	for _, b := range []struct{ to, of string }{{program, testPackage}, {whole, wholePackage}} {
		build := exec.CommandContext(ctx, "go", "test", "-c", "-buildvcs=false", "-o", b.to, "./"+b.of)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if said, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("building the tests of %s: %w\n%s", b.of, err, said)
		}
	}
	g := newGrid("")
	fmt.Printf("isolation: each phase takes %g s, the matrix about %.0f s …\n", cfg.seconds, 6*cfg.seconds+10)
	full := fullVariable + "="
	if cfg.seconds >= fullFrom {
		full += "yes"
	}
	if err := test(ctx, g, program, matrix, full, fmt.Sprintf("%s=%g", secondsVariable, cfg.seconds), keeperVariable+"="+whole); err != nil {
		return nil, err
	}
	if len(g.paths) == 0 {
		return nil, fmt.Errorf("the tests printed no row: %s", strings.Join(g.said, "\n"))
	}
	fmt.Println("isolation: established flows, replacing, tampering, residue, devices, DHCP, openings …")
	return g, test(ctx, g, program, beside, full)
}

// test runs some tests; that one fails is a row and no error.
func test(ctx context.Context, g *grid, program, which string, settings ...string) error {
	cmd := exec.CommandContext(ctx, program, "-test.v", "-test.timeout=30m", "-test.run="+which)
	cmd.Dir = testPackage
	cmd.Env = append(os.Environ(), settings...)
	// The tests clean up when they are asked to end, not when they are killed.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, writer
	read := make(chan error, 1)
	go func() { read <- g.read(reader) }()
	err := cmd.Run()
	_ = writer.Close()
	if readErr := <-read; readErr != nil {
		return readErr
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("running the tests: %w", err)
	}
	return ctx.Err()
}

// inGuest reads what the tests print from the guest's console.
func inGuest(ctx context.Context, cfg config) (*grid, error) {
	g := newGrid(cfg.guest)
	cmd := exec.CommandContext(ctx, "bin/vedette-vmtest", "-kernel", cfg.guest, "-packages", testPackage, "-run", guestMatrix,
		"-beside", wholePackage, "-env", keeperVariable+"=/src/sensor/sensor.test", "-env", fmt.Sprintf("%s=%g", secondsVariable, cfg.seconds))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	runErr := cmd.Run()
	var exit *exec.ExitError
	if runErr != nil && !errors.As(runErr, &exit) {
		return g, fmt.Errorf("running bin/vedette-vmtest (make bin/vedette-vmtest): %w", runErr)
	}
	console, err := os.Open(filepath.Join(out, "vmtest-"+cfg.guest+".log"))
	if err != nil {
		return g, fmt.Errorf("reading the guest's console: %w", err)
	}
	defer func() { _ = console.Close() }()
	if err := g.read(console); err != nil {
		return g, err
	}
	if len(g.paths) == 0 {
		return g, errors.New("the guest printed no row")
	}
	return g, nil
}

// realBoots isolates the guest and boots it again and again; what leaves it is counted on
// its wire, outside.
func realBoots(ctx context.Context, cfg config) (*grid, error) {
	g := newGrid(cfg.guest)
	cmd := exec.CommandContext(ctx, "bin/vedette-vmtest", "-kernel", cfg.guest, "-reboots", strconv.Itoa(cfg.reboots))
	reader, writer := io.Pipe()
	cmd.Stdout, cmd.Stderr = writer, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 20 * time.Second
	var said bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewReader(reader)
		for {
			line, err := lines.ReadString('\n')
			said.WriteString(line)
			if !strings.Contains(line, rowMark) { // each boot, as it ends
				fmt.Print(line)
			}
			if err != nil {
				return
			}
		}
	}()
	fmt.Printf("isolation: %d boots of Linux %s, emulated; half a minute each …\n", cfg.reboots, cfg.guest)
	err := cmd.Run()
	_ = writer.Close()
	<-read
	if readErr := g.read(&said); readErr != nil {
		return g, readErr
	}
	if err != nil {
		return g, fmt.Errorf("running bin/vedette-vmtest: %w", err)
	}
	if len(g.paths) == 0 {
		return g, errors.New("the guest booted and no row came of it")
	}
	return g, nil
}

// read takes the rows and the ends of tests out of a test's output.
func (g *grid) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r")
		if _, text, ok := strings.Cut(line, rowMark); ok {
			var m measured
			if err := json.Unmarshal([]byte(text), &m); err != nil {
				g.unread = append(g.unread, fmt.Errorf("%w: %.80q", err, text))
				continue
			}
			g.add(m)
			continue
		}
		g.line(line)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading what the tests say: %w", err)
	}
	return nil
}
