package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/live"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

const (
	// refresh is between two rounds of lists, which mend what the stream missed.
	refresh = 2 * time.Second
	// watchRows is how many findings and incidents the screen starts with.
	watchRows = 50
	// watchNames is of how many hosts the names of known behaviours are asked.
	watchNames = 8
)

func (a *app) watchCommand() *cobra.Command {
	var plainly bool
	var host string
	var hints []string
	c := &cobra.Command{
		Use:   "watch",
		Short: "see what happens now",
		Long: `Shows what hosts do, what they learn, findings, incidents and isolations as they come.
On a terminal it is a screen (q leaves it, p holds it still); elsewhere, or with
--plain, every event is appended as a line, and with -o jsonl as a JSON object. A lost
node is replaced by the next. It ends by Ctrl-C, q, or --timeout when given.`,
		Example: "  vedette watch\n  vedette watch --plain --host web1\n  vedette watch -o jsonl | jq 'select(.type == \"finding\")'",
		Args:    none,
		RunE: bare(func(ctx context.Context, _ []string) error {
			s, err := a.open()
			if err != nil {
				return err
			}
			defer s.api.Close()
			if given := first(a.timeout, env("TIMEOUT")); given != "" && s.timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, s.timeout)
				defer cancel()
			}
			// A wrong context or a cluster that is away is an error now, not an empty screen.
			if _, err := s.api.Status(ctx); err != nil {
				return err
			}
			terminal := term.IsTerminal(int(a.stdout.Fd())) && term.IsTerminal(int(a.stdin.Fd()))
			switch {
			case s.Format == output.JSON || s.Format == output.JSONL:
				return s.follow(ctx, host, func(ev *operatorv1.WatchResponse) error {
					line := *s.Printer
					line.Format = output.JSONL
					return line.Show(output.Shown{Value: live.ToRecord(ev)})
				})
			case !s.Human():
				return usage("watch prints no %s: use -o jsonl, or leave -o out", s.Format)
			case plainly || !terminal:
				return s.follow(ctx, host, func(ev *operatorv1.WatchResponse) error {
					for _, line := range live.Lines(ev) {
						if _, err := fmt.Fprintln(s.Out, line); err != nil {
							return err
						}
					}
					return nil
				})
			default:
				return s.screen(ctx, host, hints)
			}
		}),
	}
	c.Flags().BoolVar(&plainly, "plain", false, "append lines, also on a terminal")
	c.Flags().StringVar(&host, "host", "", "only of this host, by id or name")
	c.Flags().StringArrayVar(&hints, "hint", nil, "show this line at the screen's foot")
	_ = c.Flags().MarkHidden("hint") // for make up, which would else be hidden behind the screen
	a.completeHostFlag(c)
	return c
}

// follow prints events until the stream cannot go on, stdout is gone, the time is
// over, which is no error, or somebody interrupts, which is said by the exit code alone.
func (s *session) follow(ctx context.Context, host string, print func(*operatorv1.WatchResponse) error) error {
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var failed error
	err := s.api.Watch(ctx, host, func(ev *operatorv1.WatchResponse) {
		if failed == nil {
			if failed = print(ev); failed != nil {
				cancel()
			}
		}
	}, func(node string, err error) {
		if err != nil {
			s.say("%s; trying the next node", err)
		}
	})
	if err == nil && failed == nil && errors.Is(outer.Err(), context.Canceled) {
		return exit(exitInterrupted, "")
	}
	return errors.Join(err, failed)
}

// screen runs the full-screen view beside the stream and the rounds of lists.
func (s *session) screen(ctx context.Context, host string, hints []string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	view := live.NewScreen(ctx, s.stdin, s.stdout, s.Colour, hints)
	var feeds sync.WaitGroup
	var streamed error
	feeds.Go(func() {
		streamed = s.api.Watch(ctx, host, view.Event, func(_ string, err error) {
			if err != nil {
				view.Trouble(err.Error())
				return
			}
			view.Trouble("")
		})
		cancel() // nothing more comes: an empty screen that looks alive would lie
	})
	feeds.Go(func() {
		tick := time.NewTicker(refresh)
		defer tick.Stop()
		for {
			view.Take(s.snapshot(ctx, host))
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	err := view.Run()
	cancel()
	feeds.Wait()
	return errors.Join(err, streamed)
}

// snapshot asks for the lists of one round; a part that fails is left as it was, and
// the stream's trouble tells why.
func (s *session) snapshot(ctx context.Context, host string) live.Snapshot {
	ctx, cancel := context.WithTimeout(ctx, 5*refresh)
	defer cancel()
	var snap live.Snapshot
	snap.Status, _ = s.api.Status(ctx)
	var selector *operatorv1.Selector
	if host != "" {
		selector = &operatorv1.Selector{Ids: []string{host}}
	}
	snap.Hosts = collect(head(s.api.Hosts(ctx, selector, 0), maxSelection))
	snap.Findings = collect(head(s.api.Findings(ctx, &operatorv1.ListFindingsRequest{Host: host, PageSize: watchRows}), watchRows))
	snap.Incidents = collect(head(s.api.Incidents(ctx, &operatorv1.ListIncidentsRequest{Status: "open", PageSize: watchRows}), watchRows))
	snap.Isolations = collect(head(s.api.Isolations(ctx, &operatorv1.ListIsolationsRequest{Host: host, Active: true, PageSize: watchRows}), watchRows))
	for _, h := range snap.Hosts[:min(len(snap.Hosts), watchNames)] {
		if res, err := s.api.Host(ctx, h.GetId()); err == nil {
			snap.Behaviours = append(snap.Behaviours, res.GetBehaviours()...)
		}
	}
	return snap
}

// collect is all rows, or nil when they could not be had.
func collect[T any](rows func(func(T, error) bool)) []T {
	out := []T{}
	for row, err := range rows {
		if err != nil {
			return nil
		}
		out = append(out, row)
	}
	return out
}
