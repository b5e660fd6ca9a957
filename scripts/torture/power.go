package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// Each node has a file system of its own, ext4 in a file. Its "shutdown" (the ioctl that
// the kernel's own crash tests use) ends it without writing its journal: what no fsync
// has put on the disk is gone, as when the power goes, and mounting replays the journal
// as a boot does. What is below the file system, a disk that loses what it was told to
// flush, is not tried.

const (
	diskSize = 512 << 20
	// seldom keeps the file system from writing by itself what nobody has synced.
	seldom = "commit=300"
	// ext4Shutdown is EXT4_IOC_SHUTDOWN, noJournal its EXT4_GOING_FLAGS_NOLOGFLUSH.
	ext4Shutdown = 0x8004587d
	noJournal    = 2
	// powerCuts for each so many kills that were asked for.
	killsPerCut = 15
)

// cut is one step: the power goes.
type cut struct {
	room  bool // for all nodes at once
	node  int
	after time.Duration
	// at is where one node is when its power goes.
	at  point
	hit int
}

func (c cut) String() string {
	if c.room {
		return fmt.Sprintf("the room after %s", c.after)
	}
	return kill{node: c.node, after: c.after, at: c.at, hit: c.hit}.String()
}

// planCuts is n cuts, every second of the whole room, the others of a node that has come to
// a place in its program: what it did last is then not on the disk.
func planCuts(seed uint64, n, nodes int) []cut {
	d := dice(seed, "power")
	var all []cut
	order := d.Perm(len(points))
	for i := range n {
		c := cut{room: i%2 == 1, node: d.IntN(nodes), after: time.Duration(300+d.IntN(1700)) * time.Millisecond}
		if !c.room {
			c.at = points[order[i/2%len(order)]]
			c.hit = 1 + d.IntN(c.at.upTo)
		}
		all = append(all, c)
	}
	return all
}

func power(ctx context.Context, cfg config, dir string) []figure.Row {
	count := max(4, cfg.kills/killsPerCut)
	want := fmt.Sprintf("≥ %d", count)
	for _, needed := range []string{"mkfs.ext4", "mount", "umount"} {
		if _, err := exec.LookPath(needed); err != nil {
			return []figure.Row{figure.Missing("power cuts", "", want, err)}
		}
	}
	more := ""
	if cfg.defect == "log.sync" {
		more = ",log.sync=skip"
	}
	d := disks{dir: dir}
	r, err := newRig(ctx, cfg, dir, more, func(l *lab.Lab) error { return d.make(ctx, nodes, l.OnClose) })
	if err != nil {
		return []figure.Row{figure.Missing("power cuts", "", want, err)}
	}
	var done, rooms int
	places := newVisits()
	var total tally
	all, err := r.sensors(ctx, killSensors)
	if err == nil {
		p := push(context.WithoutCancel(ctx), all, killRhythm)
		for i, c := range planCuts(cfg.seed, count, nodes) {
			rest(ctx, c.after)
			if ctx.Err() != nil {
				break
			}
			// To its end, whatever the time is.
			t, cerr := r.cut(context.WithoutCancel(ctx), &d, c, p, &places)
			total.lost += t.lost
			total.doubled += t.doubled
			if cerr = errors.Join(cerr, p.failed()); cerr != nil {
				err = fmt.Errorf("cut %d, %s: %w", i+1, c, cerr)
				break
			}
			done++
			if c.room {
				rooms++
			}
		}
		err = errors.Join(err, p.stop())
	}
	if err == nil {
		var end tally
		end, err = r.exactly(context.WithoutCancel(ctx), all)
		total.add(end)
	}
	states, digestErr := r.digests()
	err = errors.Join(err, digestErr, r.close(cfg.keep || err != nil))
	rows := []figure.Row{
		figure.AtLeast("power cuts", float64(done), float64(count), "", fmt.Sprintf("seed %d; %d of the whole room, %d of a node at a named place (%s); what was not synced is gone", cfg.seed, rooms, places.times(), places.missedText())),
		figure.Exactly("acknowledged lost by power cuts", float64(total.lost), 0, "", fmt.Sprintf("of %d", total.acknowledged)),
		figure.Exactly("acknowledged doubled by power cuts", float64(total.doubled), 0, "", ""),
	}
	rows = append(rows, states.rows(" after power cuts")...)
	if err != nil {
		rows = append(rows, figure.Missing("the plan of power cuts", "", "followed to its end", brief(cfg, err)))
	}
	return rows
}

