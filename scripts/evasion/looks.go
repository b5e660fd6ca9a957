package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// became is the claim that a process runs an image with arguments.
func became(image string, argv []string) string {
	return fmt.Sprintf("became %s %q", image, argv)
}

// becameWhatRan: the record of each exec has the image and the arguments that the
// new program found itself with.
var becameWhatRan = look{
	types:    []string{typeExec},
	happened: func(s *scene, t *truth) { s.tally.happened(t.who().String(), became(t.Image, t.Argv)) },
	told: func(s *scene, r *record) {
		if image := string(r.Process.Image); s.actors[r.who()] || strings.HasPrefix(filepath.Base(image), "ran") && s.parents[r.parent()] {
			s.tally.told(r.who().String(), became(image, r.argv()))
		}
	},
}

// becameWithTrait: the exec is there and says what is odd about its image.
func becameWithTrait(trait text) look {
	claim := func(argv []string) string { return fmt.Sprintf("became a program that is %s, %q", trait, argv) }
	return look{
		types:    []string{typeExec},
		happened: func(s *scene, t *truth) { s.tally.happened(t.who().String(), claim(t.Argv)) },
		told: func(s *scene, r *record) {
			switch {
			case !s.actors[r.who()]:
			case r.hasTrait(trait):
				s.tally.told(r.who().String(), claim(r.argv()))
			default:
				s.tally.told(r.who().String(), became(string(r.Process.Image), r.argv())+fmt.Sprintf(" with the traits %q", r.Process.Traits))
			}
		},
	}
}

// becameScript: an exec of one of these interpreters says which script it runs, the
// one that was started and not one in between.
func becameScript(script string, interpreters ...string) look {
	return look{
		types: []string{typeExec},
		happened: func(s *scene, t *truth) {
			s.tally.happened(t.who().String(), "ran the script "+s.host.at(script))
		},
		told: func(s *scene, r *record) {
			if s.actors[r.who()] && slices.Contains(interpreters, filepath.Base(string(r.Process.Image))) && scriptIsSaid(s, r, script) {
				s.once(r.who().String(), "ran the script "+string(r.Process.Script))
			}
		},
	}
}

// scriptIsSaid passes over what an interpreter starts in its turn: ran is started by
// by-env's shell and runs no script then.
func scriptIsSaid(s *scene, r *record, script string) bool {
	return r.Process.Script != "" || slices.Contains(r.argv(), s.host.at(script))
}

// mapped: the process is told to have mapped a file to execute it.
func mapped(path string) look {
	return look{
		types: []string{typeFile},
		happened: func(s *scene, t *truth) {
			s.tally.happened(t.who().String(), "mapped "+s.host.at(path))
		},
		told: func(s *scene, r *record) {
			if s.actors[r.who()] && r.Op == opMapExec && string(r.Path) == s.host.at(path) {
				s.once(r.who().String(), "mapped "+string(r.Path))
			}
		},
	}
}

// reachedWhatWasReached: each flow has the process that truly began it, a thread of
// the kernel never, and the port that its socket is connected to.
var reachedWhatWasReached = look{
	types: []string{typeFlowOpen},
	happened: func(s *scene, t *truth) {
		s.tally.happened(fmt.Sprintf("port %d", t.Local), fmt.Sprintf("%s reached port %d", t.who(), t.Remote))
	},
	told: func(s *scene, r *record) {
		if local, remote, ok := r.outboundPorts(); ok && (s.actors[r.who()] || s.remotes[remote]) {
			s.tally.told(fmt.Sprintf("port %d", local), fmt.Sprintf("%s reached port %d", r.who(), remote))
		}
	},
}

// keptItsArguments: what a process does later shows the arguments of its exec.
var keptItsArguments = look{
	types: []string{typeFlowOpen},
	happened: func(s *scene, t *truth) {
		s.tally.happened(fmt.Sprintf("port %d", t.Local), fmt.Sprintf("%s with %q", t.who(), t.Argv))
	},
	told: func(s *scene, r *record) {
		if local, remote, ok := r.outboundPorts(); ok && (s.actors[r.who()] || s.remotes[remote]) {
			s.tally.told(fmt.Sprintf("port %d", local), fmt.Sprintf("%s with %q", r.who(), r.argv()))
		}
	},
}

