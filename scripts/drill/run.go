package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

type config struct {
	bin, layer            string
	only                  []string
	teach, settle, lookUp time.Duration
}

// result is a row of vedette drill run -o json.
type result struct {
	Drill        string   `json:"drill"`
	Verdict      string   `json:"verdict"`
	Techniques   []string `json:"techniques"`
	Named        []string `json:"named"`
	Titles       []string `json:"titles"`
	After        float64  `json:"after_seconds"`
	Investigated string   `json:"investigated"`
	Respond      string   `json:"respond"`
	Clean        bool     `json:"clean"`
	Why          string   `json:"why"`
}

const sensorName = "drilled"

func run(ctx context.Context, cfg config) (err error) {
	dir, err := os.MkdirTemp("/var/lib", "vedette-drills-")
	if err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	// Some drills run as a service's account, and pass through.
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("making the run's folder: %w", err)
	}
	l, err := lab.New(cfg.bin, dir)
	if err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	defer func() {
		err = errors.Join(err, l.Close())
		if err == nil || errors.Is(err, figure.ErrMissed) {
			err = errors.Join(err, os.RemoveAll(dir))
		} else {
			fmt.Fprintf(os.Stderr, "drill: logs are in %s/logs\n", dir)
		}
	}()
	group, path, err := cgroup(l)
	if err != nil {
		return err
	}
	c, err := l.StartCluster(ctx, []lab.NodeSpec{{ID: "c1", Listen: "127.0.0.1:17741", Operator: "127.0.0.1:17751"}}, func(string) {})
	if err != nil {
		return err
	}
	if err := watch(ctx, c, path, cfg.teach, group); err != nil {
		return err
	}
	results, err := drill(ctx, l, c, dir, cfg)
	if err != nil {
		return err
	}
	table(results)
	rows, err := report(ctx, c, cfg, results)
	if err != nil {
		return err
	}
	return figure.Report(os.Stdout, "out", "drill", rows)
}

// cgroup makes the cgroup that is the host.
func cgroup(l *lab.Lab) (dir, path string, err error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", "", fmt.Errorf("looking for cgroup v2: %w", err)
	}
	for _, line := range strings.Split(string(raw), "\n") {
		before, _, ok := strings.Cut(line, " - cgroup2 ")
		if !ok {
			continue
		}
		path = fmt.Sprintf("/vedette-drills-%d", os.Getpid())
		dir = filepath.Join(strings.Fields(before)[4], path)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return "", "", fmt.Errorf("making a cgroup: %w", err)
		}
		l.OnClose(func() error { return untilGone(dir) })
		return dir, path, nil
	}
	return "", "", errors.New("no cgroup v2 hierarchy is mounted")
}

// untilGone: who was in it has ended, and the kernel takes a moment to notice.
func untilGone(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return lab.Until(ctx, 50*time.Millisecond, "the cgroup to be empty", func(context.Context) (bool, error) {
		err := os.Remove(dir)
		return err == nil, err
	})
}