// cut takes the power from one node or all, and gives it back.
func (r *rig) cut(ctx context.Context, d *disks, c cut, p *pushers, places *visits) (t tally, err error) {
	hit := []int{c.node}
	if c.room {
		hit = []int{0, 1, 2}
	}
	acked := positions(p.all)
	if !c.room {
		r.Members[id(c.node)].Kill()
		if err := r.place(ctx, kill{at: c.at, hit: c.hit}, c.node, places); err != nil {
			return t, err
		}
	}
	// Nobody may act on a disk that is gone: first they stand still.
	for _, node := range hit {
		if c.room {
			err = errors.Join(err, syscall.Kill(r.Members[id(node)].PID(), syscall.SIGSTOP))
		}
	}
	for _, node := range hit {
		err = errors.Join(err, d.shutdown(node))
	}
	for _, node := range hit {
		r.Members[id(node)].Kill()
	}
	for _, node := range hit {
		err = errors.Join(err, program(ctx, "umount", d.mountpoint(node)), d.mount(ctx, node))
	}
	if err != nil {
		return t, err
	}
	for _, node := range hit {
		if err := r.start(ctx, node, ""); err != nil {
			return t, err
		}
	}
	if err := r.level(ctx); err != nil {
		return t, err
	}
	for _, node := range hit {
		one, berr := r.bounds(ctx, p.all, acked, node)
		t.add(one)
		err = errors.Join(err, berr)
	}
	if err == nil && t.lost+t.doubled > 0 {
		err = fmt.Errorf("%w: %d are lost and %d are there twice", errLost, t.lost, t.doubled)
	}
	return t, err
}

// disks are the nodes' file systems.
type disks struct{ dir string }

func (d *disks) image(node int) string      { return filepath.Join(d.dir, id(node)+".disk") }
func (d *disks) mountpoint(node int) string { return filepath.Join(d.dir, "coordinator-"+id(node)) }

// make makes so many; each is given to undo once it is mounted.
func (d *disks) make(ctx context.Context, many int, undo func(func() error)) error {
	for node := range many {
		f, err := os.Create(d.image(node))
		if err == nil {
			err = errors.Join(f.Truncate(diskSize), f.Close())
		}
		if err == nil {
			err = program(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", d.image(node))
		}
		if err == nil {
			err = os.Mkdir(d.mountpoint(node), 0o700)
		}
		if err == nil {
			err = d.mount(ctx, node)
		}
		if err != nil {
			return fmt.Errorf("making a disk: %w", err)
		}
		undo(func() error { return program(context.WithoutCancel(ctx), "umount", d.mountpoint(node)) })
	}
	return nil
}

func (d *disks) mount(ctx context.Context, node int) error {
	return errors.Join(program(ctx, "mount", "-t", "ext4", "-o", "loop,"+seldom, d.image(node), d.mountpoint(node)), os.Chmod(d.mountpoint(node), 0o700))
}

// shutdown ends the file system at once.
func (d *disks) shutdown(node int) error {
	f, err := os.Open(d.mountpoint(node))
	if err != nil {
		return err
	}
	flags := uint32(noJournal)
	_, _, no := unix.Syscall(unix.SYS_IOCTL, f.Fd(), ext4Shutdown, uintptr(unsafe.Pointer(&flags)))
	if no != 0 {
		err = fmt.Errorf("shutting the file system of %s down: %w", id(node), no)
	}
	return errors.Join(err, f.Close())
}

func program(ctx context.Context, name string, args ...string) error {
	if said, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, bytes.TrimSpace(said))
	}
	return nil
}
