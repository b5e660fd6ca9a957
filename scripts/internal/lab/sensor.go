package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// SensorSpec is one host's sensor.
type SensorSpec struct {
	Name            string // also the host's name in the cluster
	Scope           string // as in the config
	NS              *Namespace
	Labels          map[string]string
	SummaryInterval time.Duration
	Window          time.Duration
	KnownWindows    int
	LearnFor        time.Duration
	TellKnownEvery  time.Duration // 0: with each summary, so that a test sees every count
	More            string        // further lines of the config
}

// StateDir of a sensor.
func (l *Lab) StateDir(name string) string { return filepath.Join(l.Dir, "sensor-"+name) }

// sensorSlack is TimerSlackNSec of the installed sensor's unit.
const sensorSlack = 2 * time.Millisecond

// StartSensor enrols a host when it is not and starts its sensor.
func (c *Cluster) StartSensor(ctx context.Context, spec SensorSpec) (*Process, error) {
	l := c.lab
	state, err := filepath.Abs(l.StateDir(spec.Name))
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, fmt.Errorf("making a sensor's folder: %w", err)
	}
	config := filepath.Join(state, "sensor.yaml")
	var text strings.Builder
	fmt.Fprintf(&text, "state_dir: %s\ncoordinators:\n", state)
	for _, address := range c.Addresses() {
		fmt.Fprintf(&text, "  - %q\n", address)
	}
	fmt.Fprintf(&text, "scope: %q\nhost_name: %q\n", spec.Scope, spec.Name)
	if len(spec.Labels) > 0 {
		text.WriteString("labels:\n")
		for key, value := range spec.Labels {
			fmt.Fprintf(&text, "  %s: %q\n", key, value)
		}
	}
	fmt.Fprintf(&text, "summary_interval: %s\nbaseline:\n  window: %s\n  known_windows: %d\n  learn_for: %s\n  tell_known_every: %s\n",
		spec.SummaryInterval, spec.Window, spec.KnownWindows, spec.LearnFor, spec.TellKnownEvery)
	text.WriteString(spec.More)
	if err := os.WriteFile(config, []byte(text.String()), 0o600); err != nil {
		return nil, fmt.Errorf("writing a sensor's config: %w", err)
	}
	program := filepath.Join(l.Bin, "vedette-sensor")
	if _, err := os.Stat(filepath.Join(state, "identity", "identity.json")); err != nil {
		token, err := c.Token(ctx)
		if err != nil {
			return nil, err
		}
		path, err := l.secretFile("enrol-"+spec.Name, token)
		if err != nil {
			return nil, err
		}
		defer os.Remove(path)
		if _, err := l.Run(spec.NS, exec.CommandContext(ctx, program, "enroll", "--config", config, "--token-file", path)); err != nil {
			return nil, err
		}
	}
	return l.start(spec.NS, "sensor-"+spec.Name, sensorSlack, exec.Command(program, "--config", config))
}

// Host is what "vedette host list -o json" says of one host.
type Host struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	State     string `json:"state"`
	Isolation string `json:"isolation"`
	LastSeen  string `json:"last_seen"`
	// Lost, Total and Suppressed are counted from the sensor's start.
	Lost       uint64 `json:"events_lost"`
	Total      uint64 `json:"events_total"`
	Suppressed uint64 `json:"events_suppressed"`
	Blind      bool   `json:"blind"`
	Baseline   struct {
		Behaviours uint64  `json:"behaviours"`
		Confidence float64 `json:"confidence"`
		Learning   bool    `json:"learning"`
	} `json:"baseline"`
}

// Hosts by name.
func (c *Cluster) Hosts(ctx context.Context) (map[string]Host, error) {
	var list []Host
	if err := c.JSON(ctx, &list, "host", "list"); err != nil {
		return nil, err
	}
	byName := map[string]Host{}
	for _, h := range list {
		byName[h.Name] = h
	}
	return byName, nil
}

// HostDetail is what "vedette host show" adds.
type HostDetail struct {
	Host
	Losses []struct {
		Where string `json:"where"`
		Cause string `json:"cause"`
		Count uint64 `json:"count"`
	} `json:"losses"`
	Behaviours []struct {
		Kind    string `json:"kind"`
		Subject string `json:"subject"`
		Object  string `json:"object"`
		Count   uint64 `json:"count"`
		Known   bool   `json:"known"`
	} `json:"behaviours"`
}

// Host is one host, whole.
func (c *Cluster) Host(ctx context.Context, name string) (d HostDetail, err error) {
	err = c.JSON(ctx, &d, "host", "show", name)
	return d, err
}
