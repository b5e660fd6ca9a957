package intent_test

import (
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const example = `version: 3
reason: web servers are cut at once when we are sure
veto_seconds: 120
groups:
  - name: web
    labels: {role: web}
governor:
  hosts_10m: 2
  protected:
    - name: databases
      labels: {role: db}
  protected_hosts: [h-dns, h-dhcp]
jump:
  - prefix: 10.0.0.5/32
    protocol: tcp
    port: 22
    inbound: true
    comment: the jump host
policy: |
  @id("web-at-once")
  permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
  when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.9")) };
`

// Ensure a file is read as what it says, and written back as the same.
func TestFile(t *testing.T) {
	in, err := intent.ParseFile([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	want := &sensorv1.Intent{
		Version: 3, Reason: "web servers are cut at once when we are sure", VetoSeconds: 120,
		Groups: []*sensorv1.Group{{Name: "web", Labels: map[string]string{"role": "web"}}},
		Governor: &sensorv1.Governor{
			Hosts_10M: 2, Protected: []*sensorv1.Group{{Name: "databases", Labels: map[string]string{"role": "db"}}}, ProtectedHosts: []string{"h-dns", "h-dhcp"},
		},
		Jump:   []*sensorv1.Opening{{Prefix: "10.0.0.5/32", Protocol: 6, Port: 22, Inbound: true, Comment: "the jump host"}},
		Policy: "@id(\"web-at-once\")\npermit (principal, action == Vedette::Action::\"isolate\", resource in Vedette::Group::\"web\")\nwhen { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal(\"0.9\")) };\n",
	}
	if !proto.Equal(in, want) {
		t.Fatalf("got %v", in)
	}
	again, err := intent.ParseFile(intent.Format(in))
	if err != nil || !proto.Equal(again, want) {
		t.Fatalf("got %v, %v from\n%s", again, err, intent.Format(in))
	}
	if _, warnings, err := intent.Check(in); err != nil || len(warnings) != 0 {
		t.Errorf("got %q, %v", warnings, err)
	}
}

// Ensure a mistake in a file is said where it is.
func TestFileRefuses(t *testing.T) {
	for _, c := range []struct{ name, file, want string }{
		{"a wrong key", "versio: 3\n", `line 1: there is no key "versio" (version is perhaps meant)`},
		{"a wrong key inside", "governor:\n  hosts_10: 3\n", `line 2: there is no key "hosts_10" (hosts_10m is perhaps meant)`},
		{"a wrong type", "veto_seconds: soon\n", "line 1"},
		{"a wrong protocol", "jump:\n  - {prefix: 10.0.0.1/32, protocol: icmp, port: 1}\n", "jump 1: the protocol is \"icmp\"; write tcp or udp"},
		{"an alias", "reason: &a x\npolicy: *a\n", "alias"},
		{"brackets", strings.Repeat("[", 5000), "nested deeper"},
		{"two documents", "version: 1\n---\nversion: 2\n", "more than one document"},
		{"no text", "reason: \"\xff\"\n", "reading the intent"},
		{"a heap", strings.Repeat("#", intent.MaxFile+1), "at most"},
		{"a list", "- a\n", "reading the intent"},
	} {
		_, err := intent.ParseFile([]byte(c.file))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if in, err := intent.ParseFile(nil); err != nil || !proto.Equal(in, intent.Defaults()) {
		t.Errorf("an empty file: got %v, %v", in, err)
	}
}

// anyIntent is any intent that a file can hold, sensible or not.
func anyIntent(t *rapid.T) *sensorv1.Intent {
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{"", "yes", "null", "0x1", "1e3", "a: b", "- a", "#x", "a #b", " a ", "'", "\"", "\\", "é\n", "\t", "~", "%", "@", "{}", "[", "a\u2028b", "true"}))
	groups := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *sensorv1.Group {
		g := &sensorv1.Group{Name: text.Draw(t, "name")}
		if labels := rapid.MapOfN(text, text, 0, 3).Draw(t, "labels"); len(labels) > 0 {
			g.Labels = labels
		}
		return g
	}), 0, 3)
	in := &sensorv1.Intent{
		Version: rapid.Uint64().Draw(t, "version"), Reason: text.Draw(t, "reason"), AutomationOff: rapid.Bool().Draw(t, "off"),
		VetoSeconds: rapid.Uint32().Draw(t, "veto"), LeaseSeconds: rapid.Uint64().Draw(t, "lease"), Groups: groups.Draw(t, "groups"),
		Policy: strings.Join(rapid.SliceOfN(text, 0, 5).Draw(t, "policy"), rapid.SampledFrom([]string{"", "\n", "\n\n", "\n  "}).Draw(t, "between")),
	}
	if rapid.Bool().Draw(t, "governed") {
		in.Governor = &sensorv1.Governor{
			Hosts_10M: rapid.Uint32().Draw(t, "hosts"), GroupLabel: text.Draw(t, "label"), Protected: groups.Draw(t, "protected"),
			ProtectedHosts: rapid.SliceOfN(text, 0, 3).Draw(t, "protected hosts"),
		}
	}
	for range rapid.IntRange(0, 2).Draw(t, "openings") {
		in.Jump = append(in.Jump, &sensorv1.Opening{
			Prefix: text.Draw(t, "prefix"), Protocol: rapid.Uint32Range(0, 20).Draw(t, "protocol"), Port: rapid.Uint32().Draw(t, "port"),
			Inbound: rapid.Bool().Draw(t, "inbound"), Comment: text.Draw(t, "comment"),
		})
	}
	return in
}

// Ensure whatever is written is read back as the same.
func TestFileRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := anyIntent(t)
		out := intent.Format(in)
		again, err := intent.ParseFile(out)
		if err != nil {
			t.Fatalf("%v from\n%s", err, out)
		}
		if !proto.Equal(in, again) {
			t.Fatalf("got %v\nwant %v\nfrom\n%s", again, in, out)
		}
	})
}
