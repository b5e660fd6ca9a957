package respond

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/internal/respond/image"
	"github.com/vedette-edr/vedette/sensor/internal/respond/process"
)

const (
	// execDead is how long a stopped sensor may make others wait.
	execDead = 10 * time.Second
	// maxExecs wait to be looked at while an image is blocked; more are counted.
	maxExecs = 1024
	// mountsEvery is how often new file systems are looked for.
	mountsEvery = 10 * time.Second
)

// images are all blocks of images.
type images struct {
	c     *containments
	guard *image.Guard
	host  *process.Host
	proc  string
	// blocks by the containment's ID; acting guards them and fallback.
	blocks map[string]image.Hash
	looked time.Duration
	// fallback says why executions are not held but ended after they began.
	fallback string
	execs    chan seenExec
}

// seenExec is an execution that was told, with its content if that is known.
type seenExec struct {
	key    event.ProcessKey
	hash   image.Hash
	hashed bool
}

func (c *containments) addImage() {
	mounts := c.cfg.Mounts
	proc := c.cfg.Process.Proc
	if proc == "" {
		proc = "/proc"
	}
	if mounts == nil {
		mounts = func() ([]string, error) { return image.Mounts(proc) }
	}
	i := &images{c: c, host: process.Open(c.cfg.Process), proc: proc, blocks: map[string]image.Hash{}, execs: make(chan seenExec, maxExecs)}
	dead := c.cfg.ExecDead
	if dead == 0 {
		dead = execDead
	}
	i.guard = image.New(image.Config{
		Mounts: mounts, Dir: c.r.cfg.StateDir, Dead: max(dead, 0), Logger: c.r.cfg.Logger,
		Late: func(pid int, hash image.Hash) {
			if m, ok := i.host.Look(pid); ok {
				i.tell(seenExec{m.Key, hash, true})
			}
		},
	})
	c.images = i
	c.closers = append(c.closers, i.guard.Close)
	c.remedies[sensorv1.Action_ACTION_BLOCK_IMAGE] = &remedy{check: i.check, apply: i.apply, undo: i.undo, keep: i.keep}
}

func hashOf(t *sensorv1.Target) (hash image.Hash, err error) {
	if len(t.GetImageSha256()) != sha256.Size {
		return hash, fmt.Errorf("%w: name an image by the SHA-256 of its content", ErrNoTarget)
	}
	return image.Hash(t.GetImageSha256()), nil
}

func (i *images) size(hash image.Hash) int64 {
	if i.c.cfg.ImageSize != nil {
		if size, known := i.c.cfg.ImageSize(hash); known {
			return size
		}
	}
	return -1
}

func (i *images) wanted() map[image.Hash]int64 {
	all := map[image.Hash]int64{}
	for _, hash := range i.blocks {
		all[hash] = i.size(hash)
	}
	return all
}

// runs says who runs it now; they go on.
func (i *images) runs(hash image.Hash) (text string, err error) {
	pids := i.guard.Running(i.proc, map[image.Hash]int64{hash: i.size(hash)})
	protected := i.host.Protected()
	var names []string
	for _, pid := range pids {
		if why, bad := protected[pid]; bad {
			return "", fmt.Errorf("%w: process %d runs from it, and %s", process.ErrProtected, pid, why)
		}
		path, _ := os.Readlink(filepath.Join(i.proc, strconv.Itoa(pid), "exe"))
		if names = append(names, fmt.Sprintf("%d (%q)", pid, path)); len(names) == 20 {
			break
		}
	}
	if len(pids) == 0 {
		return "no process runs from it now", nil
	}
	return fmt.Sprintf("%d processes run from it and go on until they are killed: %s", len(pids), strings.Join(names, ", ")), nil
}

func (i *images) check(_ context.Context, t *sensorv1.Target) (string, error) {
	hash, err := hashOf(t)
	if err != nil {
		return "", err
	}
	text, err := i.runs(hash)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("refuse to execute any file with SHA-256 %x, under any name; %s", hash, text), nil
}

func (i *images) apply(_ context.Context, one *containment, _ func()) (string, error) {
	hash, err := hashOf(one.target())
	if err != nil {
		return "", err
	}
	i.blocks[one.ID] = hash
	return i.block()
}

