package main

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// longList is a list of findings without an end (mode endless), one that breaks off behind its first
// page (mode breaks), or that stands still there (mode stands); nil in other modes.
func (f *fake) longList(ctx context.Context, r *operatorv1.ListFindingsRequest) (*operatorv1.ListFindingsResponse, error) {
	f.mu.Lock()
	mode := f.mode
	f.mu.Unlock()
	from, _ := strconv.Atoi(r.GetPageToken())
	switch {
	case mode == "drilled":
		return &operatorv1.ListFindingsResponse{Findings: drilledFindings()}, nil
	case mode != "endless" && !strings.HasPrefix(mode, "breaks") && mode != "stands":
		return nil, nil
	case mode == "breaks for good" && from > 0:
		return nil, connect.NewError(connect.CodeInternal, errors.New("the disk is broken"))
	case mode == "breaks" && from > 0:
		return nil, connect.NewError(connect.CodeUnavailable, errors.New("stopping"))
	case mode == "stands" && from > 0:
		<-ctx.Done()
		return nil, ctx.Err()
	}
	res := &operatorv1.ListFindingsResponse{PageToken: strconv.Itoa(from + 500)}
	for range 500 {
		res.Findings = append(res.Findings, fixedFindings()[1])
	}
	return res, nil
}

// GetHostHistory pages by one.
func (f *fake) GetHostHistory(_ context.Context, r *operatorv1.GetHostHistoryRequest) (*operatorv1.GetHostHistoryResponse, error) {
	hosts := f.hosts(&operatorv1.Selector{Ids: []string{r.GetHost()}}, false)
	if len(hosts) != 1 {
		return nil, connect.NewError(connect.CodeNotFound, errors.New("no host "+strconv.Quote(r.GetHost())))
	}
	all := []*operatorv1.HistoryRow{
		{Time: at(-10800), Summaries: 120, Events: 60000, NewBehaviours: 12, Flows: 3},
		{Time: at(-3600), Summaries: 118, Events: 1023, Losses: 5, Findings: 1},
		{Time: at(0), Summaries: 20},
	}
	if r.GetSince() > at(0) {
		all = nil
	}
	res := &operatorv1.GetHostHistoryResponse{Host: hosts[0].GetId(), HostName: hosts[0].GetName(), Grain: r.GetGrain(), Since: at(-86400), Until: at(600), Began: at(-864000),
		Reaches: []*operatorv1.HistoryReach{{Grain: "minute", Oldest: at(-172800)}, {Grain: "hour", Oldest: at(-900000)}, {Grain: "day"}}}
	if res.Grain == "" {
		res.Grain = "hour"
	}
	if f.is("no-history") {
		res.Began, all = 0, nil
	}
	if n := len(r.GetPageToken()); n < len(all) {
		res.Rows = all[n : n+1]
		if n+1 < len(all) {
			res.PageToken = strings.Repeat("x", n+1)
		}
	}
	return res, nil
}
