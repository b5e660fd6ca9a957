package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const (
	restoredName = "backup restored into an empty folder, until the node serves"
	restoredMiB  = 2048
	restoredMost = 600 // s
)

// restoredState makes a backup of a large state as an operator does, encrypted and with the cluster's key,
// and restores it into an empty folder by the real command.
func restoredState(ctx context.Context, b *bench) []figure.Row {
	rows, err := restored(ctx, b, b.times(restoredMiB))
	if err != nil {
		rows = append(rows, figure.Missing(restoredName, "s", fmt.Sprintf("≤ %d", restoredMost), err))
	}
	return rows
}

func restored(ctx context.Context, b *bench, mebibytes int) (rows []figure.Row, err error) {
	// What still runs would be load that the figure does not know of.
	if err := b.lab.Close(); err != nil {
		return nil, err
	}
	// Not beside the others: /run is memory in most places, and a cluster's folder is a disk's.
	dir, err := os.MkdirTemp("/var/tmp", "vedette-bench-restore-")
	if err != nil {
		return nil, fmt.Errorf("making the nodes' folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	l, err := lab.New(b.bin, dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	// The former node is gone when the next one has its addresses: contexts and hosts find it there.
	was := lab.NodeSpec{ID: "b1", Listen: fmt.Sprintf("127.0.0.1:%d", *firstPort+40), Operator: fmt.Sprintf("127.0.0.1:%d", *firstPort+45)}
	is := was
	is.ID = "b2"
	c, err := l.StartCluster(ctx, []lab.NodeSpec{was}, func(string) {})
	if err != nil {
		return nil, err
	}
	if err := c.Members[was.ID].Stop(); err != nil {
		return nil, err
	}
	fill := exec.CommandContext(ctx, "go", "test", "-count=1", "-run", "^TestFill$", "-timeout", "20m", "./coordinator/internal/store", "-args", "-size-mib", fmt.Sprint(mebibytes))
	fill.Env = append(os.Environ(), "VEDETTE_FILL="+filepath.Join(l.NodeDir(was.ID), "state.db"))
	began := time.Now()
	if said, err := fill.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("filling the state: %w: %s", err, lastLines(said))
	}
	filled := time.Since(began)
	if err := c.StartNode(ctx, was); err != nil {
		return nil, err
	}
	if err := serving(ctx, c, was.ID); err != nil {
		return nil, err
	}
	phrase, file := filepath.Join(dir, "phrase"), filepath.Join(dir, "backup")
	if err := os.WriteFile(phrase, []byte("correct horse battery staple of a bench\n"), 0o600); err != nil {
		return nil, fmt.Errorf("writing the passphrase: %w", err)
	}
	began = time.Now()
	if _, err := c.CLI(ctx, "cluster", "backup", "--out", file, "--passphrase-file", phrase, "--timeout", "20m"); err != nil {
		return nil, err
	}
	backedUp := time.Since(began)
	if err := c.Members[was.ID].Stop(); err != nil {
		return nil, err
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("asking for the backup's size: %w", err)
	}
	if err := os.RemoveAll(l.NodeDir(was.ID)); err != nil {
		return nil, fmt.Errorf("removing the former node: %w", err)
	}

	began = time.Now()
	restore := exec.CommandContext(ctx, filepath.Join(b.bin, "vedette-coordinator"), "restore", "--data", l.NodeDir(is.ID), "--id", is.ID,
		"--listen", is.Listen, "--operator-listen", is.Operator, "--from", file, "--passphrase-file", phrase)
	if _, err := l.Run(nil, restore); err != nil {
		return nil, err
	}
	made := time.Since(began)
	if err := c.StartNode(ctx, is); err != nil {
		return nil, err
	}
	if err := serving(ctx, c, is.ID); err != nil {
		return nil, err
	}
	took := time.Since(began)
	state, err := os.Stat(filepath.Join(l.NodeDir(is.ID), "state.db"))
	if err != nil {
		return nil, fmt.Errorf("asking for the state's size: %w", err)
	}
	size := float64(state.Size()) / (1 << 20)
	return []figure.Row{
		figure.AtMost(restoredName, took.Seconds(), restoredMost, "s", fmt.Sprintf(
			"a state of %.2f GiB, a backup of %.2f GiB, encrypted; %.0f s of it vedette-coordinator restore, the rest the node's start until 'vedette status' answers with a leader; load %s",
			size/1024, float64(info.Size())/(1<<30), made.Seconds(), loadNow())),
		figure.AtLeast("the state that was restored", size, float64(mebibytes), "MiB", fmt.Sprintf("behaviours, filled in %.0f s", filled.Seconds())),
		figure.Info("its backup taken by the CLI", backedUp.Seconds(), "s", "encrypted by a passphrase, checked while it is written"),
	}, nil
}

// serving waits until a node answers and leads: only then does status end well.
func serving(ctx context.Context, c *lab.Cluster, id string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*restoredMost*time.Second)
	defer cancel()
	ctx, ended := context.WithCancelCause(ctx)
	defer ended(nil)
	p := c.Members[id]
	go func() {
		select {
		case <-p.Exited():
			ended(fmt.Errorf("it ended: %s", strings.TrimSpace(p.Tail())))
		case <-ctx.Done():
		}
	}()
	return lab.Until(ctx, 100*time.Millisecond, "node "+id+" to serve", func(ctx context.Context) (bool, error) {
		_, err := c.CLI(ctx, "status")
		return err == nil, err
	})
}