// openedWhatWasOpened: the opens of a process, in their order, name the files that
// its descriptors truly lead to.
var openedWhatWasOpened = look{
	types: []string{typeFile},
	happened: func(s *scene, t *truth) {
		subject := fmt.Sprintf("%s open %d", t.who(), s.said[t.who()])
		s.said[t.who()]++
		s.tally.happened(subject, fmt.Sprintf("%s, inode %d", s.host.pathOf(t.Inode), t.Inode))
	},
	told: func(s *scene, r *record) {
		if r.Op == opWrite && (s.actors[r.who()] || strings.HasPrefix(string(r.Path), s.host.watched)) {
			subject := fmt.Sprintf("%s open %d", r.who(), s.seen[r.who()])
			s.seen[r.who()]++
			s.tally.told(subject, fmt.Sprintf("%s, inode %d", r.Path, r.Inode))
		}
	},
}

// pathOf is the watched file with an inode.
func (h *host) pathOf(inode uint64) string {
	for _, which := range []string{"a", "b"} {
		var file unix.Stat_t
		if unix.Stat(h.file(which), &file) == nil && file.Ino == inode {
			return h.file(which)
		}
	}
	return os.DevNull // never opened: told as untrue
}

// oneNodeEach: each process has one fork, one exec if it executed, and one exit, and
// all of them know its true parent.
var oneNodeEach = look{
	types: []string{typeFork, typeExec, typeExit},
	happened: func(s *scene, t *truth) {
		s.tally.happened(t.who().String(), fmt.Sprintf("fork of %s", t.parent()))
		if t.Forked == 0 {
			s.tally.happened(t.who().String(), fmt.Sprintf("exec, child of %s", t.parent()))
		}
		s.tally.happened(t.who().String(), fmt.Sprintf("exit, child of %s", t.parent()))
	},
	told: func(s *scene, r *record) {
		switch {
		case r.Type == typeFork:
			if s.actors[r.child()] || s.parents[r.who()] {
				s.tally.told(r.child().String(), fmt.Sprintf("fork of %s", r.who()))
			}
		case s.actors[r.who()] || s.parents[r.parent()]:
			s.tally.told(r.who().String(), fmt.Sprintf("%s, child of %s", r.Type, r.parent()))
		}
	},
}

// didTo: who did what to which process; its memory is also a file.
func didTo(op string) look {
	claim := func(w who) string { return fmt.Sprintf("%s by %s", op, w) }
	return look{
		types:    []string{typePrivilege, typeFile},
		happened: func(s *scene, t *truth) { s.tally.happened(fmt.Sprintf("process %d", t.Target), claim(t.who())) },
		told: func(s *scene, r *record) {
			if r.Op == op && s.actors[r.who()] {
				s.once(fmt.Sprintf("process %d", r.TargetPID), claim(r.who()))
			}
		},
	}
}

// tried: the attempt is told, though it came to nothing.
func tried(op string) look {
	return look{
		types:    []string{typePrivilege},
		happened: func(s *scene, t *truth) { s.tally.happened(t.who().String(), op) },
		told: func(s *scene, r *record) {
			if r.Op == op && s.actors[r.who()] {
				s.once(r.who().String(), op)
			}
		},
	}
}

// lookedUp: each name that was asked for, over TCP, by whom.
var lookedUp = look{
	types:    []string{typeDNS},
	happened: func(s *scene, t *truth) { s.tally.happened(t.Name, fmt.Sprintf("tcp by %s", t.who())) },
	told: func(s *scene, r *record) {
		if _, _, outbound := r.outboundPorts(); outbound && !r.Response && s.actors[r.who()] {
			s.once(string(r.Query), fmt.Sprintf("%s by %s", r.Transport, r.who()))
		}
	},
}
