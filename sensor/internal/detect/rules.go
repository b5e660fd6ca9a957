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

	"github.com/vedette-edr/vedette/proto/sigma"
	"github.com/vedette-edr/vedette/proto/taxonomy"
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

// load takes up the built-in rules, the cluster's and the operator's. Where two have one id,
// the first of them is used.
func (b *book) load(set Set) error {
	if err := b.loadBuiltin(); err != nil {
		return err
	}
	builtin := map[*sigma.Rule]bool{}
	for _, rules := range b.rules {
		for _, r := range rules {
			builtin[r.Rule] = true
		}
	}
	b.loadSet(set)
	if err := b.loadDir(); err != nil {
		return err
	}
	b.makeCorrelator(b.parsed, builtin)
	b.makeIndex()
	return nil
}

func (b *book) loadBuiltin() error {
	if b.cfg.NoBuiltin {
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
		if refused := b.add("builtin/"+path, raw); len(refused) > 0 {
			return fmt.Errorf("loading built-in rule: %w", errors.Join(refused...))
		}
		return nil
	})
}

// pushedPath stands before the names of the cluster's files.
const pushedPath = "pushed/"

func (b *book) loadSet(set Set) {
	b.set = set.Version
	unsupported := 0
	for _, file := range set.Files {
		for _, err := range b.add(pushedPath+file.Path, file.Raw) {
			unsupported += b.reject(err, unsupported)
			b.pushed = append(b.pushed, err)
		}
	}
	if set.Version > 0 {
		b.cfg.Logger.Info("rules loaded", "set", set.Version, "files", len(set.Files), "not_used", len(b.pushed))
	}
}

func (b *book) loadDir() error {
	if b.cfg.RulesDir == "" {
		return nil
	}
	count, unsupported, before := 0, 0, len(b.rejected)
	err := filepath.WalkDir(b.cfg.RulesDir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !isRule(path, d) {
			return nil
		}
		if count++; count > maxRules {
			return fmt.Errorf("more than %d rules", maxRules)
		}
		raw, err := readRule(path)
		refused := []error{err}
		if err == nil {
			refused = b.add(path, raw)
		}
		for _, err := range refused {
			unsupported += b.reject(err, unsupported)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("reading rules_dir %s: %w", b.cfg.RulesDir, err)
	}
	if unsupported > maxNamed {
		b.cfg.Logger.Warn("more rules are not used; log_level debug names them all", "more", unsupported-maxNamed)
	}
	b.cfg.Logger.Info("rules loaded", "dir", b.cfg.RulesDir, "files", count, "not_used", len(b.rejected)-before)
	return nil
}

// reject keeps and logs why a rule is not used; 1 when this sensor lacks what it needs.
func (b *book) reject(err error, unsupported int) int {
	b.rejected = append(b.rejected, err)
	var refused *sigma.Error
	if !errors.As(err, &refused) || !refused.Unsupported {
		b.cfg.Logger.Warn("rule is refused", "error", err)
		return 0
	}
	level := slog.LevelWarn
	if unsupported >= maxNamed {
		level = slog.LevelDebug
	}
	b.cfg.Logger.Log(context.Background(), level, "rule is not used", "error", err)
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
func (b *book) add(path string, raw []byte) []error {
	file, refused := sigma.ParseFile(path, raw)
	for _, parsed := range file.Rules {
		if err := b.addRule(parsed); err != nil {
			refused = append(refused, err)
		}
	}
	for _, parsed := range file.Correlations {
		if _, err := b.claim(&parsed.Header); err != nil {
			refused = append(refused, err)
			continue
		}
		b.parsed = append(b.parsed, parsed)
	}
	return refused
}

// claim makes an id that of one rule.
func (b *book) claim(h *sigma.Header) (string, error) {
	id := sigma.IDOf(h)
	if other, taken := b.ids[id]; taken {
		return "", &sigma.Error{Path: h.Path, Line: h.Line, Msg: fmt.Sprintf("id %s is that of %s too", id, other)}
	}
	b.ids[id] = h.Path
	return id, nil
}

func (b *book) addRule(parsed *sigma.Rule) error {
	matchers, err := sigma.Compile(parsed, taxonomy.Schema)
	if err != nil {
		return err
	}
	id, err := b.claim(&parsed.Header)
	if err != nil {
		return err
	}
	print := parsed.Fingerprint()
	for _, m := range matchers {
		b.rules[m.Of] = append(b.rules[m.Of], &rule{
			Matcher: m, id: id, severity: event.Severity(parsed.Level), techniques: parsed.Techniques(), print: print,
		})
	}
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

// ruleSet are the rules about one kind of record.
type ruleSet struct {
	rules   []*rule // those that are used, as the index numbers them
	index   *sigma.Index
	prints  map[sigma.Fingerprint]bool
	scratch sigma.Scratch
}

// index makes the rules ready; none is added after.
func (b *book) makeIndex() {
	for of, rules := range b.rules {
		set := &ruleSet{}
		var matchers []*sigma.Matcher
		for _, r := range rules {
			if b.tells(r.severity) || b.correlator.Wants(r.Matcher) {
				set.rules = append(set.rules, r)
				matchers = append(matchers, r.Matcher)
			}
		}
		set.index, set.prints = sigma.NewIndex(matchers), prints(set.rules)
		b.sets[of] = set
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
