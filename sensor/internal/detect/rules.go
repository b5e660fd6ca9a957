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

	"github.com/vedette-edr/vedette/proto/sigma"
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

// load takes up the built-in rules and the operator's.
func (e *Engine) load() error {
	if err := e.loadBuiltin(); err != nil {
		return err
	}
	builtin := map[*sigma.Rule]bool{}
	for _, rules := range e.rules {
		for _, r := range rules {
			builtin[r.Rule] = true
		}
	}
	if err := e.loadDir(); err != nil {
		return err
	}
	e.makeCorrelator(e.parsed, builtin)
	e.makeIndex()
	return nil
}

func (e *Engine) loadBuiltin() error {
	if e.cfg.NoBuiltin {
		return nil
	}
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
	for _, parsed := range file.Correlations {
		if _, err := e.claim(&parsed.Header); err != nil {
			refused = append(refused, err)
			continue
		}
		e.parsed = append(e.parsed, parsed)
	}
	return refused
}

// claim makes an id that of one rule.
func (e *Engine) claim(h *sigma.Header) (string, error) {
	id := idOf(h)
	if other, taken := e.ids[id]; taken {
		return "", &sigma.Error{Path: h.Path, Line: h.Line, Msg: fmt.Sprintf("id %s is that of %s too", id, other)}
	}
	e.ids[id] = h.Path
	return id, nil
}

func (e *Engine) addRule(parsed *sigma.Rule) error {
	matchers, err := sigma.Compile(parsed, schema)
	if err != nil {
		return err
	}
	id, err := e.claim(&parsed.Header)
	if err != nil {
		return err
	}
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

// ruleSet are the rules about one kind of record.
type ruleSet struct {
	rules   []*rule // those that are used, as the index numbers them
	index   *sigma.Index
	scratch sigma.Scratch
}

// index makes the rules ready; none is added after.
func (e *Engine) makeIndex() {
	for of, rules := range e.rules {
		set := &ruleSet{}
		var matchers []*sigma.Matcher
		for _, r := range rules {
			if e.tells(r.severity) || e.correlator.Wants(r.Matcher) {
				set.rules = append(set.rules, r)
				matchers = append(matchers, r.Matcher)
			}
		}
		set.index = sigma.NewIndex(matchers)
		e.sets[of] = set
	}
}

// matching are the rules that match, in the order in which they were loaded.
func (e *Engine) matching(o *event.Observation, v event.Verdict) (found []*rule) {
	set := e.sets[categoryOf(o.Event)]
	if set == nil {
		return nil
	}
	e.record.reset(o, v)
	for _, n := range set.index.Match(&e.record, &set.scratch) {
		found = append(found, set.rules[n])
	}
	return found
}