// block brings the kernel to what is wanted, and proves it.
func (i *images) block() (string, error) {
	err := i.guard.Set(i.wanted())
	if err == nil && len(i.blocks) == 0 {
		return "", nil
	}
	var proof string
	if err == nil {
		proof, err = i.guard.Probe()
	}
	if err == nil {
		covered, missed := i.guard.Covered()
		i.fallback = ""
		text := fmt.Sprintf("%s; %d file systems are covered", proof, covered)
		if len(missed) > 0 {
			text += "; on these it is ended after it began: " + strings.Join(missed, ", ")
		}
		return text, nil
	}
	if !i.c.cfg.Execs || !errors.Is(err, image.ErrUnsupported) {
		return "", err
	}
	i.fallback = err.Error()
	return "not held: a process is killed within milliseconds of its exec, and may have begun (" + i.fallback + ")", nil
}

func (i *images) undo(_ context.Context, one *containment) (string, error) {
	hash, had := i.blocks[one.ID]
	delete(i.blocks, one.ID)
	if err := i.guard.Set(i.wanted()); err != nil && i.fallback == "" {
		if had {
			i.blocks[one.ID] = hash
		}
		return "", err
	}
	return "", nil
}

func (i *images) keep(_ context.Context, one *containment, _ func()) (string, error) {
	if _, there := i.blocks[one.ID]; !there {
		hash, err := hashOf(one.target())
		if err != nil {
			return "", err
		}
		i.blocks[one.ID] = hash
		_, err = i.block()
		return "", err
	}
	now := i.c.r.cfg.Clock.Boot()
	if i.fallback != "" || now-i.looked < mountsEvery {
		return "", nil
	}
	i.looked = now
	if err := i.guard.Refresh(); err == nil {
		return "", nil
	}
	// The group is broken: a new one.
	if err := i.guard.Close(); err != nil {
		return "", err
	}
	if _, err := i.block(); err != nil {
		return "", err
	}
	return "executions were not held any more", nil
}

// restore holds again what was blocked before a restart, before anything else runs.
func (i *images) restore() {
	for _, one := range i.c.list() {
		if one.Action != sensorv1.Action_ACTION_BLOCK_IMAGE || one.Phase != phaseApplied || one.remaining(i.c.r.cfg.Clock) <= 0 {
			continue
		}
		if hash, err := hashOf(one.target()); err == nil {
			i.blocks[one.ID] = hash
		}
	}
	if len(i.blocks) == 0 {
		return
	}
	if _, err := i.block(); err != nil {
		i.c.r.cfg.Logger.Error("blocks of images could not be put back and are tried again", "error", err)
		clear(i.blocks)
	}
}

// Exec tells of an execution that was seen, with the content's hash if it is
// known. What is blocked and ran all the same (a memfd, a file system that is not
// covered) is killed. It takes a note only, and none while no image is blocked.
func (r *Responder) Exec(key event.ProcessKey, hash [sha256.Size]byte, hashed bool) {
	i := r.contain.images
	if i == nil || len(i.guard.Blocked()) == 0 || hashed && !i.guard.IsBlocked(hash) {
		return
	}
	i.tell(seenExec{key, hash, hashed})
}

func (i *images) tell(e seenExec) {
	select {
	case i.execs <- e:
	default:
		i.c.count(func(n *Counters) { n.Overlooked++ })
	}
}

// run ends what ran all the same.
func (i *images) run(ctx context.Context) {
	for {
		var e seenExec
		select {
		case <-ctx.Done():
			return
		case e = <-i.execs:
		}
		if !e.hashed {
			var ok bool
			if e.hash, ok = i.guard.HashOf(i.proc, int(e.key.PID), i.guard.Blocked()); !ok {
				continue
			}
		}
		if !i.guard.IsBlocked(e.hash) {
			continue
		}
		ended, err := i.host.End(e.key)
		if !ended && err == nil {
			continue
		}
		i.report(e, err)
	}
}

func (i *images) report(e seenExec, err error) {
	for _, one := range i.c.list() {
		if hash, bad := hashOf(one.target()); bad != nil || hash != e.hash || one.Action != sensorv1.Action_ACTION_BLOCK_IMAGE {
			continue
		}
		detail := fmt.Sprintf("process %d executed it all the same and was killed", e.key.PID)
		if err != nil {
			detail = fmt.Sprintf("process %d executed it all the same and could not be killed: %v", e.key.PID, err)
		}
		i.c.mu.Lock()
		times := one.ran.note(i.c.r.cfg.Clock.Boot())
		status := one.status(sensorv1.IsolationState_ISOLATION_STATE_APPLIED, detail)
		i.c.mu.Unlock()
		if times > 0 {
			i.c.report(status)
		}
		return
	}
}
