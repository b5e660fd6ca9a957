package state

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Verdicts of investigations.
const (
	VerdictBenign   = "benign"
	VerdictWatching = "watching"
	VerdictIncident = "incident"
)

// MaxStoryline is what a storyline may be called, in bytes, that is investigated: sensors use some twenty.
const MaxStoryline = 128

// maxInvestigation bounds one as it is kept, in bytes.
const maxInvestigation = 64 << 10

// CheckInvestigation says what is wrong with one; nil: nothing.
func CheckInvestigation(in *raftv1.Investigation) error {
	switch {
	case in.GetVerdict() != VerdictBenign && in.GetVerdict() != VerdictWatching && in.GetVerdict() != VerdictIncident:
		return fmt.Errorf("%q is no verdict", in.GetVerdict())
	case in.GetStoryline() == "" || len(in.GetStoryline()) > MaxStoryline:
		return errors.New("an investigation of no storyline")
	case in.GetConfidence() < 0 || in.GetConfidence() > 1:
		return errors.New("a confidence that is none")
	case len(in.GetFindings()) == 0:
		return errors.New("an investigation of no findings")
	case proto.Size(in) > maxInvestigation:
		return fmt.Errorf("the investigation has %d bytes, the limit is %d", proto.Size(in), maxInvestigation)
	}
	return nil
}

// putInvestigation keeps the last word on a storyline. It changes no finding and no incident:
// what makes incidents reads it. What people said of the storyline stays said.
func (a *applier) putInvestigation(in *raftv1.PutInvestigation) (*raftv1.Result, error) {
	inv := in.GetInvestigation()
	if err := CheckInvestigation(inv); err != nil {
		return reject(RejectInvalid, "%s", err), nil
	}
	host, ok, err := a.tx.HostNumber(inv.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "no host is called %s", inv.GetHost()), nil
	}
	have, err := a.tx.Investigation(host, inv.GetStoryline())
	if err != nil {
		return nil, fmt.Errorf("reading investigation: %w", err)
	}
	inv.Disposition, inv.JudgedBy = have.GetDisposition(), have.GetJudgedBy()
	if err := a.tx.PutInvestigation(a.index, host, inv); err != nil {
		return nil, fmt.Errorf("storing investigation: %w", err)
	}
	return accept(inv.GetStoryline()), nil
}

// judge has what people said of an incident stand with the investigations of its storylines,
// and counts it for whatever looks the same.
func (a *applier) judge(incident *raftv1.Incident) error {
	for _, name := range incident.GetStorylines() {
		id, storyline, _ := strings.Cut(name, "/")
		host, ok, err := a.tx.HostNumber(id)
		if err != nil {
			return fmt.Errorf("reading host: %w", err)
		}
		if !ok {
			continue
		}
		inv, err := a.tx.Investigation(host, storyline)
		if err != nil {
			return fmt.Errorf("reading investigation: %w", err)
		}
		if inv == nil {
			continue
		}
		inv.Disposition, inv.JudgedBy = incident.GetDisposition(), incident.GetClosedBy()
		if err := a.tx.PutInvestigation(a.index, host, inv); err != nil {
			return fmt.Errorf("storing investigation: %w", err)
		}
	}
	findings, err := a.tx.IncidentFindings(incident.GetId())
	if err != nil {
		return fmt.Errorf("reading findings: %w", err)
	}
	counted := make(map[string]bool)
	for _, f := range findings {
		sign := Sign(f)
		if counted[string(sign)] || drilled(f) {
			continue
		}
		counted[string(sign)] = true
		if err := a.tx.Judge(sign, incident.GetDisposition() == "malicious"); err != nil {
			return fmt.Errorf("counting a judgement: %w", err)
		}
	}
	return nil
}

// drilled says whether a finding bears a drill's mark. To close a drill's incident teaches
// nothing: what it did was an attack's. Who copies a mark only keeps his own from being
// counted.
func drilled(f *sensorv1.Finding) bool {
	for _, p := range append([]*sensorv1.Process{f.GetProcess()}, f.GetAncestors()...) {
		for _, arg := range p.GetArgv() {
			if strings.HasPrefix(string(arg), drill.MarkPrefix) {
				return true
			}
		}
	}
	return false
}

// Sign is what a finding has in common with others that look the same: its kind and rule, the
// program and who started it. Who is judged benign once is not benign for ever: it is counted.
func Sign(f *sensorv1.Finding) []byte {
	parts := []string{f.GetKind(), f.GetRuleId(), string(f.GetProcess().GetImage())}
	if len(f.GetAncestors()) > 0 {
		parts = append(parts, string(f.GetAncestors()[0].GetImage()))
	}
	if f.GetRuleId() == "" {
		parts = append(parts, f.GetTitle())
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return sum[:16]
}
