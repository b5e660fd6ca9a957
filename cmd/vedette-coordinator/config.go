package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"github.com/goccy/go-yaml"

	"github.com/vedette-edr/vedette/coordinator"
)

// maxConfig bounds a configuration file: a wrong path is not read for long.
const maxConfig = 1 << 20

// readConfig reads a YAML file over cfg. A key that does not exist is an error.
func readConfig(path string, cfg *coordinator.Config) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	defer func() { _ = f.Close() }()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return fmt.Errorf("reading the configuration: %w", err)
	}
	if len(raw) > maxConfig {
		return fmt.Errorf("reading the configuration: %s has more than %d bytes: is it a configuration?", path, maxConfig)
	}
	err = yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict()).Decode(cfg)
	var unknown *yaml.UnknownFieldError
	switch {
	case err == nil, errors.Is(err, io.EOF): // an empty file is all defaults
		cfg.Where = func(key string) string { return where(path, raw, key) }
		return nil
	case errors.As(err, &unknown) && unknown.Token != nil:
		at, key := unknown.Token.Position, unknown.Token.Value
		if at.Column > 1 { // below another one: the keys that could be suggested are not of there
			return fmt.Errorf("%s:%d:%d: unknown key %q", path, at.Line, at.Column, key)
		}
		return fmt.Errorf("%s:%d:%d: unknown key %q%s", path, at.Line, at.Column, key, suggestion(key))
	}
	return fmt.Errorf("%s: %w", path, err)
}

// where is the place of a key's value, or of what it is missing in; empty when the file
// has neither.
func where(path string, raw []byte, key string) string {
	for key != "" {
		if at, err := yaml.PathString("$." + key); err == nil {
			if node, err := at.ReadNode(bytes.NewReader(raw)); err == nil && node.GetToken() != nil {
				return fmt.Sprintf("%s:%d: ", path, node.GetToken().Position.Line)
			}
		}
		key = key[:max(strings.LastIndexAny(key, ".["), 0)]
	}
	return ""
}

// documented are the keys of the file, in its order, with what they mean.
var documented = []struct{ key, text string }{
	{"id", "Name of this node in the cluster; must be the one that its data directory was made for."},
	{"data", "Directory of the node's identity, log and state. It belongs to this node for ever: never copy it."},
	{"listen", "UDP address, HOST:PORT, for sensors and the other nodes."},
	{"operator_listen", "TCP address, HOST:PORT, for operators (the vedette command, curl)."},
	{"advertise", "'listen' as sensors and the other nodes reach it. Needed when 'listen' is 0.0.0.0 or behind NAT."},
	{"operator_advertise", "'operator_listen' as operators reach it."},
	{"metrics_listen", "TCP address, HOST:PORT, for /metrics, /healthz and /readyz without TLS, to whoever reaches it; empty: nowhere. Operators have them on 'operator_listen' always."},
	{"log_level", "debug, info, warn or error."},
	{"log_format", "text or json, a line for each message."},
	{"silent_after", "A host without a batch for so long is shown as silent: three of the sensors' summary intervals."},
	{"stable_for", "How long a node that joins must have been well, with all of the log, before it votes."},
	{"dead_after", "How long a node does not answer before the leader removes it, if three others stay and a majority of those answers. Negative: never."},
	{"notify", "Program that the leader runs for each event, with a JSON object on stdin: {program: /path, events: [waiting, window, local, acted, incident, differs, resynced]}. Nobody but root may be able to change it."},
	{"retention", "How long the state keeps things: findings in no open incident, flows, closed incidents, ended operations, losses, behaviours not seen, counts of what hosts told by minutes, hours and days; above max_gib the oldest goes, and 'vedette status' says so. The leader's counts: write the same on every node."},
	{"export", "Places outside that get findings, incidents and the audit (flows on request): [{name: lake, kafka: {brokers: [HOST:PORT]}}, {name: tables, clickhouse: {url: 'https://HOST:8443'}}]; see docs/export.md for all keys. The leader exports: write the same on every node. Passwords and keys are in files that only the coordinator's user can read."},
}

// printConfig writes cfg as a file that readConfig takes.
func printConfig(w io.Writer, cfg coordinator.Config) error {
	values := make(map[string]string)
	v := reflect.ValueOf(cfg)
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); key != "" && key != "-" {
			values[key] = fmt.Sprint(v.Field(i).Interface())
		}
	}
	for _, d := range documented {
		value := values[d.key]
		if value == "" {
			value = `""`
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s: %s\n", d.text, d.key, value); err != nil {
			return err
		}
	}
	return nil
}

// suggestion names the key that was perhaps meant, and else all of them.
func suggestion(wrong string) string {
	best, distance := "", len(wrong)/2+1
	keys := make([]string, 0, len(documented))
	for _, d := range documented {
		keys = append(keys, d.key)
		if n := edits(strings.ReplaceAll(wrong, "-", "_"), d.key); n < distance {
			best, distance = d.key, n
		}
	}
	if best != "" {
		return fmt.Sprintf(": did you mean %q?", best)
	}
	return ": known are " + strings.Join(keys, ", ")
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
