package coordinator_test

import (
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/ruleset"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// ruleHost is a sensor that uses what it is told to, as the real one does.
type ruleHost struct {
	*testSession
	sensor   *testSensor
	id, boot string
	newest   uint64
	use      uint64
	refuse   uint64 // a version that it does not use
}

func (c *testCluster) ruleHost(node int) *ruleHost {
	c.t.Helper()
	sensor := c.enrol(node)
	session, err := sensor.dial(c.nodes[node].cfg.Advertise)
	if err != nil {
		c.t.Fatal(err)
	}
	h := &ruleHost{testSession: session, sensor: sensor, id: sensor.id, boot: string(newBoot())}
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "test", Boot: []byte(h.boot), Facts: &sensorv1.HostFacts{Name: "web"},
		Instance: []byte(h.boot), Rules: &sensorv1.RulesHeld{}}}})
	if m := session.read(); m.GetWelcome() == nil {
		c.t.Fatalf("want a welcome, got %v", m)
	}
	return h
}

// obey waits for the next order, and answers it.
func (h *ruleHost) obey(c *testCluster) {
	h.t.Helper()
	order := h.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetRules() != nil }).GetRules()
	for _, signed := range order.GetSets() {
		set, _, err := ruleset.Verify(signed, c.operators(), c.admin.ClusterID, time.Now())
		if err != nil {
			h.t.Fatalf("host %s is sent rules that do not verify: %v", h.id, err)
		}
		h.newest = max(h.newest, set.GetVersion())
	}
	held := &sensorv1.RulesHeld{Newest: h.newest, CostNs: 2000}
	if order.GetUse() == h.refuse && h.refuse != 0 {
		held.Failure, held.FailedVersion, held.Version = "it takes too much", h.refuse, h.use
	} else {
		h.use, held.Version = order.GetUse(), order.GetUse()
	}
	h.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Rules{Rules: held}})
}

func oddRule(name string) *sensorv1.RuleSet {
	return &sensorv1.RuleSet{Reason: "test " + name, SoakSeconds: 1, Files: []*sensorv1.RuleFile{{Path: name + ".yml", Text: fmt.Appendf(nil,
		"title: %[1]s\nid: 11111111-2222-4333-8444-5555555555%[1]s\nlevel: high\ntags: [attack.t1059]\ndescription: A test.\n"+
			"logsource: {category: process_creation, product: linux}\ndetection: {s: {Image|endswith: /odd%[1]s}, condition: s}\n", name)}}}
}

func (c *testCluster) push(set *sensorv1.RuleSet) uint64 {
	c.t.Helper()
	newest, base, err := c.api.Rules(c.t.Context(), 0)
	if err != nil {
		c.t.Fatal(err)
	}
	version, err := c.api.PushRules(c.t.Context(), set, newest, base, "")
	if err != nil {
		c.t.Fatal(err)
	}
	return version
}

func (c *testCluster) rulesState(version uint64, want string) error {
	res, err := c.api.RuleSets(c.t.Context())
	if err != nil {
		return err
	}
	for _, set := range res.GetSets() {
		if set.GetVersion() == version && set.GetState() == want {
			return nil
		}
	}
	return fmt.Errorf("version %d is not %s: %v", version, want, res.GetSets())
}

