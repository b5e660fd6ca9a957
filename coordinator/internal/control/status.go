package control

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// membersTime bounds how long a status waits for what the other nodes say.
const membersTime = 2 * time.Second

// Below these a node will soon be unable to write: raft's log and a snapshot
// beside the database need room.
const (
	lowDiskBytes   = 512 << 20
	lowDiskPercent = 5
)

// GetStatus implements the service. It answers without a leader too: that is
// when it is needed most.
func (s *Server) GetStatus(ctx context.Context, _ *operatorv1.GetStatusRequest) (*operatorv1.GetStatusResponse, error) {
	now := s.cfg.Now()
	counts, err := s.cfg.DB.Counts(ctx, now.Add(-24*time.Hour).UnixNano())
	if err != nil {
		return nil, readError(err)
	}
	quiet, err := s.cfg.DB.Quiet(ctx, now.Add(-s.cfg.SilentAfter).UnixNano())
	if err != nil {
		return nil, readError(err)
	}
	leader, _, led := s.cfg.Cluster.Leader()
	status := &operatorv1.GetStatusResponse{
		ClusterId: s.cfg.Authority.Cluster(), NodeId: s.cfg.NodeID, LeaderId: leader, Version: s.cfg.Version,
		AppliedIndex: s.cfg.DB.AppliedIndex(), Hosts: counts.Hosts, HostsSilent: quiet.Silent, FindingsDay: counts.FindingsSince,
		IncidentsOpen: counts.IncidentsOpen, Isolated: counts.Isolated, Time: now.UnixNano(),
	}
	membersCtx, cancel := context.WithTimeout(ctx, membersTime)
	defer cancel()
	members, err := s.cfg.Cluster.Members(membersCtx)
	status.Members = members
	status.Problems = s.problems(leaderless(led, err), members, quiet)
	return status, nil
}

func leaderless(led bool, err error) string {
	switch {
	case !led:
		return "The cluster has no leader, so nothing can be written: start the nodes that are down, a majority must run."
	case err != nil:
		return fmt.Sprintf("The state of the nodes is not known: %v.", err)
	}
	return ""
}

func (s *Server) problems(first string, members []*operatorv1.Member, quiet store.Quiet) []string {
	var problems []string
	if first != "" {
		problems = append(problems, first)
	}
	for _, m := range members {
		if m.GetState() == "unreachable" {
			problems = append(problems, fmt.Sprintf("Node %s (%s) does not answer: look at its log, or remove it with 'vedette cluster remove %s' if it is gone for good.", m.GetId(), m.GetAddress(), m.GetId()))
		}
	}
	if len(members) == 2 {
		problems = append(problems, "The cluster has two nodes, so the loss of either stops it: add a third one.")
	}
	if quiet.Silent > 0 {
		names := strings.Join(quiet.Names, ", ")
		if uint64(len(quiet.Names)) < quiet.Silent {
			names += ", …"
		}
		problems = append(problems, fmt.Sprintf("%s silent (%s): see 'systemctl status vedette-sensor' there; a sensor that somebody stopped is a reason to look.",
			verb(quiet.Silent, "host is", "hosts are"), names))
	}
	if quiet.Lossy > 0 {
		problems = append(problems, fmt.Sprintf("%s lost %s so far: 'vedette host list -o wide' says which, 'vedette host show' where and why.",
			verb(quiet.Lossy, "host has", "hosts have"), plural(quiet.Lost, "event")))
	}
	if free, total, err := diskFree(s.cfg.DataDir); err == nil && (free < lowDiskBytes || free*100 < total*lowDiskPercent) {
		problems = append(problems, fmt.Sprintf("Node %s has %d MiB left on the disk of %s: make room, or it will stop writing.", s.cfg.NodeID, free>>20, s.cfg.DataDir))
	}
	if dropped := s.dropped.Load(); dropped > 0 {
		problems = append(problems, fmt.Sprintf("%s not shown to watchers of node %s that read too slowly; the lists have all of them.", verb(dropped, "event was", "events were"), s.cfg.NodeID))
	}
	return problems
}

func verb(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func diskFree(dir string) (free, total uint64, err error) {
	var stat syscall.Statfs_t
	if err := syscall.Statfs(dir, &stat); err != nil {
		return 0, 0, err
	}
	return stat.Bavail * uint64(stat.Bsize), stat.Blocks * uint64(stat.Bsize), nil
}
