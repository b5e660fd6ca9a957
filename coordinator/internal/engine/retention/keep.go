package retention

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Keep is how long things are kept; what is zero has its default. The leader's counts.
type Keep struct {
	// Findings that are in no open incident (default 90 days).
	Findings time.Duration `yaml:"findings"`
	// Flows are the notes that join hosts (default 7 days); engines look back a day.
	Flows time.Duration `yaml:"flows"`
	// Incidents that are closed (default 400 days); one outlives its findings.
	Incidents time.Duration `yaml:"incidents"`
	// Operations of which no host has anything pending or applied, and the keys of requests
	// (default 400 days). The audit has all of them for ever.
	Operations time.Duration `yaml:"operations"`
	// Losses that did not grow since (default 90 days).
	Losses time.Duration `yaml:"losses"`
	// Behaviours that a host has not shown since (default 180 days).
	Behaviours time.Duration `yaml:"behaviours"`
	// Minutes, Hours and Days are what hosts told, counted by each (default 3 hours, 14 and 400 days).
	Minutes time.Duration `yaml:"minutes"`
	Hours   time.Duration `yaml:"hours"`
	Days    time.Duration `yaml:"days"`
	// MaxGiB is the size of the state in use above which the oldest goes, whatever its age (default 20).
	MaxGiB int64 `yaml:"max_gib"`
}

const aDay = 24 * time.Hour

// DefaultKeep is what a year of ten thousand hosts fits into.
func DefaultKeep() Keep {
	return Keep{Findings: 90 * aDay, Flows: 7 * aDay, Incidents: 400 * aDay, Operations: 400 * aDay, Losses: 90 * aDay, Behaviours: 180 * aDay,
		Minutes: 3 * time.Hour, Hours: 14 * aDay, Days: 400 * aDay, MaxGiB: 20}
}

// longest is ten years: beyond, a unit was mistaken.
const longest = 3653 * aDay

// orDefault fills in what is zero.
func (k Keep) orDefault() Keep {
	v, d := reflect.ValueOf(&k).Elem(), reflect.ValueOf(DefaultKeep())
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			v.Field(i).Set(d.Field(i))
		}
	}
	return k
}

// Validate joins all that is wrong, by the keys of the file.
func (k Keep) Validate() error {
	k = k.orDefault()
	var problems []error
	for _, f := range []struct {
		key         string
		value, from time.Duration
	}{
		{"findings", k.Findings, time.Duration(state.MinKept)}, {"flows", k.Flows, time.Duration(state.MinKept)},
		{"incidents", k.Incidents, time.Duration(state.MinKept)}, {"operations", k.Operations, 30 * aDay},
		{"losses", k.Losses, time.Duration(state.MinKept)}, {"behaviours", k.Behaviours, 30 * aDay},
		{"minutes", k.Minutes, time.Hour}, {"hours", k.Hours, aDay}, {"days", k.Days, 31 * aDay},
	} {
		if f.value < f.from || f.value > longest {
			problems = append(problems, fmt.Errorf("retention.%s: %s is not within %s and %s", f.key, f.value, f.from, longest))
		}
	}
	if k.MaxGiB < 1 || k.MaxGiB > 1<<20 {
		problems = append(problems, fmt.Errorf("retention.max_gib: %d is not within 1 and %d", k.MaxGiB, 1<<20))
	}
	return errors.Join(problems...)
}

// String is the value as YAML writes it in one line.
func (k Keep) String() string {
	var parts []string
	v := reflect.ValueOf(k)
	for i := range v.NumField() {
		if !v.Field(i).IsZero() {
			parts = append(parts, fmt.Sprintf("%s: %v", v.Type().Field(i).Tag.Get("yaml"), v.Field(i).Interface()))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// cuts are the ends of everything, counted from now.
func (k Keep) cuts(now time.Time) *raftv1.Retain {
	at := func(d time.Duration) int64 { return now.Add(-d).UnixNano() }
	return &raftv1.Retain{FindingsBefore: at(k.Findings), FlowsBefore: at(k.Flows), IncidentsBefore: at(k.Incidents),
		OperationsBefore: at(k.Operations), KeysBefore: at(k.Operations), LossesBefore: at(k.Losses),
		MinutesBefore: at(k.Minutes), HoursBefore: at(k.Hours), DaysBefore: at(k.Days)}
}
