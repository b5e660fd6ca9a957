package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// finding is what the story reads of "vedette finding list -o json".
type finding struct {
	ID         string   `json:"id"`
	Host       string   `json:"host"`
	HostName   string   `json:"host_name"`
	Kind       string   `json:"kind"`
	Title      string   `json:"title"`
	Reason     string   `json:"reason"`
	Techniques []string `json:"techniques"`
	Process    struct {
		PID       int      `json:"pid"`
		Image     string   `json:"image"`
		Argv      []string `json:"argv"`
		Ancestors []struct {
			Image string `json:"image"`
		} `json:"ancestors"`
	} `json:"process"`
	Evidence struct {
		Flows []struct {
			Remote string `json:"remote"`
		} `json:"flows"`
	} `json:"evidence"`
}

type incident struct {
	ID         string   `json:"id"`
	Status     string   `json:"status"`
	Title      string   `json:"title"`
	Hosts      []string `json:"hosts"`
	Account    string   `json:"account"`
	Techniques []string `json:"techniques"`
}

func (s *story) list(ctx context.Context) ([]finding, error) {
	var all []finding
	err := s.cluster.JSON(ctx, &all, "finding", "list")
	return all, err
}

func (f finding) ancestor(image string) bool {
	for _, a := range f.Process.Ancestors {
		if filepath.Base(a.Image) == image {
			return true
		}
	}
	return false
}

func (f finding) peer(address string) bool {
	return slices.ContainsFunc(f.Evidence.Flows, func(flow struct {
		Remote string `json:"remote"`
	}) bool {
		return strings.HasPrefix(flow.Remote, address+":")
	})
}

// findings waits for the three pieces of the chain, each with the right process.
func (s *story) findings(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	wanted := []struct {
		what string
		is   func(finding) bool
	}{
		{"web1: the shop started a shell", func(f finding) bool {
			return names[f.Host] == "web1" && f.ancestor("shopd") && slices.Contains(f.Process.Argv, "-c")
		}},
		{"app1: something new in a session that came from web1", func(f finding) bool {
			return names[f.Host] == "app1" && f.ancestor("sshd")
		}},
		{"db1: a new program in /dev/shm talks to 203.0.113.66", func(f finding) bool {
			return names[f.Host] == "db1" && f.Process.Image == dropped && f.peer(s.world.away.v4)
		}},
	}
	for _, w := range wanted {
		var got finding
		err := s.until(ctx, 10*time.Second, "the finding «"+w.what+"»", func(ctx context.Context) (bool, error) {
			all, err := s.list(ctx)
			slices.Reverse(all) // the oldest says how it began
			at := slices.IndexFunc(all, w.is)
			if at >= 0 {
				got = all[at]
			}
			return at >= 0, err
		})
		if err != nil {
			return errors.Join(err, s.show(ctx, "finding", "list", "-o", "wide"))
		}
		s.say.proved("%s", w.what)
		s.say.line("    %s", got.Title)
		s.say.line("    %s", got.Reason)
	}
	return nil
}

// names of the hosts by id.
func (s *story) names(ctx context.Context) (map[string]string, error) {
	hosts, err := s.cluster.Hosts(ctx)
	byID := map[string]string{}
	for name, h := range hosts {
		byID[h.ID] = name
	}
	return byID, err
}

// show adds what an operator would look at to an error.
func (s *story) show(ctx context.Context, args ...string) error {
	out, err := s.cluster.CLI(context.WithoutCancel(ctx), args...)
	if err != nil {
		return err
	}
	return fmt.Errorf("vedette %s says:\n%s", strings.Join(args, " "), out)
}

func (s *story) incident(ctx context.Context) error {
	names, err := s.names(ctx)
	if err != nil {
		return err
	}
	var open []incident
	err = s.until(ctx, 15*time.Second, "one incident with web1, app1 and db1", func(ctx context.Context) (bool, error) {
		open = nil
		if err := s.cluster.JSON(ctx, &open, "incident", "list"); err != nil {
			return false, err
		}
		open = slices.DeleteFunc(open, func(i incident) bool { return i.Status != "open" })
		return len(open) == 1 && s.covers(open[0], names), nil
	})
	if err != nil {
		return errors.Join(err, s.show(ctx, "incident", "list", "-o", "wide"), s.show(ctx, "finding", "list"))
	}
	s.say.proved("one incident on web1, app1 and db1: %s", open[0].Title)
	for line := range strings.Lines(open[0].Account) {
		s.say.line("    %s", strings.TrimRight(line, "\n"))
	}
	return nil
}

