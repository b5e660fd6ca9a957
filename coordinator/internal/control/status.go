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

const (
	// membersTime bounds how long a status waits for what the other nodes say.
	membersTime = 2 * time.Second
	// lossTime is how long a loss is a problem: what was lost longer ago is in
	// 'vedette host show', and nobody can do anything about it any more.
	lossTime = time.Hour
)

// farBehind is how many entries a node may lack while nothing is wrong with it:
// several seconds of a busy cluster.
const farBehind = 1000

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
	quiet, err := s.cfg.DB.Quiet(ctx, now.Add(-s.cfg.SilentAfter).UnixNano(), now.Add(-lossTime).UnixNano())
	if err != nil {
		return nil, readError(err)
	}
	leader, _, _ := s.cfg.Cluster.Leader()
	membersCtx, cancel := context.WithTimeout(ctx, membersTime)
	defer cancel()
	members, err := s.cfg.Cluster.Members(membersCtx)
	first := ""
	switch dead := count(members, "unreachable"); {
	case err != nil:
		first = fmt.Sprintf("The state of the nodes is not known: %v.", err)
	case len(members) > 0 && 2*(len(members)-dead) <= len(members):
		// Who led a moment ago leads nothing that this node could reach.
		leader = ""
		first = fmt.Sprintf("%d of %d nodes do not answer node %s, so nothing can be written: start the nodes that are down, a majority must run and reach each other.",
			dead, len(members), s.cfg.NodeID)
	case leader == "":
		first = "The cluster has no leader, so nothing can be written: an election takes a few seconds; if this stays, a majority of the nodes cannot reach each other."
	}
	signed, err := s.cfg.DB.SignedNodes(ctx)
	if err != nil {
		return nil, readError(err)
	}
	problems := s.problems(first, leader, members, quiet)
	if problem := nodesProblem(signed, members, now); problem != "" {
		problems = append(problems, problem)
	}
	return &operatorv1.GetStatusResponse{
		ClusterId: s.cfg.Authority.Cluster(), NodeId: s.cfg.NodeID, LeaderId: leader, Version: s.cfg.Version,
		AppliedIndex: s.cfg.DB.AppliedIndex(), Hosts: counts.Hosts, HostsSilent: quiet.Silent, FindingsDay: counts.FindingsSince,
		IncidentsOpen: counts.IncidentsOpen, Isolated: counts.Isolated, Time: now.UnixNano(),
		HostsBlind: quiet.Blind, HostsStopped: quiet.Stopped,
		Members: members, Problems: problems, SignedNodes: signed,
	}, nil
}

func count(members []*operatorv1.Member, state string) (n int) {
	for _, m := range members {
		if m.GetState() == state {
			n++
		}
	}
	return n
}

func (s *Server) problems(first, leader string, members []*operatorv1.Member, quiet store.Quiet) []string {
	var problems []string
	if first != "" {
		problems = append(problems, first)
	}
	var newest uint64
	for _, m := range members {
		newest = max(newest, m.GetAppliedIndex())
	}
	for _, m := range members {
		if m.GetState() != "unreachable" {
			if behind := newest - m.GetAppliedIndex(); behind > farBehind {
				problems = append(problems, fmt.Sprintf("Node %s is %d entries behind: if it does not catch up, its disk is full or slow; its log says.", m.GetId(), behind))
			}
			continue
		}
		what := "look at its log"
		if leader != "" { // without one nothing can be removed
			what += fmt.Sprintf(", or remove it with 'vedette cluster remove %s' if it is gone for good", m.GetId())
		}
		problems = append(problems, fmt.Sprintf("Node %s (%s) does not answer: %s.", m.GetId(), m.GetAddress(), what))
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
	if quiet.Blind > 0 {
		names := strings.Join(quiet.BlindNames, "; ")
		if uint64(len(quiet.BlindNames)) < quiet.Blind {
			names += "; …"
		}
		problems = append(problems, fmt.Sprintf("%s blind (%s): until that is mended nothing is found there. See 'vedette host show' and 'journalctl -u vedette-sensor' there; when nobody there did it, take it for an attack.",
			verb(quiet.Blind, "host is", "hosts are"), names))
	}
	if quiet.Lossy > 0 {
		problems = append(problems, fmt.Sprintf("%s lost events within the last hour (%s since they enrolled): 'vedette host list -o wide' says which, 'vedette host show' where and why.",
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
