package intent_test

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Ensure the examples that people copy are right, and do what stands above them.
func TestDocumentedExamples(t *testing.T) {
	raw, err := os.ReadFile("../../docs/intent.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(raw), -1)
	if len(blocks) != 5 {
		t.Fatalf("docs/intent.md has %d examples, this test knows of 5", len(blocks))
	}
	level := func(example int, role, action string, confidence float64) string {
		in, err := intent.ParseFile([]byte(blocks[example][1]))
		if err != nil {
			t.Fatalf("example %d: %v", example, err)
		}
		p, warnings, err := intent.Check(in)
		if err != nil || len(warnings) > 0 {
			t.Fatalf("example %d: %v, warned %q", example, err, warnings)
		}
		v := p.Decide(intent.Request{
			Action: intent.ParseAction(action), Host: intent.Host{ID: "h", Labels: map[string]string{"role": role}}, Confidence: confidence,
			Techniques: []string{"T1003"}, Account: "eve", Traits: []string{"memfd"},
		})
		return fmt.Sprint(v.Level, v.Policies)
	}
	for _, c := range []struct {
		example      int
		role, action string
		confidence   float64
		want         string
	}{
		{0, "web", "isolate", 0.9, "4 [web-at-once]"}, {0, "web", "isolate", 0.89, "1 []"}, {0, "db", "freeze", 1, "2 [freeze-on-approval]"}, {0, "dns", "freeze", 1, "1 [freeze-on-approval]"},
		{1, "web", "isolate", 1, "1 []"}, {2, "web", "freeze", 0.95, "4 [web-at-once]"}, {2, "web", "isolate", 0.8, "3 [web-with-a-veto]"}, {2, "db", "isolate", 1, "1 []"},
		{3, "db", "freeze", 1, "2 [databases-by-hand freeze-when-sure]"}, {3, "web", "freeze", 1, "4 [freeze-when-sure]"},
		{4, "web", "lock-account", 0.1, "2 [lock-on-approval]"}, {4, "web", "block-image", 0.75, "4 [block-what-nobody-installed]"},
	} {
		if got := level(c.example, c.role, c.action, c.confidence); got != c.want {
			t.Errorf("example %d, %s on %s at %v: got %s, want %s", c.example, c.action, c.role, c.confidence, got, c.want)
		}
	}
}

// Ensure the schema, the checks and the documentation have the same words.
func TestWords(t *testing.T) {
	raw, err := os.ReadFile("../../docs/intent.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range sensorv1.Action_name {
		name := strings.ToLower(strings.ReplaceAll(strings.TrimPrefix(action, "ACTION_"), "_", "-"))
		if name == "unspecified" {
			continue
		}
		quoted, schema := `"`+name+`"`, intent.Schema
		if intent.ActionName(intent.ParseAction(name)) != name || !strings.Contains(schema, quoted) || !strings.Contains(string(raw), "`"+quoted+"`") {
			t.Errorf("the action %s is missing in a list, in the schema or in docs/intent.md", name)
		}
	}
	attributes := regexp.MustCompile(`(?m)^    (\w+): `).FindAllStringSubmatch(intent.Schema, -1)
	if len(attributes) != 14 {
		t.Errorf("the schema has %d attributes", len(attributes))
	}
	for _, a := range attributes {
		if !strings.Contains(string(raw), "`"+a[1]+"`") {
			t.Errorf("docs/intent.md does not tell what context.%s is", a[1])
		}
		if _, err := intent.Compile(&sensorv1.Intent{Policy: "permit (principal, action, resource) when { context has " + a[1] + " };"}); err != nil {
			t.Errorf("%s: %v", a[1], err)
		}
	}
}
