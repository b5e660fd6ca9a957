package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/vedette-edr/vedette/scripts/vmtest/outcome"
)

const (
	// rebootPackage has the test that boots the guest, and the host that it is then.
	rebootPackage = "sensor/internal/respond/isolation"
	rebootTest    = "^TestReboots$"
	// keeperPackage has the keeper of its isolation, with both layers.
	keeperPackage = "sensor"
	// stateFolder is the sensor's, on the disk that outlives the boots.
	stateFolder = "/var/lib/vedette-sensor"
	diskBytes   = 64 << 20
	makeDisk    = "mkfs.ext4"
)

// What those tests are told by. They have these names and shapes of their own, since no
// part of the product imports scripts.
const (
	rebootsVariable = "VEDETTE_ISOLATION_REBOOTS"
	machineVariable = "VEDETTE_ISOLATION_MACHINE" // to the test: machineFor
	hostVariable    = "VEDETTE_TEST_BOOTED"       // to the guest: bootedHost
)

// bootModules are the guest's before it has a network, adapterModules its adapter's.
var (
	bootModules    = []string{"virtio_pci", "virtio_blk", "nfnetlink", "nf_tables", "nft_objref", "sch_ingress", "cls_bpf"}
	adapterModules = []string{"virtio_net"}
)

// machineFor is a guest as the test starts it: again and again.
type machineFor struct {
	Command []string `json:"command"` // the emulator; the test adds its wire and its port
	Console string   `json:"console"` // log of all boots
}

// bootedHost is what the guest's worker must know beside what the test tells it.
type bootedHost struct {
	Port    string   `json:"port"`
	Keeper  string   `json:"keeper"`
	State   string   `json:"state"`
	Adapter []string `json:"adapter"` // modules in the order of loading
}

// reboot boots the guest for the test of isolation that needs real boots, and shows what
// that says.
func reboot(ctx context.Context, cfg config, k kernel, dir string) error {
	if _, err := exec.LookPath(makeDisk); err != nil {
		return &missingError{makeDisk + " (apt-get install e2fsprogs)"}
	}
	archive, disk := filepath.Join(dir, "initramfs.cpio"), filepath.Join(dir, "disk")
	program, err := packHost(ctx, k, dir, archive)
	if err != nil {
		return err
	}
	if err := errors.Join(os.WriteFile(disk, nil, 0o600), os.Truncate(disk, diskBytes)); err != nil {
		return fmt.Errorf("making the disk: %w", err)
	}
	if said, err := exec.CommandContext(ctx, makeDisk, "-q", "-F", disk).CombinedOutput(); err != nil {
		return fmt.Errorf("running %s: %w\n%s", makeDisk, err, said)
	}
	if err := os.MkdirAll(cfg.out, 0o755); err != nil {
		return fmt.Errorf("making the figures' folder: %w", err)
	}
	log, err := filepath.Abs(filepath.Join(cfg.out, "vmtest-"+cfg.series+"-reboots.log"))
	if err != nil {
		return fmt.Errorf("naming the console's log: %w", err)
	}
	told, err := json.Marshal(machineFor{Console: log, Command: append(append([]string{emulator}, machine(k, archive)...),
		"-drive", "if=none,id=disk,format=raw,file="+disk, "-device", "virtio-blk-pci,drive=disk")})
	if err != nil {
		return fmt.Errorf("describing the guest: %w", err)
	}
	fmt.Printf("vmtest: Linux %s, emulated, %d reboots; some 20 s each …\n", k.release, cfg.reboots)
	cmd := exec.CommandContext(ctx, program, "-test.v", "-test.run="+rebootTest, "-test.timeout="+cfg.timeout.String())
	cmd.Env = append(os.Environ(), rebootsVariable+"="+strconv.Itoa(cfg.reboots), machineVariable+"="+string(told))
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// It ends the guest when it is asked to end.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w\nthe console (%s) ended:\n%s", err, log, lastLines(log))
	}
	return nil
}

// packHost packs a host that is its sensor's keeper and an intruder, and returns the
// intruder's program, which is the test's as well.
func packHost(ctx context.Context, k kernel, dir, archive string) (program string, err error) {
	t, err := treeWithInit(ctx, dir)
	if err != nil {
		return "", err
	}
	if program, err = t.tests(ctx, dir, rebootPackage); err != nil {
		return "", err
	}
	if _, err := t.tests(ctx, dir, keeperPackage); err != nil {
		return "", err
	}
	host := bootedHost{Port: outcome.ReportPort, Keeper: programOf(keeperPackage), State: stateFolder}
	plan := outcome.Plan{Worker: &outcome.Worker{Program: programOf(rebootPackage), Disk: "/dev/vda", Folder: stateFolder}}
	if plan.Modules, err = t.modules(ctx, k, dir, bootModules); err != nil {
		return "", err
	}
	if host.Adapter, err = t.modules(ctx, k, dir, adapterModules); err != nil {
		return "", err
	}
	told, err := json.Marshal(host)
	if err != nil {
		return "", fmt.Errorf("describing the host: %w", err)
	}
	plan.Worker.Env = []string{hostVariable + "=" + string(told)}
	if err := t.json(outcome.PlanFile, plan); err != nil {
		return "", err
	}
	return program, t.write(archive)
}