// watch starts the sensor, and lets it learn what ordinary work looks like.
func watch(ctx context.Context, c *lab.Cluster, path string, teach time.Duration, dir string) error {
	spec := lab.SensorSpec{Name: sensorName, Scope: "cgroup:" + path, SummaryInterval: 5 * time.Second, Window: 4 * time.Second, KnownWindows: 3, LearnFor: teach, More: "budget:\n  cpu_percent: 100\n  rss_bytes: 268435456\n"}
	if teach == 0 {
		spec.LearnFor = 24 * time.Hour
	}
	sensor, err := c.StartSensor(ctx, spec)
	if err != nil {
		return err
	}
	begun, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("not within five minutes"))
	defer cancel()
	err = lab.Until(begun, 200*time.Millisecond, "the sensor to report", func(ctx context.Context) (bool, error) {
		hosts, err := c.Hosts(ctx)
		return hosts[sensorName].State == "online", err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, sensor.Tail())
	}
	if teach == 0 {
		return nil
	}
	group, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer group.Close()
	fmt.Fprintf(os.Stderr, "the sensor learns for %s\n", teach)
	learnt, stop := context.WithTimeout(ctx, teach+10*time.Second)
	defer stop()
	const work = "id; uname; ls /; cat /etc/hostname; date; sleep 0.2; sh -c true; bash -c true"
	for end := time.Now().Add(teach + 5*time.Second); time.Now().Before(end); {
		cmd := exec.CommandContext(learnt, "/bin/sh", "-c", work)
		cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
		if err := cmd.Run(); err != nil && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func drill(ctx context.Context, l *lab.Lab, c *lab.Cluster, dir string, cfg config) ([]result, error) {
	args := append([]string{
		"drill", "run", "-o", "json", "--timeout", "2m", "--settle", cfg.settle.String(), "--look-up", cfg.lookUp.String(), "--sensor", filepath.Join(l.Bin, "vedette-sensor"),
		"--config", filepath.Join(l.StateDir(sensorName), "sensor.yaml"), "--dir", filepath.Join(dir, "scratch"), "--close",
	}, cfg.only...)
	cmd := c.Command(ctx, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, os.Stderr
	err := cmd.Run()
	var results []result
	if broken := json.Unmarshal(said.Bytes(), &results); broken != nil {
		return nil, fmt.Errorf("vedette drill run: %w; reading its answer: %w", err, broken)
	}
	return results, nil // what was missed is in the results
}

func table(results []result) {
	out := tabwriter.NewWriter(os.Stdout, 2, 8, 2, ' ', 0)
	defer out.Flush()
	fmt.Fprintln(out, "DRILL\tTECHNIQUES\tVERDICT\tAFTER\tNAMED\tFOUND AS\tINVESTIGATED\tWOULD DO\tCLEAN\tWHY")
	for _, r := range results {
		fmt.Fprintf(out, "%s\t%s\t%s\t%.1f s\t%s\t%s\t%s\t%s\t%v\t%s\n", r.Drill, strings.Join(r.Techniques, ","), r.Verdict, r.After,
			strings.Join(r.Named, ","), strings.Join(r.Titles, "; "), r.Investigated, r.Respond, r.Clean, r.Why)
	}
}

// report asks the cluster what it keeps, as an operator would, and makes the figures of it.
func report(ctx context.Context, c *lab.Cluster, cfg config, results []result) ([]figure.Row, error) {
	layer, err := c.CLI(ctx, "drill", "report", "-o", "layer")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(cfg.layer), 0o755), os.WriteFile(cfg.layer, layer, 0o644)); err != nil {
		return nil, fmt.Errorf("writing the layer: %w", err)
	}
	var status struct {
		Drills struct {
			Proven int `json:"proven"`
			Missed int `json:"missed"`
			Closed int `json:"gaps_closed"`
		} `json:"drills"`
	}
	if err := c.JSON(ctx, &status, "status"); err != nil {
		return nil, err
	}
	count, ended := map[string][]string{}, map[string][]string{}
	unclean, named := []string{}, 0
	techniques := map[string]bool{}
	for _, r := range results {
		count[r.Verdict] = append(count[r.Verdict], r.Drill)
		if !r.Clean {
			unclean = append(unclean, r.Drill)
		}
		if r.Verdict == "proven" {
			ended[r.Investigated] = append(ended[r.Investigated], r.Drill)
		}
		if r.Verdict == "proven" && len(r.Named) > 0 {
			named++
		}
		for _, t := range r.Techniques {
			techniques[t] = true
		}
	}
	list := func(of []string) string { return strings.Join(slices.Sorted(slices.Values(of)), ", ") }
	number := func(of []string) float64 { return float64(len(of)) }
	rows := []figure.Row{
		figure.Info("drills done", float64(len(results)-len(count["skipped"])), "drills", fmt.Sprintf("skipped: %s", list(count["skipped"]))),
		figure.Info("techniques drilled", float64(len(techniques)), "techniques", "of ATT&CK for Linux"),
		figure.Info("drills proven", number(count["proven"]), "drills", fmt.Sprintf("%d with the technique named by a finding", named)),
		figure.Info("drills missed", number(count["missed"]), "drills", list(count["missed"])),
		figure.Info("techniques proven", float64(status.Drills.Proven), "techniques", fmt.Sprintf("as vedette status says; %d missed, %d gaps closed", status.Drills.Missed, status.Drills.Closed)),
		figure.Info("investigator: attacks that went to a person", number(ended["incident"])+number(ended["closed as benign"]), "drills", "of those that were found; the run closes its own afterwards"),
		figure.Info("investigator: attacks that are watched", number(ended["watching"]), "drills", list(ended["watching"])),
		figure.Info("investigator: attacks that it closed as benign", number(ended["benign"]), "drills", list(ended["benign"])),
		figure.Info("investigator: attacks that it has not looked at", number(ended["recorded"]), "drills", list(ended["recorded"])),
		figure.Exactly("drills failed", number(count["failed"]), 0, "drills", list(count["failed"])),
		figure.Exactly("controls found", number(count["noisy"]), 0, "controls", list(count["noisy"])),
		figure.Exactly("drills that left something", number(unclean), 0, "drills", list(unclean)),
	}
	if len(cfg.only) == 0 {
		rows[0] = figure.AtLeast(rows[0].Name, rows[0].Value, 40, rows[0].Unit, rows[0].Note)
		rows[1] = figure.AtLeast(rows[1].Name, rows[1].Value, 40, rows[1].Unit, rows[1].Note)
	}
	return rows, nil
}
