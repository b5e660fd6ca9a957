package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const (
	// nodes of the cluster.
	nodes = 3
	// Ports are the same at every node: each has an address of its own on the loopback,
	// so that a rule of nftables can say between which two it holds.
	sensorPort, operatorPort = "17743", "17744"
	// patience bounds every wait for the cluster to be as it was.
	patience = 40 * time.Second
	poll     = 20 * time.Millisecond
	// settings make a test see in seconds what takes hours: snapshots, restores and files
	// of the log that begin and go.
	settings = "snapshot-threshold:150,trailing-logs:60,snapshot-interval-ms:1500,segment-size:1048576,digest-every:100"
)

// rig is a cluster of real nodes, and an operator's connection to each of them.
type rig struct {
	*lab.Cluster
	lab   *lab.Lab
	dir   string
	admin *client.Context
	// at asks one node and no other.
	at []*client.Client
	// base is what every node is told always.
	base string
	// added is how many addresses nodes were given for a while.
	added int
}

func address(node int) string { return fmt.Sprintf("127.0.0.%d", 11+node) }

func id(node int) string { return fmt.Sprintf("n%d", node+1) }

// newRig starts the cluster in dir; prepare makes the folders of its nodes, when they are
// to be on disks of their own.
func newRig(ctx context.Context, cfg config, dir, more string, prepare func(*lab.Lab) error) (*rig, error) {
	bin, err := programs(cfg.bin, cfg.coordinator, dir)
	if err != nil {
		return nil, err
	}
	l, err := lab.New(bin, dir)
	if err != nil {
		return nil, err
	}
	r := &rig{lab: l, dir: dir, base: settings + more}
	if err := prepare(l); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	var specs []lab.NodeSpec
	for i := range nodes {
		specs = append(specs, r.spec(i, ""))
	}
	if r.Cluster, err = l.StartCluster(ctx, specs, func(string) {}); err == nil {
		err = r.connect()
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return r, nil
}

// nothingFirst prepares nothing.
func nothingFirst(*lab.Lab) error { return nil }

func (r *rig) spec(node int, more string) lab.NodeSpec {
	return lab.NodeSpec{ID: id(node), Listen: address(node) + ":" + sensorPort, Operator: address(node) + ":" + operatorPort,
		Env: []string{"VEDETTE_FAILPOINT=" + r.base + more, "VEDETTE_CLOCK=" + r.clock(node)}}
}

// programs is a folder with the programs, among them the coordinator that can be told
// where to die.
func programs(bin, coordinator, dir string) (string, error) {
	folder := filepath.Join(dir, "bin")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("making a folder for the programs: %w", err)
	}
	for _, name := range []string{"vedette", "vedette-sensor", coordinator + "/vedette-coordinator"} {
		path, err := filepath.Abs(filepath.Join(bin, name))
		if err == nil {
			err = os.Symlink(path, filepath.Join(folder, filepath.Base(name)))
		}
		if err != nil && !errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("naming the programs: %w", err)
		}
	}
	return folder, nil
}

func (r *rig) connect() (err error) {
	if r.admin, err = client.LoadContext(filepath.Join(r.dir, "admin.context.yaml"), ""); err != nil {
		return err
	}
	for i := range nodes {
		c, err := only(r.admin, i)
		if err != nil {
			return err
		}
		r.at = append(r.at, c)
	}
	return nil
}

// only is an operator's connection to one node, which is asked once: what is not
// answered is not known.
func only(of *client.Context, node int) (*client.Client, error) {
	one := *of
	one.Nodes = []string{address(node) + ":" + operatorPort}
	return client.New(&one, client.Options{RetryFor: time.Nanosecond, RetryUnreachable: time.Nanosecond})
}

func (r *rig) close(keep bool) error {
	for _, c := range r.at {
		c.Close()
	}
	if err := r.lab.Close(); err != nil || keep {
		return err // what a node that did not end has logged is all that there is to see
	}
	return os.RemoveAll(r.dir)
}

func until(ctx context.Context, most time.Duration, what string, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("not within %s", most))
	defer cancel()
	return lab.Until(ctx, poll, what, holds)
}

func (r *rig) status(ctx context.Context, node int) (*operatorv1.GetStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return r.at[node].Status(ctx)
}

// leader is the node that leads, by what it says of itself.
func (r *rig) leader(ctx context.Context) (leader int, err error) {
	err = until(ctx, patience, "a leader", func(ctx context.Context) (bool, error) {
		for i := range nodes {
			s, err := r.status(ctx, i)
			if err == nil && s.GetLeaderId() == id(i) {
				leader = i
				return true, nil
			}
		}
		return false, errors.New("no node says that it leads")
	})
	return leader, err
}

// level waits until every node runs and has applied all that was committed before the call.
func (r *rig) level(ctx context.Context) error {
	var goal uint64
	var behind []string
	err := until(ctx, patience, "every node to be level", func(ctx context.Context) (bool, error) {
		behind = behind[:0]
		for i := range nodes {
			select {
			case <-r.Members[id(i)].Exited():
				return false, fmt.Errorf("%s ended", id(i))
			default:
			}
			s, err := r.status(ctx, i)
			if goal == 0 && err == nil {
				goal = r.readPoint(ctx, i)
			}
			if goal == 0 || err != nil || s.GetAppliedIndex() < goal || s.GetLeaderId() == "" {
				behind = append(behind, fmt.Sprintf("%s (%d of %d, %v)", id(i), s.GetAppliedIndex(), goal, err))
			}
		}
		return len(behind) == 0, errors.New(strings.Join(behind, ", "))
	})
	if err != nil {
		for i := range nodes {
			err = fmt.Errorf("%w\n%s said:\n%s", err, id(i), lastLines(r.Members[id(i)].Tail(), 12))
		}
	}
	return err
}

// readPoint is an entry at which a node stands behind a read barrier: all that was
// committed before is in it. 0 when there is none to be had.
func (r *rig) readPoint(ctx context.Context, node int) uint64 {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	for _, err := range r.at[node].Operations(ctx, true, 1) {
		if err != nil {
			return 0
		}
		break
	}
	s, err := r.status(ctx, node)
	if err != nil {
		return 0
	}
	return s.GetAppliedIndex()
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (r *rig) start(ctx context.Context, node int, more string) error {
	return r.StartNode(ctx, r.spec(node, more))
}

func (r *rig) data(node int) string { return filepath.Join(r.dir, "coordinator-"+id(node)) }