// Ensure a push reaches host after host in rings, is taken back from all when one refuses it
// or its rules find too much, and that what is signed by nobody or twice is refused.
func TestPushRules(t *testing.T) {
	c := startCluster(t, 1)
	var hosts []*ruleHost
	for range 6 {
		hosts = append(hosts, c.ruleHost(0))
	}
	slices.SortFunc(hosts, func(a, b *ruleHost) int { return int(int64(ruleset.Place(a.id)) - int64(ruleset.Place(b.id))) })
	one := c.push(oddRule("01"))
	for _, h := range hosts { // all are told, at first to use none but for the first
		h.obey(c)
	}
	if hosts[0].use != one {
		t.Errorf("the host with the first place uses %d", hosts[0].use)
	}
	for _, h := range hosts[1:] {
		for h.use != one {
			h.obey(c)
		}
	}
	eventually(t, "all have the first set", func() error { return c.rulesState(one, ruleset.Complete) })

	// The second is refused by the first host that gets it, and goes no further.
	hosts[0].refuse = 2
	two := c.push(oddRule("02"))
	hosts[0].obey(c)
	eventually(t, "the second set is halted", func() error { return c.rulesState(two, ruleset.Halted) })
	hosts[0].obey(c)
	for _, h := range hosts {
		if h.use != one {
			t.Errorf("host %s uses version %d after the halt", h.id, h.use)
		}
	}

	// The third makes a flood.
	three := c.push(oddRule("03"))
	hosts[0].obey(c)
	if hosts[0].use != three {
		t.Fatalf("the first host uses %d", hosts[0].use)
	}
	var records []*sensorv1.Record
	for i := range uint64(40) {
		id := make([]byte, 8)
		_, _ = rand.Read(id)
		records = append(records, &sensorv1.Record{Sequence: i + 1, Time: time.Now().UnixNano(), Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
			Id: fmt.Sprintf("f-%x", id), Time: time.Now().UnixNano(), Kind: "rule", Title: "03", RuleId: "11111111-2222-4333-8444-555555555503", Severity: "high", Storyline: "1.1"}}})
	}
	eventually(t, "the log knows that the first host uses it", func() error {
		res, err := c.api.RuleSets(t.Context())
		if err == nil && res.GetSets()[0].GetHostsUsing() != 1 {
			err = fmt.Errorf("%v", res.GetSets()[0])
		}
		return err
	})
	hosts[0].batch([]byte(hosts[0].boot), 0, records...)
	eventually(t, "the third set is halted", func() error { return c.rulesState(three, ruleset.Halted) })
	res, err := c.api.RuleSets(t.Context())
	if err != nil || !strings.Contains(res.GetSets()[0].GetWhy(), "40 findings") || res.GetSets()[0].GetMatches() != 40 || res.GetSets()[0].GetWhyHost() != hosts[0].id {
		t.Errorf("it says %v, %v", res.GetSets()[0], err)
	}
	if !strings.Contains(res.GetSets()[1].GetWhy(), "takes too much") {
		t.Errorf("of the second it says %q", res.GetSets()[1].GetWhy())
	}

	// What all had goes to all at once.
	again := oddRule("01")
	again.Restores = one
	four := c.push(again)
	for _, h := range hosts {
		for h.use != four {
			h.obey(c)
		}
	}
	if err := c.rulesState(four, ruleset.Complete); err != nil {
		t.Error(err)
	}
	// From what is not the newest any more.
	old, _, err := c.api.Rules(t.Context(), three)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.api.PushRules(t.Context(), oddRule("05"), old, nil, ""); !errors.Is(err, client.ErrRulesStale) {
		t.Errorf("from an older one: %v", err)
	}
	lie := oddRule("05")
	lie.Restores = one
	newest, base, _ := c.api.Rules(t.Context(), 0)
	if _, err := c.api.PushRules(t.Context(), lie, newest, base, ""); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("other rules that it says it restores: %v", err)
	}
	bad := &sensorv1.RuleSet{Reason: "bad", Files: []*sensorv1.RuleFile{{Path: "bad.yml", Text: []byte("title: x\n")}}}
	if _, err := c.api.PushRules(t.Context(), bad, newest, base, ""); !errors.Is(err, client.ErrInvalid) {
		t.Errorf("rules that no sensor takes: %v", err)
	}

	// A sensor that is put back to a release that takes no rules is not waited for any more.
	older, err := hosts[5].sensor.dial(c.nodes[0].cfg.Advertise)
	if err != nil {
		t.Fatal(err)
	}
	older.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: &sensorv1.Hello{
		Protocol: frame.ProtocolVersion, SensorVersion: "older", Boot: newBoot(), Facts: &sensorv1.HostFacts{Name: "web"}}}})
	eventually(t, "the log knows that it takes none", func() error {
		res, err := c.api.RuleSets(t.Context())
		if err == nil && res.GetHostsAble() != 5 {
			err = fmt.Errorf("%d hosts take rules", res.GetHostsAble())
		}
		return err
	})
}

// Ensure a key that another set was pushed with is an error, whatever version the answer is about,
// and that a repeated push is none; and that how a set would go out is known before.
func TestPushRulesByKey(t *testing.T) {
	c := startCluster(t, 1)
	push := func(set *sensorv1.RuleSet, newest *client.Rules, key string) (uint64, error) {
		return c.api.PushRules(t.Context(), set, newest, nil, key)
	}
	goes := func(set *sensorv1.RuleSet, want string) *client.Rules {
		t.Helper()
		newest, _, how, err := c.api.NextRules(t.Context(), set)
		if err != nil || how != want {
			t.Errorf("it would go %q, %v; want %q", how, err, want)
		}
		return newest
	}
	if version, err := push(oddRule("01"), goes(oddRule("01"), ruleset.GoesByRings), "night"); err != nil || version != 1 {
		t.Fatalf("version %d, %v", version, err)
	}
	// Its answer was lost: the same from the same state, and from the one that is there now.
	if version, err := push(oddRule("01"), nil, "night"); err != nil || version != 1 {
		t.Errorf("again: version %d, %v", version, err)
	}
	one := goes(oddRule("02"), ruleset.GoesByRings)
	if version, err := push(oddRule("01"), one, "night"); err != nil || version != 1 {
		t.Errorf("again, having looked: version %d, %v", version, err)
	}
	for name, newest := range map[string]*client.Rules{"by who has looked before": nil, "by who has looked": one} {
		if version, err := push(oddRule("02"), newest, "night"); !errors.Is(err, client.ErrKeyUsed) || !strings.Contains(err.Error(), "version 1 of the rules") {
			t.Errorf("another set %s: version %d, %v", name, version, err)
		}
	}
	none := &sensorv1.RuleSet{Reason: "none"}
	if version, err := push(none, goes(none, ruleset.GoesAtOnce), ""); err != nil || version != 2 {
		t.Fatalf("version %d, %v", version, err)
	}
	two := goes(oddRule("01"), ruleset.GoesByRings) // that all had it was never so
	if version, err := push(oddRule("01"), two, "night"); !errors.Is(err, client.ErrKeyUsed) {
		t.Errorf("the same set, after another: version %d, %v", version, err)
	}
	if res, err := c.api.RuleSets(t.Context()); err != nil || len(res.GetSets()) != 2 {
		t.Errorf("%v, %v", res, err)
	}
}
