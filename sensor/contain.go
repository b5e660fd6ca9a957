package sensor

import (
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/enrich"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

// containConfig is what containments ask of the other stages. They are asked only
// when the sensor runs, after all of them are there.
func (s *Sensor) containConfig() *respond.ContainConfig {
	root := hostRoot()
	cgroup := filepath.Join(root, "sys/fs/cgroup")
	if _, err := os.Stat(filepath.Join(cgroup, "cgroup.controllers")); root == "" || err != nil {
		cgroup = "" // found by itself
	}
	return &respond.ContainConfig{
		Root:    root,
		Process: process.Config{Cgroup: cgroup},
		Storyline: func(id string) []process.Member {
			anchor, ok := parseStoryline(id)
			if !ok {
				return nil
			}
			return members(s.enricher.Storyline(anchor))
		},
		Descendants: func(of process.Member) []process.Member { return members(s.enricher.Descendants(of.Key)) },
		Own:         s.ownPaths(),
		Disabled:    !s.cfg.Isolation.Enabled,
		// What the kernel's baseline keeps back is not told, so that a blocked image is
		// stopped by holding its exec, and its running ones are ended only where told.
		Execs:    !s.cfg.KernelBaseline,
		Resolved: func(name string) []netip.Addr { return s.enricher.Resolved(name) },
	}
}

// hostRoot is the host's file system where this process has a view of its own, in
// which most is read-only, as its unit gives it; "" where it is the same.
func hostRoot() string {
	const root = "/proc/1/root"
	var own, host unix.Stat_t
	if unix.Stat("/proc/self/ns/mnt", &own) != nil || unix.Stat("/proc/1/ns/mnt", &host) != nil || own.Ino == host.Ino {
		return ""
	}
	if _, err := os.Stat(root + "/etc"); err != nil {
		return ""
	}
	return root
}

// watchContained tells the responder what blocks have to know: who started what, and
// what a name was answered with.
func (s *Sensor) watchContained(ev event.Event, o *event.Observation) {
	switch ev := ev.(type) {
	case *event.Exec:
		if o != nil && o.Process != nil {
			s.responder.Exec(o.Process.Key, o.Process.SHA256, o.Process.Hashed)
		}
	case *event.DNS:
		if ev.Response {
			s.responder.Answered(ev.Name, ev.Addrs)
		}
	}
}

// ownPaths are what the sensor itself stands on, beside its state folder.
func (s *Sensor) ownPaths() []string {
	var own []string
	if s.cfg.RulesDir != "" {
		own = append(own, s.cfg.RulesDir)
	}
	return append(own, "/etc/vedette")
}

// parseStoryline reads "PID.START", as findings name the root of a storyline.
func parseStoryline(id string) (event.ProcessKey, bool) {
	pid, start, ok := strings.Cut(id, ".")
	number, err := strconv.ParseUint(pid, 10, 32)
	began, startErr := strconv.ParseUint(start, 10, 64)
	return event.ProcessKey{PID: uint32(number), Start: began}, ok && err == nil && startErr == nil
}

func members(of []enrich.Member) []process.Member {
	all := make([]process.Member, len(of))
	for i, m := range of {
		all[i] = process.Member(m)
	}
	return all
}