func (s *story) covers(i incident, names map[string]string) bool {
	var hosts []string
	for _, id := range i.Hosts {
		name := names[id]
		if name == "" {
			name = id
		}
		hosts = append(hosts, name)
	}
	slices.Sort(hosts)
	return slices.Equal(hosts, []string{"app1", "db1", "web1"})
}

// isolate cuts every host: more than one operator may alone, by the governor's caps.
func (s *story) isolate(ctx context.Context) error {
	operation, err := s.order(ctx, "isolate", "--all", "--reason", "demo: the shop was broken into", "--ttl", "10m", "--yes")
	if err != nil {
		return err
	}
	if err := s.waits(ctx, operation, "waiting"); err != nil {
		return err
	}
	if through, err := tryOut(ctx, s.world.web(), s.world.away); err != nil || !through.all() {
		return errors.Join(err, fmt.Errorf("web1 should not be cut before the second operator has signed: %s", through))
	}
	s.say.proved("vedette isolate --all: nothing is done by one operator alone, %s waits", operation)
	second, err := s.cluster.NewOperator(ctx, "second", "responder")
	if err != nil {
		return err
	}
	started := time.Now()
	if out, err := s.cluster.CLI(ctx, "--context-file", second, "approve", operation, "--yes"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	if out, err := s.cluster.CLI(ctx, "isolation", "watch", operation, "--timeout", "20s"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	s.say.proved("a second operator: vedette approve %s: applied on %d hosts in %.1f s", operation, len(s.world.hosts), time.Since(started).Seconds())
	for _, h := range s.world.hosts[:3] {
		for _, peer := range []host{s.world.admin(), s.world.away} {
			if err := isCut(ctx, h, peer); err != nil {
				return err
			}
		}
	}
	s.say.proved("0 packets of web1, app1 and db1 reach a neighbour or the outside, none come in, IPv4 and IPv6")
	return s.reportsWhileCut(ctx)
}

// isCut is an error when anything passes between a host and a peer.
func isCut(ctx context.Context, h, peer host) error {
	through, err := tryOut(ctx, h, peer)
	if err == nil && !through.none() {
		err = fmt.Errorf("%s is not cut from %s: %s", h.name, peer.name, through)
	}
	return err
}

// reportsWhileCut has something happen on an isolated host and sees it at the operator's.
func (s *story) reportsWhileCut(ctx context.Context) error {
	before, err := s.list(ctx)
	if err != nil {
		return err
	}
	probe, err := s.newProgram(ctx, s.world.web(), "again")
	if err != nil {
		return err
	}
	defer os.Remove(probe)
	err = s.until(ctx, 10*time.Second, "a finding from web1 while it is cut", func(ctx context.Context) (bool, error) {
		now, err := s.list(ctx)
		return len(now) > len(before) && slices.ContainsFunc(now, func(f finding) bool { return f.Process.Image == probe }), err
	})
	if err == nil {
		s.say.proved("web1's sensor still reports: a finding came while the host is cut")
	}
	return err
}

func (s *story) release(ctx context.Context) error {
	if err := removeDropped(); err != nil {
		return err
	}
	if out, err := s.cluster.CLI(ctx, "release", "--all", "--reason", "demo: done", "--yes", "--wait", "--timeout", "20s"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	for _, h := range s.world.hosts[:3] {
		through, err := tryOut(ctx, h, s.world.admin())
		if err != nil {
			return err
		}
		if !through.all() {
			return fmt.Errorf("%s is not back: %s", h.name, through)
		}
	}
	s.say.proved("web1, app1 and db1 are back, IPv4 and IPv6")
	if _, err := s.cluster.CLI(ctx, "audit", "verify"); err != nil {
		return err
	}
	s.say.proved("the audit record is whole: every order and its effect, hash-chained")
	return nil
}
