package main

import (
	"context"
	"errors"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// drilledFindings are what came of the run 0badc0de: one is a child's of the marked process.
func drilledFindings() []*operatorv1.FindingRow {
	process := func(argv ...string) *sensorv1.Process {
		p := &sensorv1.Process{Pid: 7, Image: []byte("/x")}
		for _, arg := range argv {
			p.Argv = append(p.Argv, []byte(arg))
		}
		return p
	}
	marked := process("drill-work", "drill", "act", "vdrill-0badc0de.cron-entry", "cron-entry")
	marked.Image = []byte("/var/lib/vedette-drill/0badc0de/drill-work")
	return []*operatorv1.FindingRow{
		{Host: web1, HostName: "web1", Incident: fixedIncident().GetId(), Finding: &sensorv1.Finding{Id: found, Time: at(8), Title: "A cron file", Techniques: []string{"T1053"},
			Process: process("sh", "-c", "x"), Ancestors: []*sensorv1.Process{marked}}},
		{Host: web1, HostName: "web1", Finding: &sensorv1.Finding{Id: "f-other", Time: at(9), Title: "Somebody else's", Process: process("vdrill-0badc0df.timer-unit")}},
	}
}

func (f *fake) PutDrills(_ context.Context, r *operatorv1.PutDrillsRequest) (*operatorv1.PutDrillsResponse, error) {
	for _, one := range r.GetResults() {
		if problem := drill.CheckResult(one, 1024); problem != "" {
			return nil, connect.NewError(connect.CodeInvalidArgument, errors.New(problem))
		}
	}
	return &operatorv1.PutDrillsResponse{}, nil
}

func (f *fake) ListDrills(_ context.Context, r *operatorv1.ListDrillsRequest) (*operatorv1.ListDrillsResponse, error) {
	if f.is("undrilled") {
		return &operatorv1.ListDrillsResponse{}, nil
	}
	res := &operatorv1.ListDrillsResponse{}
	for _, one := range []*raftv1.DrillResult{
		{Host: web1, HostName: "web1", Drill: "cron-entry", Verdict: drill.Proven, Time: at(5), Named: []string{"T1053.003"}, Findings: 1, MissedAt: at(-90), ProvenAt: at(5)},
		{Host: web1, HostName: "web1", Drill: "timer-unit", Verdict: drill.Missed, Time: at(5), MissedAt: at(5)},
		{Host: web1, HostName: "web1", Drill: "at-job", Verdict: drill.Skipped, Time: at(5), Why: "needs /var/spool"},
		{Host: web1, HostName: "web1", Drill: "control-files", Verdict: drill.Noisy, Time: at(5), Findings: 1},
	} {
		if r.GetHost() == "" || r.GetHost() == "web1" {
			res.Results = append(res.Results, one)
		}
	}
	return res, nil
}
