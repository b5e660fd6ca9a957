package detect

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const oddTool = `title: An odd tool
id: 11111111-2222-4333-8444-555555555501
logsource: {category: process_creation, product: linux}
detection: {s: {Image|endswith: /oddtool}, condition: s}
level: high
`

func use(t *testing.T, e *Engine, set Set) []string {
	t.Helper()
	p, err := e.Prepare(set)
	if err != nil {
		t.Fatal(err)
	}
	return e.Use(p)
}

// Ensure that rules are put in place of others between two events, and that only kinds of
// records which some rule is newly about are told to be asked about again.
func TestUse(t *testing.T) {
	dir := t.TempDir()
	e := engine(t, func(c *Config) { c.RulesDir = dir })
	h := newHost()
	exec := func() bool {
		p := h.process(nil, "/opt/oddtool", "oddtool")
		findings, _ := e.Evaluate(&event.Observation{Time: h.tick(), Process: p, Event: &event.Exec{Header: event.Header{Process: p.Key}}}, event.Verdict{Tracked: true, Known: true})
		return slices.ContainsFunc(findings, func(f *event.Finding) bool { return f.RuleID == "11111111-2222-4333-8444-555555555501" })
	}
	if exec() {
		t.Fatal("matched before the rule was there")
	}
	if changed := use(t, e, Set{Version: 1, Files: []File{{"odd.yml", []byte(oddTool)}}}); !slices.Equal(changed, []string{"process_creation"}) {
		t.Errorf("a new rule about processes changed %v", changed)
	}
	if !exec() || e.SetVersion() != 1 {
		t.Error("the pushed rule is not used")
	}
	// Another title and file, the same conditions: nothing could match that could not before.
	renamed := strings.Replace(oddTool, "An odd", "The odd", 1)
	if changed := use(t, e, Set{Version: 2, Files: []File{{"b/odd.yml", []byte(renamed)}}}); len(changed) != 0 {
		t.Errorf("a new title changed %v", changed)
	}
	before, err := e.Stamp()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "file.yml"), []byte(strings.ReplaceAll(strings.NewReplacer("process_creation", "file_event", "Image|", "TargetFilename|", "501", "502").Replace(oddTool), "odd tool", "odd file")), 0o600); err != nil {
		t.Fatal(err)
	}
	if after, err := e.Stamp(); err != nil || after == before {
		t.Errorf("a new file in rules_dir changed nothing: %q, %v", after, err)
	}
	if changed := use(t, e, Set{}); !slices.Equal(changed, []string{"file_event"}) {
		t.Errorf("a new rule about files changed %v", changed)
	}
	if exec() {
		t.Error("the pushed rule is used after it was taken away")
	}
}

// Ensure rules that would take too much of the processor are refused together, and that what
// costs no more than what is in use never is: the way back is open.
func TestTooCostly(t *testing.T) {
	e := engine(t, func(c *Config) { c.MaxCost = 1 })
	p, err := e.Prepare(Set{})
	if err != nil && !errors.Is(err, ErrTooCostly) {
		t.Fatal(err)
	}
	var many []File
	for i := range 100 {
		// No text is known that must be there: each is tried at each event.
		rule := strings.NewReplacer("501", "0"+string(rune('0'+i/100%10))+string(rune('0'+i/10%10))+string(rune('0'+i%10)),
			"Image|endswith: /oddtool", "CommandLine|re: '([a-z]?[0-9]?){20}x+y?z?q$'").Replace(strings.Replace(oddTool, "55501", "5501", 1))
		many = append(many, File{string(rune('a'+i%26)) + string(rune('a'+i/26)) + ".yml", []byte(rule)})
	}
	dear, err := e.Prepare(Set{Version: 1, Files: many})
	if !errors.Is(err, ErrTooCostly) {
		t.Fatalf("%d rules at %s an event are taken: %v (refused %v)", len(many), dear.Cost, err, dear.Refused())
	}
	t.Logf("built-in rules %s, with %d more %s an event", p.Cost, len(many), dear.Cost)
	e.cfg.MaxCost = time.Hour
	use(t, e, Set{Version: 1, Files: many})
	e.cfg.MaxCost = 1
	if _, err := e.Prepare(Set{}); err != nil {
		t.Errorf("the way back is refused: %v", err)
	}
}

// Ensure what is wrong in a pushed set costs its rule alone, and is told as the set's.
func TestPushedRefused(t *testing.T) {
	e := engine(t)
	p, err := e.Prepare(Set{Version: 1, Files: []File{{"good.yml", []byte(oddTool)}, {"bad.yml", []byte("title: x\n")}, {"same.yml", []byte(oddTool)}}})
	if err != nil {
		t.Fatal(err)
	}
	if refused := p.Refused(); len(refused) != 2 || !strings.HasPrefix(refused[0].Error(), "pushed/bad.yml") || !strings.Contains(refused[1].Error(), "is that of pushed/good.yml") {
		t.Errorf("refused: %v", refused)
	}
}
