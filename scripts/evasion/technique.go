package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// technique is one way past a sensor.
type technique struct {
	name  string
	times int
	what  string
	try   func(ctx context.Context, h *host, times int) (verdict, error)
}

// techniques are all of them. A million forks are of two kinds.
func techniques(forks int) []technique {
	const (
		many = 10_000
		some = 1_000
		few  = 100
	)
	return []technique{
		{"argument-race-exec", many, "another thread rewrites path and arguments during execve", holds("race exec {n} {programs}", becameWhatRan, raced((*truth).ranAs))},
		{"argument-race-open", many, "another thread rewrites the path during open", holds("race open {n} {watched}", openedWhatWasOpened, raced((*truth).inode))},
		{"argument-race-connect", many, "another thread rewrites the address during connect", holds("race connect {n} -", reachedWhatWasReached, raced((*truth).remote))},

		{"int80-exec", some, "execve by the 32-bit entry", holds("int80 exec {n} {programs}", becameWhatRan)},
		{"int80-connect", some, "connect by the 32-bit entry", holds("int80 connect {n} -", reachedWhatWasReached)},
		{"int80-socketcall", some, "connect by the 32-bit entry's socketcall", holds("int80 socketcall {n} -", reachedWhatWasReached)},

		{"io_uring-connect-inline", some, "connect in the submitting task", holds("uring connect inline {n} -", reachedWhatWasReached)},
		{"io_uring-connect-worker", some, "connect in a worker thread of the ring", holds("uring connect worker {n} -", reachedWhatWasReached)},
		{"io_uring-connect-sqpoll", some, "connect by the kernel's polling thread", holds("uring connect sqpoll {n} -", reachedWhatWasReached)},
		{"io_uring-openat-inline", some, "open for writing in the submitting task", holds("uring openat inline {n} {watched}", openedWhatWasOpened)},
		{"io_uring-openat-worker", some, "open for writing in a worker thread of the ring", holds("uring openat worker {n} {watched}", openedWhatWasOpened)},
		{"io_uring-openat-sqpoll", some, "open for writing by the kernel's polling thread", holds("uring openat sqpoll {n} {watched}", openedWhatWasOpened)},
		{"io_uring-send-inline", some, "a datagram sent in the submitting task", holds("uring send inline {n} -", reachedWhatWasReached)},
		{"io_uring-send-worker", some, "a datagram sent in a worker thread of the ring", holds("uring send worker {n} -", reachedWhatWasReached)},
		{"io_uring-send-sqpoll", some, "a datagram sent by the kernel's polling thread", holds("uring send sqpoll {n} -", reachedWhatWasReached)},

		{"thread-exec", many, "a thread that is not the leader executes: one node each, of the right parent", holds("tree thread {n} {programs}", oneNodeEach)},
		{"vfork-exec", many, "vfork and exec: one node each, of the right parent", holds("tree vfork {n} {programs}", oneNodeEach)},
		{"leader-exits-first", many, "the leader ends, a thread executes or starts a child: one node each, of the right parent", holds("tree leader {n} {programs}", oneNodeEach)},
		{"pid-reuse", forks / 2, "PIDs given again at once, to children and to parents; forks and exits have the right parent", rightParents("reuse")},
		{"pid-namespaces", forks - forks/2, "three nested PID namespaces, the innermost with a small pid_max; forks and exits have the right parent", rightParents("nested")},

		{"path-aliases", aliases, "every name of a program is one identity, another program is not", oneIdentity},

		{"argv-payload-last", few, "128 KiB of arguments before what matters: whole length, truncation, hash of the whole", wholeArguments},
		{"argv-rewritten", some, "arguments overwritten after exec: a connection shows the original ones", holds("argv rewrite {n} {programs}", keptItsArguments)},

		{"memfd-exec", some, "a program that is only in memory, by descriptor and by path", holds("image memfd {n} {programs}", becameWithTrait("memfd"))},
		{"deleted-exec", some, "a program whose file is gone", holds("image deleted {n} {programs}", becameWithTrait("deleted"))},
		{"ld.so-exec", some, "ld.so PROGRAM: the program that it maps is named", holds("image ldso {n} {programs}", mapped("{programs}/ran-dynamic"))},
		{"nested-shebang", some, "a script whose interpreter is a script", holds("image shebang {n} {programs}", becameScript("{programs}/outer", "ran"))},
		{"env-shebang", some, "a script whose interpreter env looks for", holds("image env {n} {programs}", becameScript("{programs}/by-env", "sh", "dash", "bash", "busybox"))},
		{"ld-preload", some, "a library from /tmp that the environment names", preloaded},

		{"ptrace-injection", few, "PTRACE_POKETEXT into a process that was attached to", holds("inject ptrace {n}", didTo("ptrace"))},
		{"process_vm_writev", few, "another process's memory, by system call", holds("inject vm {n}", didTo("process-vm-writev"))},
		{"proc-mem-write", few, "another process's memory, by /proc/PID/mem", holds("inject mem {n}", didTo("proc-mem"))},
		{"module-load", few, "init_module and finit_module; that they were tried is seen", holds("inject module {n}", tried("module-load"))},

		{"dns-tcp-segments", some, "look-ups over TCP, each byte a segment", holds("names {n}", lookedUp)},

		{"ordinary-memfd-re-exec", some, "what container runtimes do at each start, under a sensor that keeps what it knows back and learns no more: no finding", nothingFound},
	}
}

