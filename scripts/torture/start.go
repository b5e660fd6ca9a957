package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
)

// config says how much is done.
type config struct {
	bin   string
	seed  uint64
	kills int
	ops   int
	// lasts bounds the operations by time; 0 does not.
	lasts time.Duration
	// mutations are made of files in a process, damaged of files of a cluster's nodes.
	mutations, damaged int
	// size, away and rate are the snapshot part's.
	size    string
	away    time.Duration
	rate    int
	minutes float64
	only    string
	plan    bool
	defect  string
	// coordinator is the folder of the one that is run: it can be told where to die.
	coordinator string
	keep        bool
	brief       bool
	// nightly gives each part the share of the time that it has of a night.
	nightly bool
}

const (
	// inside tells the program that it is in its own namespaces already.
	inside = "VEDETTE_TORTURE_INSIDE"
	// A night's work.
	nightlyKills, nightlyOps, nightlyMinutes = 1000, 1_000_000, 480
	nightlyMutations, nightlyDamaged         = 100_000, 500
	nightlySize, nightlyAway                 = "2GiB", 10 * time.Minute
)

// night asks for a night's work.
func (c *config) night() {
	c.kills, c.ops, c.minutes = nightlyKills, nightlyOps, nightlyMinutes
	c.mutations, c.damaged = nightlyMutations, nightlyDamaged
	c.size, c.away = nightlySize, nightlyAway
}

func start(cfg config) error {
	if cfg.plan {
		return printPlan(os.Stdout, cfg)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if os.Getenv(inside) != "" {
		return run(ctx, cfg)
	}
	if os.Geteuid() != 0 {
		return fmt.Errorf("network and mount namespaces need root: sudo make torture")
	}
	// Again, in namespaces that end with it. It is told to end when this thread does.
	runtime.LockOSThread()
	args := slices.Concat(os.Args[1:], []string{"-seed", fmt.Sprint(cfg.seed)})
	again := exec.CommandContext(ctx, "/proc/self/exe", args...)
	again.Env = append(os.Environ(), inside+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGTERM}
	again.Cancel = func() error { return again.Process.Signal(syscall.SIGTERM) }
	again.WaitDelay = 30 * time.Second
	return again.Run()
}

// alone makes the new network namespace usable, and refuses to go on in any other: what
// follows drops packets and kills by address.
func alone() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("looking at the network: %w", err)
	}
	for _, one := range interfaces {
		if one.Flags&net.FlagLoopback == 0 && one.Flags&net.FlagUp != 0 {
			return fmt.Errorf("interface %s is up here: this is not a network namespace of torture's own", one.Name)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bringing the loopback up: %w", err)
	}
	// What is mounted here is nobody else's.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("making mounts private: %w", err)
	}
	return nil
}
