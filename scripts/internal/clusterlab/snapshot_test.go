package clusterlab

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/scripts/internal/lab/labtest"
)

// Ensure that a follower which was away for longer than the others keep their
// logs catches up by a snapshot. A snapshot is taken every 4,096 entries, looked
// at twice a minute.
func TestClusterFollowerCatchesUpBySnapshot(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIP: needs minutes, which -short does not give it")
	}
	c := newTrio(t, 3, "")
	away := c.followers()[0]
	c.Members[away].Kill()
	// The log is cut by whole files of 64 MiB: one is filled by large entries, and many come behind it.
	c.ballast = 48 << 10
	writers, stop := c.write(t, 40, 10*time.Millisecond)
	files := filepath.Join(c.dir(c.leader()), "raft", "wal", "*.wal")
	c.until(2*time.Minute, "the first file of the log to be full", func(context.Context) (bool, error) {
		all, err := filepath.Glob(files)
		return len(all) > 1, err
	})
	c.manyEntries(t, 5000)
	var s status
	c.until(5*time.Minute, "5,000 entries", func(ctx context.Context) (bool, error) {
		err := c.JSON(ctx, &s, "status")
		return s.Applied > 5000, fmt.Errorf("%d entries, %w", s.Applied, err)
	})
	wal := filepath.Join(c.dir(c.leader()), "raft", "wal", "*0000001-*.wal")
	c.until(2*time.Minute, "the first file of the log to be removed", func(context.Context) (bool, error) {
		left, err := filepath.Glob(wal)
		return len(left) == 0, err
	})
	stop()
	began := time.Now()
	c.start(away)
	c.converged(t)
	labtest.Figure(t, "follower far behind is level again", time.Since(began).Seconds(), "s", "≤ 20", time.Since(began) < 20*time.Second, fmt.Sprintf("%d entries", s.Applied))
	c.said(away, "Installed remote snapshot", time.Second)
	c.sameEverywhere(t)
	c.countedOnce(t, writers)
}

// manyEntries has operators make n entries of their own. Sensors would take minutes: a node
// puts what they send within 200 ms into one.
func (c *trio) manyEntries(t *testing.T, n int) {
	t.Helper()
	file, err := client.LoadContext(c.Founder(), "")
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(file, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer api.Close()
	left := make(chan struct{}, n)
	for range n {
		left <- struct{}{}
	}
	close(left)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var operators errgroup.Group
	for range 32 { // the leader puts those that come together to disk at once
		operators.Go(func() error {
			for range left {
				if _, err := api.CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 600}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := operators.Wait(); err != nil {
		t.Fatal(err)
	}
}
