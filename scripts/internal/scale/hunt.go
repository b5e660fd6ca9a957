package scale

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/world"
)

const (
	// huntMost is what the issue asks of a thousand hosts.
	huntMost  = 5 * time.Second
	huntSize  = 1000
	huntTimes = 5
)

// hunts asks the whole fleet at once, from one node: what is rare, and what every host has.
func hunts(ctx context.Context, cfg Config) []figure.Row {
	cfg.Size = min(cfg.Size, huntSize)
	name := fmt.Sprintf("hunt → all of %d hosts have answered, longest of %d", cfg.Size, huntTimes)
	rows, err := func() ([]figure.Row, error) {
		s, err := newStage(ctx, cfg, "hunt", world.Config{Seed: cfg.Seed, Hosts: cfg.Size, Window: cfg.Every})
		if err != nil {
			return nil, err
		}
		defer s.close()
		growing, cancel := context.WithTimeoutCause(ctx, enrolLimit, fmt.Errorf("not enrolled and connected within %s", enrolLimit))
		defer cancel()
		if err := s.fleet.Grow(growing, cfg.Size); err != nil {
			return nil, err
		}
		return s.hunts(ctx, name)
	}()
	if err != nil {
		rows = append(rows, figure.Missing(name, "s", fmt.Sprintf("≤ %g", huntMost.Seconds()), err))
	}
	return rows
}

func (s *stage) hunts(ctx context.Context, name string) ([]figure.Row, error) {
	var took []time.Duration
	var missing, wrong float64
	for range huntTimes {
		h, err := s.hunt(ctx, fleet.Rare, 1000)
		if err != nil {
			return nil, err
		}
		took = append(took, h.took)
		missing += float64(s.cfg.Size - h.answered)
		if h.rows != fleet.RareHosts(s.cfg.Size) {
			wrong++
		}
	}
	rows := []figure.Row{
		figure.AtMost(name, slices.Max(took).Seconds(), huntMost.Seconds(), "s",
			fmt.Sprintf("%q; shortest %.2f s; asked at one of %d nodes; hosts of %d records; load %s", fleet.Rare, slices.Min(took).Seconds(), nodes, 400, loadNow())),
		figure.Exactly("hosts that did not answer a hunt", missing, 0, "hosts", fmt.Sprintf("of %d in %d hunts", s.cfg.Size*huntTimes, huntTimes)),
		figure.Exactly("hunts with rows missing or too many", wrong, 0, "hunts", fmt.Sprintf("%d rows each", fleet.RareHosts(s.cfg.Size))),
	}
	all, err := s.hunt(ctx, fleet.Common, 100_000)
	if err != nil {
		return rows, err
	}
	return append(rows, figure.Info("rows of a hunt that every host answers with some", float64(all.rows)/all.took.Seconds(), "rows/s",
		fmt.Sprintf("%d rows of %d in %.2f s; load %s", all.rows, s.cfg.Size*fleet.CommonRows-fleet.RareHosts(s.cfg.Size), all.took.Seconds(), loadNow()))), nil
}

type huntResult struct {
	took           time.Duration
	rows, answered int
}

func (s *stage) hunt(ctx context.Context, expression string, most uint32) (out huntResult, err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	began := time.Now()
	why := map[string]int{}
	for m, err := range s.client.Hunt(ctx, &operatorv1.HuntRequest{Selector: &operatorv1.Selector{All: true}, MaxRows: most,
		Ask: &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: expression}, MaxMillis: 20_000}}) {
		if err != nil {
			return out, err
		}
		switch {
		case m.GetRow() != nil:
			out.rows++
		case m.GetHost().GetCode() != "":
			why[m.GetHost().GetCode()]++
		case m.GetEnd() != nil:
			out.answered = int(m.GetEnd().GetAnswered())
			out.took = time.Since(began)
		}
	}
	if out.took == 0 {
		return out, errors.New("the hunt has no end")
	}
	if len(why) > 0 {
		s.cfg.Log(fmt.Sprintf("hosts that did not answer, by reason: %v", why))
	}
	return out, nil
}
