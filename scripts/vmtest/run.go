package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

type config struct {
	series   string
	packages []string
	run      string
	beside   string // a package whose program the tests start
	env      []string
	reboots  int  // instead of tests, real boots of an isolated guest
	quick    bool // only what each suite names for it
	timeout  time.Duration
	out      string // figures and the console's log
	cache    string // kernels
}

// missingError says what this machine cannot give. It is no failure of the code.
type missingError struct{ what string }

func (e *missingError) Error() string { return "needs " + e.what }

// slow is what tests' deadlines are multiplied by: the emulation was seen to take
// 20 to 50 times as long as the processor itself, and a deadline leaves room.
const slow = 20

// suites are the test packages that need a kernel or namespaces, with the longest
// that each may take in the guest: two to four times what they were seen to take on
// two processors with nothing else to do. A hang is found by this, and is then named.
var suites = []struct {
	name  string
	limit time.Duration
	// quick are the tests that CI runs, where two kernels must fit beside everything
	// else: every program is loaded, attached and seen to tell; loading is what takes
	// the time, and each test does it anew. Empty is all.
	quick string
}{
	{"sensor/internal/kernel", 60 * time.Minute, "^(TestHooks|TestClosed|TestExecIdentity|TestExecArgv|TestTCPFlow|TestDNS|TestLossesAreExact|TestCgroupScope|TestTaint|TestCutMatrix|TestCutFilters|TestCutOutlivesItsSensor)$"},
	{"sensor/internal/enrich", 3 * time.Minute, ""},
	{"sensor/internal/respond/isolation", 15 * time.Minute, "^(TestMatrix|TestReconcile|TestIngress|TestResolution|TestOpenings|TestEgressOnly|TestProbeSeesALeak|TestManyDevices|TestLateDevice|TestReplacingLeaksNothing)$"},
	{"sensor/internal/respond/process", 6 * time.Minute, "^(TestKillDescends|TestFreezeAndThaw|TestFreezeBySignal|TestProtected)$"},
	{"sensor/internal/respond/image", 3 * time.Minute, "^(TestBlock|TestRunning|TestCloseReleases)$"},
	{"sensor/internal/respond/address", 6 * time.Minute, "^(TestLookups|TestReconcile|TestEstablishedFlowEnds)$"},
	{"sensor/internal/respond", 8 * time.Minute, "^(TestIsolateAndRelease|TestRefusals|TestRestart|TestTampering|TestResumedSelfTest|TestIsolatesItself|TestContain|TestContainLease|TestContainInterrupted)$"},
	{"sensor", 3 * time.Minute, ""},
}

// programs are what those tests start.
var programs = []string{"true", "false", "sh", "sleep", "cat", "mv", "chroot", "nft", "tc", "ip"}

// files are what those tests, or programs, read.
var files = []string{"/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/etc/os-release"}

func allPackages() (names []string) {
	for _, s := range suites {
		names = append(names, s.name)
	}
	return names
}

func run(ctx context.Context, cfg config) error {
	s, ok := findSeries(cfg.series)
	if !ok {
		return fmt.Errorf("no kernel series %q: want %s", cfg.series, strings.Join(seriesNames(), " or "))
	}
	if _, err := exec.LookPath(emulator); err != nil {
		return &missingError{emulator + " (apt-get install qemu-system-x86)"}
	}
	k, err := fetch(ctx, cfg.cache, s)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "vedette-vmtest-")
	if err != nil {
		return fmt.Errorf("making a folder for the guest: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if cfg.reboots > 0 {
		return reboot(ctx, cfg, k, dir)
	}
	archive := filepath.Join(dir, "initramfs.cpio")
	if err := pack(ctx, cfg, k, dir, archive); err != nil {
		return err
	}
	begin := time.Now()
	fmt.Printf("vmtest: Linux %s, emulated; some minutes, and a quarter of an hour for all …\n", k.release)
	report, err := runGuest(ctx, cfg, k, archive)
	if err == nil && cfg.quick {
		err = again(ctx, cfg, k, dir, report)
	}
	rows := judge(s, report, cfg.run != "", time.Since(begin))
	if err != nil {
		rows = append(rows, figure.Missing("guest ended well", "", "= 1", errors.New("see below")))
	}
	explain(report)
	return errors.Join(figure.Report(os.Stdout, cfg.out, "vmtest-"+cfg.series, rows), err)
}

