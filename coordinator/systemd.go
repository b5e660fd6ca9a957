package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
)

// A start that a large state is restored in takes longer than systemd waits for, and one that
// it kills begins anew and is killed again. So a node asks for more time as long as it opens
// its log and state: extension at a time, asked for every tellOpening, for startLimit in all,
// behind which a start hangs.
const (
	tellOpening = 20 * time.Second
	extension   = 2 * time.Minute
	startLimit  = time.Hour
)

// opening asks until what it returns is called, or the node is to stop: it goes on opening, and
// systemd would wait with it.
func opening(ctx context.Context, limit time.Duration, logger *slog.Logger) (opened func()) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	var asking sync.WaitGroup
	began := time.Now()
	asking.Go(func() {
		ticker := time.NewTicker(tellOpening)
		defer ticker.Stop()
		for ctx.Err() == nil {
			_, _ = daemon.SdNotify(false, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
			select {
			case <-ctx.Done():
			case <-ticker.C:
				logger.Info("still opening the log and the state", "since", time.Since(began).Round(time.Second))
			}
		}
	})
	return func() {
		cancel()
		asking.Wait()
	}
}

// watchdog tells systemd that the node lives, as long as its state answers.
func (c *Coordinator) watchdog(ctx context.Context, node *consensus.Node) error {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil || interval == 0 {
		return nil //nolint:nilerr // not under a watchdog
	}
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			probe, cancel := context.WithTimeout(ctx, interval/3)
			if _, err := node.DB().ClusterID(probe); err == nil {
				_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
			}
			cancel()
		}
	}
}
