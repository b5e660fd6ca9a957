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
		if refused := e.add("builtin/"+path, raw); len(refused) > 0 {
			return fmt.Errorf("loading built-in rule: %w", errors.Join(refused...))
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
		refused := []error{err}
		if err == nil {
			refused = e.add(path, raw)
		}
		for _, err := range refused {
			unsupported += e.reject(err, unsupported)
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

// reject keeps and logs why a rule is not used; 1 when this sensor lacks what it needs.
func (e *Engine) reject(err error, unsupported int) int {
	e.rejected = append(e.rejected, err)
	var refused *sigma.Error
	if !errors.As(err, &refused) || !refused.Unsupported {
		e.cfg.Logger.Warn("rule is refused", "error", err)
		return 0
	}
	level := slog.LevelWarn
	if unsupported >= maxNamed {
		level = slog.LevelDebug
	}
	e.cfg.Logger.Log(context.Background(), level, "rule is not used", "error", err)
	return 1
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

// add takes up the rules of a file; each that cannot be used is an error of its own.
func (e *Engine) add(path string, raw []byte) []error {
	file, refused := sigma.ParseFile(path, raw)
	for _, parsed := range file.Rules {
		if err := e.addRule(parsed); err != nil {
			refused = append(refused, err)
		}
	}
	return refused
}

func (e *Engine) addRule(parsed *sigma.Rule) error {
	matchers, err := sigma.Compile(parsed, schema)
	if err != nil {
		return err
	}
	id := idOf(&parsed.Header)
	if other, taken := e.ids[id]; taken {
		return &sigma.Error{Path: parsed.Path, Line: parsed.Line, Msg: fmt.Sprintf("id %s is that of %s too", id, other)}
	}
	e.ids[id] = parsed.Path
	for _, m := range matchers {
		e.rules[m.Of] = append(e.rules[m.Of], &rule{
			Matcher: m, id: id, severity: event.Severity(parsed.Level), techniques: parsed.Techniques(),
		})
	}
	return nil
}

// idOf is a rule's id, or what stands for it.
func idOf(h *sigma.Header) string {
	if h.ID != "" {
		return h.ID
	}
	if h.Name != "" {
		return h.Name
	}
	return strings.TrimSuffix(filepath.Base(h.Path), filepath.Ext(h.Path))
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