// look is how a kind of deed is found again in the records: which fact a line of the
// program is, and which fact a record is, if it is one of this deed's.
type look struct {
	types    []string
	happened func(*scene, *truth)
	told     func(*scene, *record)
}

// scene is one run of a program, with what its lines say as a whole.
type scene struct {
	tally   *tally[string, string]
	host    *host
	actors  map[who]bool // said to have acted
	parents map[who]bool // of these
	remotes map[uint16]bool
	said    map[who]int // opens so far, in the lines
	seen    map[who]int // and in the records
	known   map[string]bool
}

// once is told as once however often a record repeats it, where a deed is of several events.
func (s *scene) once(subject, claim string) {
	key := subject + "\x00" + claim
	if !s.known[key] {
		s.known[key] = true
		s.tally.told(subject, claim)
	}
}

// at replaces {programs} and {watched}.
func (h *host) at(text string) string {
	return strings.NewReplacer("{programs}", h.built, "{watched}", h.watched).Replace(text)
}

// condition is what must be so for a run to prove anything.
type condition func([]truth) error

// holds runs "PROGRAM ARGUMENT…", with {n}, {programs} and {watched} replaced, and
// holds what it says against what was recorded.
func holds(run string, l look, conditions ...condition) func(context.Context, *host, int) (verdict, error) {
	return func(ctx context.Context, h *host, times int) (verdict, error) {
		words := strings.Fields(run)
		for i, word := range words {
			words[i] = h.at(strings.ReplaceAll(word, "{n}", fmt.Sprint(times)))
		}
		p, err := h.perform(ctx, telling, words[0], words[1:]...)
		if err != nil {
			return verdict{}, err
		}
		return p.verdict(ctx, times, l, conditions...)
	}
}

func (p *performance) verdict(ctx context.Context, times int, l look, conditions ...condition) (verdict, error) {
	truths, err := p.truths(times)
	if err != nil {
		return verdict{}, err
	}
	for _, c := range conditions {
		err = errors.Join(err, c(truths))
	}
	s := &scene{
		tally: newTally[string, string](), host: p.host, actors: map[who]bool{}, parents: map[who]bool{},
		remotes: map[uint16]bool{}, said: map[who]int{}, seen: map[who]int{}, known: map[string]bool{},
	}
	for i := range truths {
		t := &truths[i]
		s.actors[t.who()], s.parents[t.parent()], s.remotes[t.Remote] = true, true, true
		l.happened(s, t)
	}
	err = errors.Join(err, p.records(ctx, func(r *record) { l.told(s, r) }, l.types...))
	v := s.tally.verdict()
	v.remark = p.remark
	return v, err
}

// raced says whether the two outcomes of a race both came, at least one in a hundred
// times each: one that nobody could lose proves nothing.
func raced(outcome func(*truth) string) condition {
	return func(truths []truth) error {
		counts := map[string]int{}
		for i := range truths {
			counts[outcome(&truths[i])]++
		}
		least := len(truths)
		for _, n := range counts {
			least = min(least, n)
		}
		if len(counts) < 2 || least*100 < len(truths) {
			return fmt.Errorf("the race was none: %v", counts)
		}
		return nil
	}
}

func (t *truth) ranAs() string  { return filepath.Base(t.Image) }
func (t *truth) inode() string  { return fmt.Sprint(t.Inode) }
func (t *truth) remote() string { return fmt.Sprint(t.Remote) }
