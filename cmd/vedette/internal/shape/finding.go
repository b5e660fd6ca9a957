package shape

import (
	"encoding/hex"
	"strconv"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Finding is a row of `finding list`.
type Finding struct {
	ID         string   `json:"id"`
	Host       string   `json:"host"`
	Time       Time     `json:"time"`
	Kind       string   `json:"kind"`
	Title      string   `json:"title"`
	Techniques []string `json:"techniques"`
	Score      float64  `json:"score"`
	// PValue is null of what was not told because of how odd it is.
	PValue      *float64 `json:"p_value"`
	Storyline   string   `json:"storyline"`
	Process     *Process `json:"process"`
	Evidence    Evidence `json:"evidence"`
	Losses      []Loss   `json:"losses"`
	Disposition string   `json:"disposition"`
	Reason      string   `json:"reason"`
}

// Ancestor is a process above another.
type Ancestor struct {
	PID uint32 `json:"pid"`
	// ID is what `contain --process` takes, exact in any JSON reader; Start is in ns since
	// boot. Both are null where the start is not told.
	ID        *string  `json:"id"`
	Start     *uint64  `json:"start"`
	StartTime Time     `json:"start_time"`
	Image     string   `json:"image"`
	Argv      []string `json:"argv"`
	User      string   `json:"user"`
}

// Process is the process that a finding is about; ancestors nearest first.
type Process struct {
	Ancestor
	Ancestors []Ancestor `json:"ancestors"`
}

// Evidence is what a finding rests on besides its process.
type Evidence struct {
	Rule          *string  `json:"rule"`
	Severity      string   `json:"severity"`
	Flows         []Flow   `json:"flows"`
	Origin        *Flow    `json:"origin"`
	Lookups       []string `json:"lookups"`
	SHA256        *string  `json:"sha256"`
	Cwd           string   `json:"cwd"`
	Unit          string   `json:"unit"`
	Container     string   `json:"container"`
	ImageTraits   []string `json:"image_traits"`
	ArgvTruncated bool     `json:"argv_truncated"`
	Learning      bool     `json:"learning"`
	Incident      *string  `json:"incident"`
	Terms         []Term   `json:"terms"`
}

// Term is one reason for a score, in bits of evidence.
type Term struct {
	Bits float64 `json:"bits"`
	Text string  `json:"text"`
}

// Flow is a connection as evidence.
type Flow struct {
	Protocol  string `json:"protocol"`
	Direction string `json:"direction"`
	Local     string `json:"local"`
	Remote    string `json:"remote"`
	Name      string `json:"name"`
	BytesIn   uint64 `json:"bytes_in"`
	BytesOut  uint64 `json:"bytes_out"`
	Opened    Time   `json:"opened"`
	Closed    Time   `json:"closed"`
}

// FromFinding shapes a finding.
func FromFinding(row *operatorv1.FindingRow) Finding {
	f := row.GetFinding()
	p := f.GetProcess()
	out := Finding{
		ID: f.GetId(), Host: row.GetHost(), Time: Time(f.GetTime()), Kind: f.GetKind(), Title: f.GetTitle(),
		Techniques: list(f.GetTechniques()), Score: f.GetScore(), Storyline: f.GetStoryline(),
		Losses: Losses(f.GetLosses()), Disposition: row.GetDisposition(), Reason: f.GetReason(),
		Evidence: Evidence{
			Rule: text(f.GetRuleId()), Severity: f.GetSeverity(), Flows: []Flow{}, Terms: []Term{}, Lookups: list(f.GetLookups()),
			SHA256: text(hex.EncodeToString(p.GetSha256())), Cwd: output.Lossless(p.GetCwd()), Unit: p.GetUnit(),
			Container: p.GetContainer(), ImageTraits: list(p.GetImageTraits()), ArgvTruncated: p.GetArgvTruncated(),
			Learning: f.GetLearning(), Incident: text(row.GetIncident()),
		},
	}
	if p := f.GetPValue(); p > 0 {
		out.PValue = &p
	}
	for _, t := range f.GetTerms() {
		out.Evidence.Terms = append(out.Evidence.Terms, Term{t.GetBits(), t.GetText()})
	}
	for _, flow := range f.GetFlows() {
		out.Evidence.Flows = append(out.Evidence.Flows, FromFlow(flow))
	}
	if o := f.GetOrigin(); o != nil {
		flow := FromFlow(o)
		out.Evidence.Origin = &flow
	}
	if p != nil {
		out.Process = &Process{ancestor(p), []Ancestor{}}
		for _, a := range f.GetAncestors() {
			out.Process.Ancestors = append(out.Process.Ancestors, ancestor(a))
		}
	}
	return out
}

func ancestor(p *sensorv1.Process) Ancestor {
	a := Ancestor{PID: p.GetPid(), ID: text(ProcessID(p)), StartTime: Time(p.GetStartTime()), Image: output.Lossless(p.GetImage()), Argv: []string{}, User: User(p)}
	if start := p.GetStart(); start != 0 {
		a.Start = &start
	}
	for _, arg := range p.GetArgv() {
		a.Argv = append(a.Argv, output.Lossless(arg))
	}
	return a
}

// ProcessID is PID.START, the identity of a process on its host: a PID alone may be another
// one's by now. "" where the start is not told.
func ProcessID(p *sensorv1.Process) string {
	if p.GetPid() == 0 || p.GetStart() == 0 {
		return ""
	}
	return strconv.FormatUint(uint64(p.GetPid()), 10) + "." + strconv.FormatUint(p.GetStart(), 10)
}

// User is the name of a process's user, or its number where there is no name.
func User(p *sensorv1.Process) string {
	if p.GetUser() != "" {
		return p.GetUser()
	}
	return strconv.FormatUint(uint64(p.GetUid()), 10)
}

// FromFlow shapes a flow.
func FromFlow(f *sensorv1.Flow) Flow {
	direction := "out"
	if f.GetInbound() {
		direction = "in"
	}
	return Flow{
		Protocol(f.GetProtocol()), direction, Endpoint(f.GetLocal(), f.GetLocalPort()), Endpoint(f.GetRemote(), f.GetRemotePort()),
		f.GetName(), f.GetBytesIn(), f.GetBytesOut(), Time(f.GetOpened()), Time(f.GetClosed()),
	}
}

// Protocol names an IANA protocol number.
func Protocol(n uint32) string {
	switch n {
	case 6:
		return "tcp"
	case 17:
		return "udp"
	default:
		return strconv.FormatUint(uint64(n), 10)
	}
}
