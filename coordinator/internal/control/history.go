package control

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// screens is how much of a grain is one: what is answered when nobody says since when, and up to
// where that grain is taken when nobody names one.
var screens = map[string]struct{ usual, most time.Duration }{
	"minutes": {time.Hour, 3 * time.Hour},
	"hours":   {24 * time.Hour, 4 * 24 * time.Hour},
	"days":    {60 * 24 * time.Hour, 100 * 365 * 24 * time.Hour},
}

// GetHostHistory implements the service.
func (s *Server) GetHostHistory(ctx context.Context, r *operatorv1.GetHostHistoryRequest) (*operatorv1.GetHostHistoryResponse, error) {
	host, err := s.cfg.DB.Host(ctx, r.GetHost())
	if err != nil {
		return nil, readError(err)
	}
	page, err := s.asked(ctx, r.GetPageSize(), r.GetPageToken())
	if err != nil {
		return nil, err
	}
	res := &operatorv1.GetHostHistoryResponse{Host: host.GetId(), HostName: host.GetName(), Since: r.GetSince(), Until: r.GetUntil()}
	if res.Began, err = s.cfg.DB.HistoryBegan(ctx); err != nil {
		return nil, readError(err)
	}
	oldest, err := s.cfg.DB.Reach(ctx)
	if err != nil {
		return nil, readError(err)
	}
	names, units := store.Grains()
	for i, name := range names {
		res.Reaches = append(res.Reaches, &operatorv1.HistoryReach{Grain: strings.TrimSuffix(name, "s"), Oldest: oldest[i]})
	}
	now := s.cfg.Now().UnixNano()
	if res.Until == 0 {
		res.Until = now
	}
	at, err := grainOf(r.GetGrain(), res, oldest)
	if err != nil {
		return nil, err
	}
	if res.Since == 0 {
		res.Since = max(res.Until-int64(screens[names[at]].usual), 1)
	}
	if res.Since < 0 || res.Since > res.Until {
		return nil, invalid("history since %s until %s: the end is before the beginning", clock(res.Since), clock(res.Until))
	}
	res.Grain = strings.TrimSuffix(names[at], "s")
	from := res.Since
	if page.Token != "" {
		if from, err = strconv.ParseInt(page.Token, 36, 64); err != nil || from < res.Since {
			return nil, readError(store.ErrBadPage)
		}
	}
	size := int(page.Size)
	if size == 0 || size > store.MaxPage {
		size = store.MaxPage
	}
	rows, err := s.cfg.DB.HostHistory(ctx, host.GetId(), names[at], from, res.Until, size+1)
	if err != nil {
		return nil, readError(err)
	}
	for _, row := range rows[:min(len(rows), size)] {
		res.Rows = append(res.Rows, historyRow(row))
	}
	if len(rows) > size {
		if res.PageToken, err = s.follows(ctx, strconv.FormatInt(rows[size-1].From+units[at], 36)); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// grainOf is which grain to answer with: the one that is named, or the finest that is kept since
// then and no longer than a screen.
func grainOf(named string, r *operatorv1.GetHostHistoryResponse, oldest []int64) (int, error) {
	names, _ := store.Grains()
	if named != "" {
		at := slices.Index(names, named+"s")
		if at < 0 {
			return 0, invalid("%q is no grain of history: use minute, hour or day", named)
		}
		return at, nil
	}
	if r.GetSince() == 0 {
		return slices.Index(names, "hours"), nil
	}
	for i, name := range names {
		kept := oldest[i] > 0 && oldest[i] <= max(r.GetSince(), r.GetBegan())
		if kept && time.Duration(r.GetUntil()-r.GetSince()) <= screens[name].most {
			return i, nil
		}
	}
	return len(names) - 1, nil
}

func historyRow(r store.Rollup) *operatorv1.HistoryRow {
	n := func(v int64) uint64 { return uint64(max(v, 0)) } //nolint:gosec // not below zero
	return &operatorv1.HistoryRow{Time: r.From, Summaries: n(r.Summaries), Events: n(r.Events), NewBehaviours: n(r.Fresh),
		Losses: n(r.Lost), Findings: n(r.Findings), Flows: n(r.Flows)}
}