// pack builds the guest's archive in dir.
func pack(ctx context.Context, cfg config, k kernel, dir, archive string) error {
	plan := outcome.Plan{Slow: slow}
	t, err := treeWithInit(ctx, dir)
	if err != nil {
		return err
	}
	build := func(name string) error {
		_, err := t.tests(ctx, dir, name)
		return err
	}
	if cfg.beside != "" && !slices.Contains(cfg.packages, cfg.beside) {
		if err := build(cfg.beside); err != nil {
			return err
		}
	}
	for _, s := range suites {
		if !slices.Contains(cfg.packages, s.name) {
			continue
		}
		if err := build(s.name); err != nil {
			return err
		}
		suite := outcome.Suite{
			Package: s.name, Dir: "/src/" + s.name, Program: programOf(s.name), Seconds: int(s.limit.Seconds()), Env: cfg.env,
		}
		switch {
		case cfg.run != "":
			suite.Flags = append(suite.Flags, "-test.run="+cfg.run)
		case cfg.quick && s.quick != "":
			suite.Flags = append(suite.Flags, "-test.run="+s.quick)
		}
		if err := t.folder(suite.Dir+"/testdata", filepath.Join(s.name, "testdata")); err != nil {
			return err
		}
		plan.Suites = append(plan.Suites, suite)
	}
	if len(plan.Suites) != len(cfg.packages) {
		return fmt.Errorf("packages %v: want some of %v", cfg.packages, allPackages())
	}
	t.dir("/var/tmp", 0o777) // the one place where set-uid files count: /tmp is mounted anew
	t.dir("/root", 0o700)
	if err := t.mergedLinks(); err != nil {
		return err
	}
	for _, name := range programs {
		path, err := findProgram(name)
		if err != nil {
			// Its tests say SKIP themselves.
			fmt.Printf("vmtest: the guest goes without %s: %v\n", name, err)
			continue
		}
		if err := t.program(path); err != nil {
			return err
		}
	}
	for _, path := range files {
		if err := t.host(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if plan.Modules, err = t.modules(ctx, k, dir, wanted); err != nil {
		return err
	}
	if err := t.json(outcome.PlanFile, plan); err != nil {
		return err
	}
	return t.write(archive)
}

// treeWithInit has process 1.
func treeWithInit(ctx context.Context, dir string) (*tree, error) {
	t := newTree()
	init := filepath.Join(dir, "init")
	if err := golang(ctx, "build", "-o", init, "./scripts/vmtest/init"); err != nil {
		return nil, err
	}
	t.file("/init", init, 0o755)
	return t, nil
}

// tests builds a package's test program into dir and puts it into the tree.
func (t *tree) tests(ctx context.Context, dir, name string) (program string, err error) {
	program = filepath.Join(dir, filepath.Base(programOf(name)))
	if err := golang(ctx, "test", "-c", "-o", program, "./"+name); err != nil {
		return "", err
	}
	t.file(programOf(name), program, 0o755)
	return program, nil
}

// modules puts a kernel's modules into the tree and returns them in the order of loading.
func (t *tree) modules(ctx context.Context, k kernel, dir string, names []string) (order []string, err error) {
	modules, err := k.modules(ctx, dir, names)
	if err != nil {
		return nil, err
	}
	for i, module := range modules {
		at := fmt.Sprintf("/modules/%03d-%s", i, filepath.Base(module))
		t.file(at, module, 0o644)
		order = append(order, at)
	}
	return order, nil
}

// programOf is where the guest has a package's test program.
func programOf(name string) string {
	return "/src/" + name + "/" + strings.ReplaceAll(name, "/", "-") + ".test"
}

// golang runs go without cgo: the guest has no C library but that of its programs.
func golang(ctx context.Context, verb string, arguments ...string) error {
	arguments = append([]string{verb, "-buildvcs=false", "-trimpath", "-ldflags=-s -w"}, arguments...)
	cmd := exec.CommandContext(ctx, "go", arguments...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("running go %s: %w\n%s", strings.Join(arguments, " "), err, out)
	}
	return nil
}
