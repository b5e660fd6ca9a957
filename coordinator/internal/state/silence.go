package state

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Kinds of findings that the coordinator makes by itself.
const (
	KindSilent   = "silent"
	KindReturned = "returned"
)

// RuleManySilent marks the one finding about many hosts.
const RuleManySilent = "many-hosts"

// SilencePrefix begins the id of a silence's finding; the same with ReturnPrefix is
// that of its end.
const (
	SilencePrefix = "sil-"
	ReturnPrefix  = "ret-"
)

// endings are the ways in which a session can end.
var endings = map[string]bool{"stopped": true, "failed": true, "closed": true, "unheard": true, "node": true}

// sessionsEnded notes the ends that are still news; for the others it does nothing, so
// that a node may report again what it is not sure of.
func (a *applier) sessionsEnded(in *raftv1.SessionsEnded) (*raftv1.Result, error) {
	if !validID(in.GetNode()) {
		return reject(RejectInvalid, "ended sessions need the id of their node"), nil
	}
	if in.GetAll() {
		if err := a.tx.EndSessions(in.GetNode(), a.cmd.GetTime()); err != nil {
			return nil, fmt.Errorf("ending a node's sessions: %w", err)
		}
	}
	for _, end := range in.GetSessions() {
		host, ok, err := a.tx.HostNumber(end.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		if !ok || !endings[end.GetHow()] {
			continue
		}
		if _, err := a.tx.EndSession(host, in.GetNode(), end, a.cmd.GetTime()); err != nil {
			return nil, fmt.Errorf("ending a session: %w", err)
		}
	}
	return accept(in.GetNode()), nil
}

// raiseSilence stores the finding, once for each session that ended: two leaders may
// propose it, and the host may have come back before this entry.
func (a *applier) raiseSilence(in *raftv1.RaiseSilence) (*raftv1.Result, error) {
	f := in.GetFinding()
	if !strings.HasPrefix(f.GetId(), SilencePrefix) || !validID(f.GetId()) || len(in.GetHosts()) == 0 {
		return reject(RejectInvalid, "a silence needs the id of its finding and the hosts that it is about"), nil
	}
	for i, silent := range in.GetHosts() {
		host, ok, err := a.tx.HostNumber(silent.GetHost())
		if err != nil {
			return nil, fmt.Errorf("reading host: %w", err)
		}
		var p store.Presence
		if ok {
			if p, err = a.tx.Presence(host); err != nil {
				return nil, fmt.Errorf("reading a host's presence: %w", err)
			}
		}
		news := ok && !p.Connected && p.Silence == "" && uint64(p.Session) == silent.GetSession()
		switch {
		case !news && i == 0:
			return reject(RejectNotSilent, "%s has come back, or its silence is told already", silent.GetHost()), nil
		case !news:
			continue
		case i == 0:
			stored, err := a.tx.AddFinding(host, a.index, a.cmd.GetTime(), f)
			if err != nil {
				return nil, fmt.Errorf("storing finding: %w", err)
			}
			if !stored {
				return reject(RejectNotSilent, "the silence of %s is told already", silent.GetHost()), nil
			}
		}
		if err := a.tx.SetSilence(host, f.GetId()); err != nil {
			return nil, fmt.Errorf("storing a silence: %w", err)
		}
	}
	return accept(f.GetId()), nil
}

// returned notes who has come back and, when its silence was told, how it came back:
// after a silence of many hosts, when the last of them has.
func (a *applier) returned(host int64, before store.Presence, in *raftv1.HostSession) error {
	if err := a.tx.SetReturned(host, in.GetKernelBoot(), in.GetInstance()); err != nil {
		return fmt.Errorf("storing a return: %w", err)
	}
	if before.Silence == "" {
		return nil
	}
	still, err := a.tx.Silent(before.Silence)
	if err != nil || still {
		return err
	}
	about, told, err := a.tx.Finding(before.Silence)
	if err != nil {
		return fmt.Errorf("reading a silence: %w", err)
	}
	f := &sensorv1.Finding{
		Id:   ReturnPrefix + strings.TrimPrefix(before.Silence, SilencePrefix),
		Time: a.cmd.GetTime(), Kind: KindReturned, Severity: "informational", RuleId: told.GetRuleId(), Storyline: told.GetStoryline(),
	}
	if told.GetRuleId() == RuleManySilent {
		f.Title = "All hosts that had fallen silent are back"
		f.Reason = fmt.Sprintf("The last of the hosts of finding %s is back after %s.", before.Silence, span(a.cmd.GetTime()-before.Heard))
	} else {
		about = host
		f.Title, f.Reason = comeback(before, in, a.cmd.GetTime())
	}
	if _, err := a.tx.AddFinding(about, a.index, a.cmd.GetTime(), f); err != nil {
		return fmt.Errorf("storing finding: %w", err)
	}
	return nil
}

// comeback says how long the host was silent and what its return shows.
func comeback(before store.Presence, in *raftv1.HostSession, now int64) (title, reason string) {
	silent := span(now - before.Heard)
	how, what := "", "The sensor does not tell what it was before."
	switch {
	case len(in.GetInstance()) == 0 || len(before.Instance) == 0 || len(in.GetKernelBoot()) == 0 || len(before.KernelBoot) == 0:
	case !bytes.Equal(in.GetKernelBoot(), before.KernelBoot):
		how = ", rebooted"
		what = "The machine was rebooted: it had crashed, lost power, or was restarted without stopping the sensor."
	case !bytes.Equal(in.GetInstance(), before.Instance):
		how = ", its sensor restarted"
		what = "The machine was not rebooted, and the sensor is another process: the one before was killed or crashed. What happened until the new one ran was not seen."
	default:
		how = ", the same process"
		what = "The same process continued: it was frozen, or cut off from the network. What it saw meanwhile comes now; what it could not keep is counted as lost."
	}
	return fmt.Sprintf("The sensor is back after %s%s", silent, how),
		fmt.Sprintf("Nothing was heard of this host for %s; now it has a session with node %s. %s", silent, in.GetNode(), what)
}

// span is a duration for people, from ns; it may not import time.
func span(ns int64) string {
	s := max(ns, 0) / 1e9
	switch {
	case s < 120:
		return fmt.Sprintf("%d s", s)
	case s < 7200:
		return fmt.Sprintf("%d min", s/60)
	case s < 48*3600:
		return fmt.Sprintf("%d h", s/3600)
	}
	return fmt.Sprintf("%d days", s/(24*3600))
}
