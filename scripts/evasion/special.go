package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// rightParents holds the parent of every fork, and the parent that the sensor still
// knows at every exit, against the chain as the processes themselves saw it.
func rightParents(kind string) func(context.Context, *host, int) (verdict, error) {
	return func(ctx context.Context, h *host, times int) (verdict, error) {
		p, err := h.perform(ctx, telling, "forks", kind, strconv.Itoa(times))
		if err != nil {
			return verdict{}, err
		}
		forks, exits := newTally[who, who](), newTally[who, who]()
		born, parents := map[who]bool{}, map[who]bool{}
		err = p.lines(func(line []byte) error {
			child, parent, err := readBirth(line)
			born[child], parents[parent] = true, true
			forks.happened(child, parent)
			exits.happened(child, parent)
			return err
		})
		if err != nil {
			return verdict{}, err
		}
		if len(born) < times*9/10 {
			return verdict{}, fmt.Errorf("the program forked %d times, not %d", len(born), times)
		}
		err = p.records(ctx, func(r *record) {
			switch {
			case r.Type == typeFork && (born[r.child()] || parents[r.who()]):
				forks.told(r.child(), r.who())
			case r.Type == typeExit && (born[r.who()] || parents[r.parent()]):
				exits.told(r.who(), r.parent())
			}
		}, typeFork, typeExit)
		v := forks.verdict().and(exits.verdict())
		v.remark = p.remark
		return v, err
	}
}

// readBirth reads "pid start parent's-pid parent's-start".
func readBirth(line []byte) (child, parent who, err error) {
	fields := bytes.Fields(line)
	if len(fields) != 4 {
		return 0, 0, fmt.Errorf("reading a birth: %q", line)
	}
	var n [4]uint64
	for i, field := range fields {
		if n[i], err = strconv.ParseUint(string(field), 10, 64); err != nil {
			return 0, 0, fmt.Errorf("reading a birth: %w", err)
		}
	}
	return newWho(uint32(n[0]), n[1]), newWho(uint32(n[2]), n[3]), nil
}

// aliases is how many names the alias program gives to one program, its first included.
const aliases = 24

// oneIdentity joins what was executed by device and inode, or else by the hash of
// the content: a copy has nothing else in common, and an overlay has its own device.
func oneIdentity(ctx context.Context, h *host, _ int) (verdict, error) {
	folder := filepath.Join(filepath.Dir(h.built), "aliases")
	if err := os.Mkdir(folder, 0o755); err != nil {
		return verdict{}, fmt.Errorf("making the aliases' folder: %w", err)
	}
	p, err := h.perform(ctx, telling, "alias", h.built, folder)
	if err != nil {
		return verdict{}, err
	}
	truths, err := p.truths(aliases + 1)
	if err != nil {
		return verdict{}, err
	}
	told := map[string]record{}
	hashOf := map[[2]uint64]string{}
	err = p.records(ctx, func(r *record) {
		if len(r.Process.Argv) < 2 {
			return
		}
		key := r.who().String() + string(r.Process.Argv[1])
		if r.Type == typeExec {
			told[key] = *r
		}
		// A file is hashed beside the events, so that only the exit may have its hash.
		if exec, known := told[key]; known && r.Process.SHA256 != "" {
			hashOf[[2]uint64{exec.Device, exec.Inode}] = r.Process.SHA256
		}
	}, typeExec, typeExit)
	if err != nil {
		return verdict{}, err
	}
	return joinAliases(truths, told, hashOf), nil
}

func joinAliases(truths []truth, told map[string]record, hashOf map[[2]uint64]string) verdict {
	const (
		itself = "absolute" // the name without anything odd
		other  = "other"    // the program that must not be joined
	)
	var v verdict
	var byHash []string
	// They run beside each other, so that any may be the first to say so.
	at := max(0, slices.IndexFunc(truths, func(t truth) bool { return t.Argv[1] == itself }))
	first, known := told[truths[at].who().String()+itself]
	original := [2]uint64{first.Device, first.Inode}
	wrong := func(format string, args ...any) {
		v.wrong++
		v.examples = append(v.examples, fmt.Sprintf(format, args...))
		v.examples = v.examples[:min(len(v.examples), shown)]
	}
	if !known || original != [2]uint64{kernelDevice(truths[at].Device), truths[at].Inode} {
		wrong("the program itself is told as device and inode %v", original)
	}
	for i := range truths {
		t := &truths[i]
		name := t.Argv[1]
		r, known := told[t.who().String()+name]
		file := [2]uint64{r.Device, r.Inode}
		sameFile, sameHash := file == original, hashOf[file] != "" && hashOf[file] == hashOf[original]
		switch {
		case name == itself:
		case !known:
			wrong("%s is not told", name)
		case name == other && (sameFile || sameHash):
			wrong("another program is taken for it: %v", file)
		case name != other && !sameFile && !sameHash:
			wrong("%s is told as %s, device and inode %v, hash %q", name, r.Process.Image, file, hashOf[file])
		case name != other && !sameFile:
			byHash = append(byHash, name)
		}
	}
	v.remark = "by device and inode; by hash of the content alone: " + strings.Join(byHash, ", ")
	return v
}

// kernelDevice is stat(2)'s device as the kernel keeps it: MKDEV of <linux/kdev_t.h>.
func kernelDevice(device uint64) uint64 {
	return uint64(unix.Major(device))<<20 | uint64(unix.Minor(device))
}

