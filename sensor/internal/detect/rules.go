package detect

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/detect/sigma"
	"github.com/vedette-edr/vedette/sensor/internal/event"
	"github.com/vedette-edr/vedette/sensor/rules"
)

// maxRules and maxRuleFile bound a rules directory, which others may write to.
const (
	maxRules    = 10000
	maxRuleFile = 256 << 10
	// maxNamed is how many rules that need what this sensor lacks are named in the
	// log: a mistyped field must be seen, a whole public collection would flood it.
	maxNamed = 20
)

func (e *Engine) loadBuiltin() error {
	return fs.WalkDir(rules.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := rules.Files.ReadFile(path)
		if err != nil {
			return fmt.Errorf("reading built-in rule: %w", err)
		}
		if err := e.add("builtin/"+path, raw); err != nil {
			return fmt.Errorf("loading built-in rule: %w", err)
		}
		return nil
	})
}

func (e *Engine) loadDir() error {
	if e.cfg.RulesDir == "" {
		return nil
	}
	count, unsupported := 0, 0
	err := filepath.WalkDir(e.cfg.RulesDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ext := filepath.Ext(path); !d.Type().IsRegular() || (ext != ".yml" && ext != ".yaml") {
			return nil
		}
		if count++; count > maxRules {
			return fmt.Errorf("more than %d rules", maxRules)
		}
		raw, err := readRule(path)
		if err == nil {
			err = e.add(path, raw)
		}
		if err != nil {
			e.rejected = append(e.rejected, err)
			var refused *sigma.Error
			if !errors.As(err, &refused) || !refused.Unsupported {
				e.cfg.Logger.Warn("rule is refused", "error", err)
				return nil
			}
			level := slog.LevelWarn
			if unsupported++; unsupported > maxNamed {
				level = slog.LevelDebug
			}
			e.cfg.Logger.Log(context.Background(), level, "rule is not used", "error", err)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading rules_dir %s: %w", e.cfg.RulesDir, err)
	}
	if unsupported > maxNamed {
		e.cfg.Logger.Warn("more rules are not used; log_level debug names them all", "more", unsupported-maxNamed)
	}
	e.cfg.Logger.Info("rules loaded", "dir", e.cfg.RulesDir, "files", count, "not_used", len(e.rejected))
	return nil
}

func readRule(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening rule: %w", err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxRuleFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading rule %s: %w", path, err)
	}
	return raw, nil
}

func (e *Engine) add(path string, raw []byte) error {
	parsed, err := sigma.Parse(path, raw)
	if err != nil {
		return err
	}
	matcher, err := sigma.Compile(parsed, schema)
	if err != nil {
		return err
	}
	r := &rule{Matcher: matcher, id: parsed.ID, severity: event.Severity(parsed.Level), techniques: parsed.Techniques()}
	if r.id == "" {
		r.id = strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	}
	for _, others := range e.rules {
		for _, other := range others {
			if other.id == r.id {
				return &sigma.Error{Path: path, Msg: fmt.Sprintf("id %s is that of %s too", r.id, other.Rule.Path)}
			}
		}
	}
	e.rules[parsed.Category] = append(e.rules[parsed.Category], r)
	return nil
}

func categoryOf(ev event.Event) string {
	switch ev := ev.(type) {
	case *event.Exec:
		return "process_creation"
	case *event.FlowOpen:
		return "network_connection"
	case *event.Privilege:
		return "privilege"
	case *event.DNS:
		if !ev.Response {
			return "dns_query"
		}
	case *event.Socket:
		return "network_socket"
	case *event.Login:
		if !ev.End {
			return "authentication"
		}
	case *event.File:
		switch ev.Op {
		case event.FileMapExec:
			return "image_load"
		case event.FileUnlink, event.FileRmdir:
			return "file_delete"
		}
		return "file_event"
	}
	return ""
}

// premises are what most rules turn on and what a host repeats all day long. All
// observations that have them in common have the same candidates.
type premises struct {
	category, image, parent, previous, traits string
}

var premiseFields = sigma.FieldsOf(fieldImage, fieldParentImage, fieldPreviousImage, fieldTraits)

// maxPremises bounds what is remembered; past it all is learnt anew. Premises with
// longer texts than maxPremiseBytes, which a program may choose, are not remembered.
const (
	maxPremises     = 2048
	maxPremiseBytes = 1024
)

func (p premises) size() int {
	return len(p.image) + len(p.parent) + len(p.previous) + len(p.traits)
}

func premisesOf(category string, o *event.Observation) premises {
	p := premises{category: category, image: o.Process.Image}
	if o.Process.Parent != nil {
		p.parent = o.Process.Parent.Image
	}
	if o.Before != nil {
		p.previous = o.Before.Image
	}
	if len(o.Process.Traits) > 0 {
		p.traits = strings.Join(o.Process.Traits, "\x00")
	}
	return p
}

// candidates are the rules that may match; e.record is set.
func (e *Engine) candidates(category string, o *event.Observation) []*rule {
	all := e.rules[category]
	if len(all) == 0 {
		return nil
	}
	key := premisesOf(category, o)
	some, known := e.premises[key]
	if known {
		return some
	}
	for _, r := range all {
		if e.severity[r.severity] >= e.severity[e.cfg.MinLevel] && !r.Excluded(&e.record, premiseFields) {
			some = append(some, r)
		}
	}
	if key.size() > maxPremiseBytes {
		return some
	}
	if len(e.premises) >= maxPremises {
		clear(e.premises)
	}
	e.premises[key] = some
	return some
}

func (e *Engine) matching(o *event.Observation, v event.Verdict) (found []*rule) {
	e.record.reset(o, v)
	for _, r := range e.candidates(categoryOf(o.Event), o) {
		if r.Match(&e.record) {
			found = append(found, r)
		}
	}
	return found
}
