// Package ruleeval says what the rule engine makes of a folder of Sigma rules that others
// wrote: what parses, what compiles, what this sensor sees enough for, whether each of those
// finds an event made up for it, and what all of them cost.
//
// Invariant: a rule is judged by the engine and the fields that a sensor uses; nothing of a
// rule is repaired, and what is not used is listed with its reason.
package ruleeval

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
	"github.com/vedette-edr/vedette/sensor/internal/detect"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/rules"
)

// Result is what came of a folder.
type Result struct {
	Files, Parsed, Compiled int
	// Wrong are files that are refused, whatever a sensor sees.
	Wrong []error
	// Mapped rules have every field supplied. Words of them look for bare words in our events'
	// texts; of Partial only some branches can match; Reads are about auditd's PATH, of which
	// the sensor has no reads.
	Mapped, Words, Partial, Reads int
	// Unmapped are the others' titles by reason.
	Unmapped map[string][]string
	Theirs   Tried
	Ours     Tried
	// PerEvent is the processor time that all rules together, the sensor's own too, take for an
	// event of ordinary work, OwnPerEvent that of the sensor's own: the least of twenty measurements.
	// PerEventMedian says how much of it was the machine's other work.
	PerEvent, PerEventMedian, OwnPerEvent time.Duration
}

// Tried is what came of rules on events made up for them.
type Tried struct {
	// Rules there are, Used by this sensor. Positive have an event that matches, Negative one
	// that does not.
	Rules, Used, Positive, Negative int
	// Without are those that lack one, with the reason.
	Without []string
}

// Run judges the *.yml below dir, and the sensor's own rules. What is wrong with a rule is no error.
func Run(dir string) (out Result, err error) {
	out.Unmapped = map[string][]string{}
	theirs, err := out.read(os.DirFS(dir))
	if err != nil {
		return out, fmt.Errorf("reading rules of %s: %w", dir, err)
	}
	for _, r := range theirs {
		out.judge(r)
	}
	ours, err := (&Result{}).read(rules.Files)
	if err != nil {
		return out, fmt.Errorf("reading the sensor's own rules: %w", err)
	}
	all, err := detect.New(detect.Config{RulesDir: dir, MinLevel: event.Informational})
	if err != nil {
		return out, fmt.Errorf("loading all rules: %w", err)
	}
	own, err := detect.New(detect.Config{})
	if err != nil {
		return out, fmt.Errorf("loading the sensor's own rules: %w", err)
	}
	out.Theirs, out.Ours = tried(all, theirs), tried(own, ours)
	out.PerEvent, out.PerEventMedian = all.RuleCost()
	out.OwnPerEvent, _ = own.RuleCost()
	return out, nil
}

func tried(e *detect.Engine, of []*sigma.Rule) Tried {
	t := e.Try(of)
	return Tried{Rules: len(of), Used: t.Mapped, Positive: t.Positive, Negative: t.Negative, Without: t.Without}
}

// read parses all rules of a tree. A file counts as parsed when all in it is well formed, and as
// compiled when it needs nothing but fields.
func (res *Result) read(files fs.FS) (found []*sigma.Rule, err error) {
	err = fs.WalkDir(files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yml" {
			return err
		}
		raw, err := fs.ReadFile(files, path)
		if err != nil {
			return err
		}
		res.Files++
		file, refused := sigma.ParseFile(path, raw)
		if len(refused) == 0 {
			res.Parsed++
		}
		for _, r := range file.Rules {
			if _, err := sigma.Compile(r, sigma.Complete(r)); err != nil {
				refused = append(refused, err)
			}
		}
		if len(refused) == 0 {
			res.Compiled++
		}
		res.Wrong = append(res.Wrong, refused...)
		found = append(found, file.Rules...)
		return nil
	})
	return found, err
}

// judge says whether the sensor sees what a rule needs.
func (res *Result) judge(r *sigma.Rule) {
	matchers, err := sigma.Compile(r, taxonomy.Schema)
	if err != nil {
		refused := (*sigma.Error)(nil)
		if !errors.As(err, &refused) || !refused.Unsupported {
			return // it is among those that are wrong in themselves
		}
		reason := refused.Msg
		if r.Service != "" && r.Service != "auditd" {
			reason = "a log file's text, which the sensor does not read"
		}
		res.Unmapped[reason] = append(res.Unmapped[reason], r.Title)
		return
	}
	res.Mapped++
	if r.Category == "" && r.Service == "" {
		res.Words++
	}
	if !slices.ContainsFunc(matchers, func(m *sigma.Matcher) bool { return !m.Partial }) {
		res.Partial++
	}
	if filepath.Base(filepath.Dir(r.Path)) == "path" {
		res.Reads++
	}
}