// wholeArguments holds what is told of arguments too long to be kept: their length,
// that they are cut, and a hash that changes with their last byte.
func wholeArguments(ctx context.Context, h *host, times int) (verdict, error) {
	claim := func(bytes uint64, truncated bool) string {
		return fmt.Sprintf("%d bytes, truncated %v", bytes, truncated)
	}
	sums, hashes := map[who]string{}, newNaming()
	l := look{
		types: []string{typeExec},
		happened: func(s *scene, t *truth) {
			sums[t.who()] = t.ArgvSum
			s.tally.happened(t.who().String(), claim(t.ArgvBytes, true))
		},
		told: func(s *scene, r *record) {
			if s.actors[r.who()] {
				hashes.called(sums[r.who()], r.argvHash())
				s.tally.told(r.who().String(), claim(r.Process.ArgvBytes, r.Process.ArgvTruncated))
			}
		},
	}
	v, err := holds("argv long {n} {programs}", l)(ctx, h, times)
	return v.and(hashes.verdict), err
}

// preloaded puts the library where everybody may put one.
func preloaded(ctx context.Context, h *host, times int) (_ verdict, err error) {
	built, err := h.build(ctx, "preload.so", "preload.c", "-shared", "-fPIC")
	if err != nil {
		return verdict{}, err
	}
	raw, err := os.ReadFile(built)
	if err != nil {
		return verdict{}, fmt.Errorf("reading the library: %w", err)
	}
	file, err := os.CreateTemp("/tmp", "vedette-evasion-*.so")
	if err != nil {
		return verdict{}, fmt.Errorf("making the library: %w", err)
	}
	library := file.Name()
	defer func() { err = errors.Join(err, os.Remove(library)) }()
	if _, err := file.Write(raw); err != nil {
		return verdict{}, errors.Join(fmt.Errorf("writing the library: %w", err), file.Close())
	}
	if err := file.Close(); err != nil {
		return verdict{}, fmt.Errorf("writing the library: %w", err)
	}
	return holds("image preload {n} {programs} "+library, mapped(library))(ctx, h, times)
}

// nothingFound has ordinary runtimes started under a sensor as it is installed, and
// then one program that is found in any case: what is found before it would be
// listed by then.
func nothingFound(ctx context.Context, h *host, times int) (verdict, error) {
	if h.spaces[usual] == nil {
		if err := h.start(ctx, usual, 0, ""); err != nil {
			return verdict{}, err
		}
	}
	path, err := h.program(ctx, "runtime")
	if err != nil {
		return verdict{}, err
	}
	said := filepath.Join(h.lab.Dir, "said-runtime")
	if _, err := h.runInto(ctx, usual, said, path, strconv.Itoa(times), h.built); err != nil {
		return verdict{}, err
	}
	if n, err := lineCount(said); err != nil {
		return verdict{}, err
	} else if n != times {
		return verdict{}, fmt.Errorf("%d runtimes were started, not %d", n, times)
	}
	certain, err := h.findCertainly(ctx)
	if err != nil {
		return verdict{}, err
	}
	var v verdict
	err = h.findings(ctx, func(image, title string) {
		if image != certain {
			v.wrong++
			v.examples = append(v.examples, fmt.Sprintf("%s: %s", image, title))
		}
	})
	v.examples = v.examples[:min(len(v.examples), shown)]
	v.remark = "a program run from /dev/shm after them is found"
	return v, err
}

// findCertainly runs a program from /dev/shm and waits for its finding.
func (h *host) findCertainly(ctx context.Context) (string, error) {
	built, err := h.ran(ctx)
	if err != nil {
		return "", err
	}
	raw, err := os.ReadFile(built)
	if err != nil {
		return "", fmt.Errorf("reading a program: %w", err)
	}
	path := fmt.Sprintf("/dev/shm/vedette-evasion-%d", os.Getpid())
	if err := os.WriteFile(path, raw, 0o700); err != nil {
		return "", fmt.Errorf("writing a program: %w", err)
	}
	defer os.Remove(path)
	if _, err := h.runInto(ctx, usual, os.DevNull, path); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 30*time.Second, errors.New("not within 30 s"))
	defer cancel()
	return path, lab.Until(ctx, 250*time.Millisecond, "what is certainly found", func(ctx context.Context) (bool, error) {
		found := false
		err := h.findings(ctx, func(image, _ string) { found = found || image == path })
		return found, err
	})
}

// findings of the usual sensor's host.
func (h *host) findings(ctx context.Context, each func(image, title string)) error {
	out, err := h.cluster.CLI(ctx, "finding", "list", "-o", "json")
	if err != nil {
		return err
	}
	hosts, err := h.cluster.Hosts(ctx)
	if err != nil {
		return err
	}
	var all []struct {
		Host    string `json:"host"`
		Title   string `json:"title"`
		Process struct {
			Image string `json:"image"`
		} `json:"process"`
	}
	if err := json.Unmarshal(out, &all); err != nil {
		return fmt.Errorf("reading findings: %w", err)
	}
	for _, f := range all {
		if f.Host == usual || f.Host == hosts[usual].ID {
			each(f.Process.Image, f.Title)
		}
	}
	return nil
}

func lineCount(path string) (int, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("reading what a program said: %w", err)
	}
	return bytes.Count(raw, []byte("\n")), nil
}
