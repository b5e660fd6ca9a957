package state

import (
	"fmt"
	"strings"
	"sync"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Levels of the autonomy ladder at which something may happen without an order.
const (
	levelAsk    = 2
	levelUnless = 3
	levelAct    = 4
)

// GovernorWindow is how far back the governor looks, in ns: its longer window.
const GovernorWindow = int64(24 * 3600 * 1e9)

const tenMinutes = int64(600 * 1e9)

// maxRepeats is how often automation may isolate a host again with no person
// having looked at it.
const maxRepeats = 3

// Caps says, one sentence each, which of the governor's caps containing hosts would
// exceed now; none: one operator is enough, and automation may. contained is what
// Tx.Contained or DB.Governed tells for GovernorWindow.
func Caps(governor *sensorv1.Governor, fleet store.Fleet, contained []store.ContainedHost, hosts []store.FleetHost, now int64) []string {
	all := intent.Extent{Hosts: fleet.Hosts}
	groups := make(map[string]intent.Extent)
	within := func(group string, count func(intent.Extent) intent.Extent) {
		all = count(all)
		if group != "" {
			extent := groups[group]
			extent.Hosts = fleet.Groups[group]
			groups[group] = count(extent)
		}
	}
	lately := make(map[int64]bool, len(contained))
	for _, host := range contained {
		lately[host.N] = now-host.At <= tenMinutes
	}
	adds := make(map[int64]bool, len(hosts))
	for _, host := range hosts {
		if lately[host.N] {
			continue // it is counted in both windows
		}
		adds[host.N] = true
		within(host.Group, func(e intent.Extent) intent.Extent { e.New++; return e })
	}
	for _, host := range contained {
		within(host.Group, func(e intent.Extent) intent.Extent {
			switch {
			case lately[host.N]:
				e.TenMinutes++
				e.Day++
			case !adds[host.N]: // else it is counted as new, though it was contained earlier in the day
				e.Day++
			}
			return e
		})
	}
	exceeded, _ := intent.Exceeds(governor, all, groups)
	return exceeded
}

// approvals is how many distinct operators an order needs, and why more than one.
func (a *applier) approvals(o *order) (needed uint32, why string, err error) {
	if !destructive(o.grant) {
		return 1, "", nil
	}
	exceeded, err := a.caps(o)
	if err != nil || len(exceeded) == 0 {
		return 1, "", err
	}
	return 2, exceeded[0], nil
}

func (a *applier) caps(o *order) ([]string, error) {
	current, err := a.intent()
	if err != nil {
		return nil, err
	}
	contained, err := a.tx.Contained(a.cmd.GetTime() - GovernorWindow)
	if err != nil {
		return nil, fmt.Errorf("reading what is contained: %w", err)
	}
	return Caps(current.GetGovernor(), o.fleet, contained, o.hosts, a.cmd.GetTime()), nil
}

// intent is the one in force, or what holds before there is one.
func (a *applier) intent() (*sensorv1.Intent, error) {
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	return policy.Intent(), nil
}

// policies keeps the newest compiled intent: compiling costs milliseconds, and every
// order needs it. What it holds follows from the key alone.
var policies sync.Map // of one entry: digest → *intent.Policy

func (a *applier) policy() (*intent.Policy, error) {
	signed, err := a.tx.Intent()
	if err != nil {
		return nil, fmt.Errorf("reading intent: %w", err)
	}
	return PolicyOf(signed)
}

// PolicyOf compiles a stored intent; nil is what holds before there is one.
func PolicyOf(signed *sensorv1.SignedIntent) (*intent.Policy, error) {
	key := string(intent.Digest(signed.GetPayload()))
	if kept, ok := policies.Load(key); ok {
		return kept.(*intent.Policy), nil
	}
	current := intent.Defaults()
	if signed != nil {
		var err error
		if current, err = intent.Decode(signed.GetPayload()); err != nil {
			return nil, fmt.Errorf("decoding intent: %w", err)
		}
	}
	policy, err := intent.Compile(current)
	if err != nil {
		return nil, fmt.Errorf("compiling intent: %w", err)
	}
	policies.Clear()
	policies.Store(key, policy)
	return policy, nil
}

// putIntent takes the next version. Its signature is the proposer's and every
// sensor's to verify.
func (a *applier) putIntent(in *raftv1.PutIntent) (*raftv1.Result, error) {
	next, err := intent.Decode(in.GetSigned().GetPayload())
	if err != nil || (in.GetDecoded() != nil && !same(next, in.GetDecoded())) {
		return reject(RejectInvalid, "the intent's payload is not the intent that was decoded: sign it again"), nil
	}
	cluster, err := a.tx.Cluster()
	if err != nil {
		return nil, fmt.Errorf("reading cluster: %w", err)
	}
	if next.GetClusterId() != cluster {
		return reject(RejectWrongCluster, "the intent is for cluster %q, this is %q: use the right context", next.GetClusterId(), cluster), nil
	}
	if _, err := intent.Compile(next); err != nil {
		return reject(RejectInvalid, "%v", err), nil
	}
	current, err := a.tx.Intent()
	if err != nil {
		return nil, fmt.Errorf("reading intent: %w", err)
	}
	if err := intent.Follows(current.GetPayload(), next); err != nil {
		return reject(RejectStaleIntent, "%v: somebody else applied one meanwhile; look at it with vedette intent show", err), nil
	}
	before, err := a.intent()
	if err != nil {
		return nil, err
	}
	if lost := intent.Shrinks(before, next); len(lost) > 0 && !next.GetShrinks() {
		return reject(RejectShrinks, "%s: if that is meant, apply it with --allow-shrink", strings.Join(lost, "; ")), nil
	}
	if err := a.tx.SetGroupLabel(intent.GroupLabel(next.GetGovernor())); err != nil {
		return nil, fmt.Errorf("storing groups: %w", err)
	}
	if err := a.tx.AddIntent(next.GetVersion(), in.GetSigned(), a.cmd.GetTime()); err != nil {
		return nil, fmt.Errorf("storing intent: %w", err)
	}
	return accept(fmt.Sprint(next.GetVersion())), a.audit("intent-apply", fmt.Sprintf("version %d", next.GetVersion()), "automation off %t, reason %q", next.GetAutomationOff(), next.GetReason())
}

// proposeResponse takes what the leader's automation would do to one host. It is
// held to the intent's version, the protected hosts and the caps here as well, since
// the leader may be wrong, or stolen.
func (a *applier) proposeResponse(in *raftv1.ProposeResponse) (*raftv1.Result, error) {
	payload, err := grant.Encode(in.GetGrant())
	if err != nil || in.GetGrant().GetOperator() != "" {
		return reject(RejectInvalid, "a proposal is a grant of automation: %v", err), nil
	}
	o, rejected, err := a.order(in.GetGrant(), []string{in.GetHost()})
	if err != nil || rejected != nil {
		return rejected, err
	}
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	current := policy.Intent()
	unsupported, err := a.unsupported(in, policy, o.hosts[0])
	if err != nil {
		return nil, err
	}
	window := in.GetWindowEnds() - a.cmd.GetTime()
	switch {
	case in.GetIntentVersion() != current.GetVersion():
		return reject(RejectStaleIntent, "the proposal was made by version %d of the intent, version %d is in force", in.GetIntentVersion(), current.GetVersion()), nil
	case in.GetLevel() < levelAsk || in.GetLevel() > levelAct:
		return reject(RejectInvalid, "level %d proposes nothing", in.GetLevel()), nil
	case unsupported != "":
		return reject(RejectUnsupported, "%s", unsupported), nil
	case !destructive(in.GetGrant()):
		return reject(RejectInvalid, "automation proposes no %s: people end what was begun", grant.Word(in.GetGrant().GetAction())), nil
	case in.GetLevel() == levelUnless && (window <= 0 || window > maxWindow):
		return reject(RejectInvalid, "a veto window is up to an hour, not %d ns", window), nil
	}
	kept := &store.Order{State: store.OrderWaiting, Signed: &sensorv1.SignedGrant{Payload: payload}, Body: a.describe(o)}
	kept.Body.Level, kept.Body.Finding, kept.Body.Policies = in.GetLevel(), in.GetFinding(), in.GetPolicies()
	kept.Body.RequestedBy = a.cmd.GetActor()
	if in.GetLevel() > levelAsk {
		held, err := a.held(o, policy)
		if err != nil {
			return nil, err
		}
		if held != "" {
			return reject(RejectGovernor, "%s", held), nil
		}
		kept.State = store.OrderOrdered
	}
	if in.GetLevel() == levelUnless {
		kept.State, kept.Body.WindowEnds = store.OrderWindow, in.GetWindowEnds()
	}
	if rejected, err := a.keep(o, kept); err != nil || rejected != nil {
		return rejected, err
	}
	return accept(o.grant.GetOperation()), nil
}

// unsupported says why a proposal does not follow from its finding by the intent: the
// same evaluator as the leader's, so that a leader that is mistaken gets nowhere.
func (a *applier) unsupported(in *raftv1.ProposeResponse, policy *intent.Policy, host store.FleetHost) (string, error) {
	of, finding, err := a.tx.Finding(in.GetFinding())
	switch {
	case err != nil:
		return "", fmt.Errorf("reading finding: %w", err)
	case finding == nil || of != host.N:
		return fmt.Sprintf("finding %q is not one of host %s", in.GetFinding(), host.ID), nil
	}
	if host, _, err = a.tx.FleetHost(host.ID); err != nil {
		return "", fmt.Errorf("reading host: %w", err)
	}
	for _, p := range policy.Propose(finding, intent.Host{ID: host.ID, Name: host.Name, Labels: host.Labels}) {
		if p.Action == in.GetGrant().GetAction() && sameTarget(p.Target, in.GetGrant().GetTarget()) && p.Verdict.Level >= int(in.GetLevel()) {
			return "", nil
		}
	}
	return fmt.Sprintf("version %d of the intent does not let automation %s host %s at level %d for finding %s",
		policy.Version(), grant.Word(in.GetGrant().GetAction()), host.ID, in.GetLevel(), in.GetFinding()), nil
}

func sameTarget(a, b *sensorv1.Target) bool {
	if a == nil {
		a = &sensorv1.Target{}
	}
	if b == nil {
		b = &sensorv1.Target{}
	}
	return same(a, b)
}

// startOperation sends out what nobody has vetoed in its window, if it may still.
func (a *applier) startOperation(in *raftv1.StartOperation) (*raftv1.Result, error) {
	kept, g, rejected, err := a.waitingOrder(in.GetOperation())
	if err != nil || rejected != nil {
		return rejected, err
	}
	if kept.State != store.OrderWindow || kept.Body.GetWindowEnds() > a.cmd.GetTime() {
		return reject(RejectWindowOpen, "operation %s waits for people: it is not the end of a window", in.GetOperation()), nil
	}
	o, rejected, err := a.again(g, kept)
	if err != nil {
		return nil, err
	}
	policy, err := a.policy()
	if err != nil {
		return nil, err
	}
	held := rejected.GetMessage()
	if held == "" {
		if held, err = a.held(o, policy); err != nil {
			return nil, err
		}
	}
	kept.State = store.OrderOrdered
	if held != "" {
		// It is over, and not asked for again every second.
		kept.State, kept.Body.VetoedBy, kept.Body.VetoReason = store.OrderVetoed, "governor", held
	}
	if err := a.tx.SetOrder(g, kept); err != nil {
		return nil, fmt.Errorf("storing operation: %w", err)
	}
	if held != "" {
		return accept(in.GetOperation()), a.audit("hold", in.GetOperation(), "%s", held)
	}
	return accept(in.GetOperation()), a.goOut(o, kept)
}

// held says why automation may not do what an order asks, whatever policies say.
func (a *applier) held(o *order, policy *intent.Policy) (string, error) {
	if policy.Intent().GetAutomationOff() {
		return fmt.Sprintf("automation is off by version %d of the intent", policy.Version()), nil
	}
	for _, ordered := range o.hosts {
		host, _, err := a.tx.FleetHost(ordered.ID)
		if err != nil {
			return "", fmt.Errorf("reading host: %w", err)
		}
		if why := policy.Protected(intent.Host{ID: host.ID, Name: host.Name, Labels: host.Labels}); why != "" {
			return fmt.Sprintf("host %s: %s", host.ID, why), nil
		}
		if o.grant.GetAction() != sensorv1.Action_ACTION_ISOLATE {
			continue
		}
		repeats, err := a.tx.AutomaticIsolations(host.N)
		if err != nil {
			return "", fmt.Errorf("reading isolations: %w", err)
		}
		if repeats >= maxRepeats {
			return fmt.Sprintf("host %s was isolated %d times with nobody having looked at it: a person must", host.ID, repeats), nil
		}
	}
	exceeded, err := a.caps(o)
	if err != nil || len(exceeded) == 0 {
		return "", err
	}
	return exceeded[0], nil
}
