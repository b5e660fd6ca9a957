package export

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// The keys below are those of docs/cli.md, so that a query is written once for both; a
// test holds them to it.

type finding struct {
	ID         string   `json:"id"`
	Host       string   `json:"host"`
	Time       stamp    `json:"time"`
	Kind       string   `json:"kind"`
	Title      string   `json:"title"`
	Techniques []string `json:"techniques"`
	Score      float64  `json:"score"`
	Storyline  string   `json:"storyline"`
	Process    *process `json:"process"`
	Evidence   evidence `json:"evidence"`
	Losses     []loss   `json:"losses"`
	Reason     string   `json:"reason"`
}

type ancestor struct {
	PID       uint32   `json:"pid"`
	StartTime stamp    `json:"start_time"`
	Image     string   `json:"image"`
	Argv      []string `json:"argv"`
	User      string   `json:"user"`
}

type process struct {
	ancestor
	Ancestors []ancestor `json:"ancestors"`
}

type evidence struct {
	Rule          *string  `json:"rule"`
	Severity      string   `json:"severity"`
	Flows         []flow   `json:"flows"`
	Origin        *flow    `json:"origin"`
	Lookups       []string `json:"lookups"`
	SHA256        *string  `json:"sha256"`
	Cwd           string   `json:"cwd"`
	Unit          string   `json:"unit"`
	Container     string   `json:"container"`
	ImageTraits   []string `json:"image_traits"`
	ArgvTruncated bool     `json:"argv_truncated"`
	Learning      bool     `json:"learning"`
}

type flow struct {
	Protocol  string `json:"protocol"`
	Direction string `json:"direction"`
	Local     string `json:"local"`
	Remote    string `json:"remote"`
	Name      string `json:"name"`
	BytesIn   uint64 `json:"bytes_in"`
	BytesOut  uint64 `json:"bytes_out"`
	Opened    stamp  `json:"opened"`
	Closed    stamp  `json:"closed"`
}

type note struct {
	Storyline string    `json:"storyline"`
	Process   *ancestor `json:"process"`
	flow
}

type loss struct {
	Where string `json:"where"`
	Cause string `json:"cause"`
	Count uint64 `json:"count"`
}

type entry struct {
	Index    uint64 `json:"index"`
	Time     stamp  `json:"time"`
	Actor    string `json:"actor"`
	Action   string `json:"action"`
	Subject  string `json:"subject"`
	Detail   string `json:"detail"`
	Previous string `json:"previous"`
	Hash     string `json:"hash"`
}

type incident struct {
	ID           string   `json:"id"`
	Status       string   `json:"status"`
	Severity     string   `json:"severity"`
	Confidence   float64  `json:"confidence"`
	Title        string   `json:"title"`
	Hosts        []string `json:"hosts"`
	Techniques   []string `json:"techniques"`
	FirstSeen    stamp    `json:"first_seen"`
	LastSeen     stamp    `json:"last_seen"`
	Storylines   []string `json:"storylines"`
	Campaign     *string  `json:"campaign"`
	Account      string   `json:"account"`
	Timeline     []moment `json:"timeline"`
	ActionsTaken []string `json:"actions_taken"`
	Recommended  []string `json:"recommended"`
	Limits       []string `json:"limits"`
	Disposition  string   `json:"disposition"`
	ClosedBy     string   `json:"closed_by"`
	CloseReason  string   `json:"close_reason"`
	Edges        []edge   `json:"edges"`
	Findings     []string `json:"findings"` // their ids
}

type moment struct {
	Time    stamp  `json:"time"`
	Host    string `json:"host"`
	Finding string `json:"finding"`
	Text    string `json:"text"`
}

type edge struct {
	From     string `json:"from"`
	To       string `json:"to"`
	Kind     string `json:"kind"`
	Time     stamp  `json:"time"`
	Evidence string `json:"evidence"`
}

func shapeFinding(row *operatorv1.FindingRow) *finding {
	f := row.GetFinding()
	p := f.GetProcess()
	out := &finding{
		ID: f.GetId(), Host: row.GetHost(), Time: stamp(f.GetTime()), Kind: f.GetKind(), Title: f.GetTitle(), Techniques: list(f.GetTechniques()),
		Score: f.GetScore(), Storyline: f.GetStoryline(), Losses: []loss{}, Reason: f.GetReason(),
		Evidence: evidence{
			Rule: text(f.GetRuleId()), Severity: f.GetSeverity(), Flows: []flow{}, Lookups: list(f.GetLookups()), SHA256: text(hex.EncodeToString(p.GetSha256())),
			Cwd: lossless(p.GetCwd()), Unit: p.GetUnit(), Container: p.GetContainer(), ImageTraits: list(p.GetImageTraits()),
			ArgvTruncated: p.GetArgvTruncated(), Learning: f.GetLearning(),
		},
	}
	for _, l := range f.GetLosses() {
		out.Losses = append(out.Losses, loss{l.GetWhere(), l.GetCause(), l.GetCount()})
	}
	for _, one := range f.GetFlows() {
		out.Evidence.Flows = append(out.Evidence.Flows, shapeFlow(one))
	}
	if o := f.GetOrigin(); o != nil {
		origin := shapeFlow(o)
		out.Evidence.Origin = &origin
	}
	if p != nil {
		out.Process = &process{*shapeAncestor(p), []ancestor{}}
		for _, a := range f.GetAncestors() {
			out.Process.Ancestors = append(out.Process.Ancestors, *shapeAncestor(a))
		}
	}
	return out
}

func shapeAncestor(p *sensorv1.Process) *ancestor {
	if p == nil {
		return nil
	}
	a := &ancestor{p.GetPid(), stamp(p.GetStartTime()), lossless(p.GetImage()), []string{}, p.GetUser()}
	if a.User == "" {
		a.User = strconv.FormatUint(uint64(p.GetUid()), 10)
	}
	for _, arg := range p.GetArgv() {
		a.Argv = append(a.Argv, lossless(arg))
	}
	return a
}

func shapeFlow(f *sensorv1.Flow) flow {
	direction, protocol := "out", strconv.FormatUint(uint64(f.GetProtocol()), 10)
	if f.GetInbound() {
		direction = "in"
	}
	switch f.GetProtocol() {
	case 6:
		protocol = "tcp"
	case 17:
		protocol = "udp"
	}
	return flow{protocol, direction, endpoint(f.GetLocal(), f.GetLocalPort()), endpoint(f.GetRemote(), f.GetRemotePort()), f.GetName(),
		f.GetBytesIn(), f.GetBytesOut(), stamp(f.GetOpened()), stamp(f.GetClosed())}
}

func shapeIncident(i *raftv1.Incident) *incident {
	out := &incident{
		i.GetId(), i.GetStatus(), i.GetSeverity(), i.GetConfidence(), i.GetTitle(), list(i.GetHosts()), list(i.GetTechniques()),
		stamp(i.GetFirstSeen()), stamp(i.GetLastSeen()), list(i.GetStorylines()), text(i.GetCampaign()), i.GetAccount(), []moment{},
		list(i.GetActionsTaken()), list(i.GetRecommended()), list(i.GetLimits()), i.GetDisposition(), i.GetClosedBy(), i.GetCloseReason(), []edge{}, list(i.GetFindings()),
	}
	for _, m := range i.GetTimeline() {
		out.Timeline = append(out.Timeline, moment{stamp(m.GetTime()), m.GetHost(), m.GetFinding(), m.GetText()})
	}
	for _, e := range i.GetEdges() {
		out.Edges = append(out.Edges, edge{e.GetFrom(), e.GetTo(), e.GetKind(), stamp(e.GetTime()), e.GetEvidence()})
	}
	return out
}

func list(in []string) []string {
	if in == nil {
		return []string{}
	}
	return in
}

// text is nil for what is not known.
func text(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func endpoint(addr []byte, port uint32) string {
	ip, ok := netip.AddrFromSlice(addr)
	if !ok {
		return ""
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)).String() //nolint:gosec // a port
}

// lossless is docs/cli.md's "bytes that are no text": \xNN for a byte that is not part of
// UTF-8, and \x5c for a backslash that would read as such an escape.
func lossless(raw []byte) string {
	var b strings.Builder
	for i := 0; i < len(raw); {
		r, size := utf8.DecodeRune(raw[i:])
		switch {
		case len(raw)-i >= 4 && raw[i] == '\\' && raw[i+1] == 'x' && isHex(raw[i+2]) && isHex(raw[i+3]):
			b.WriteString(`\x5c`)
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, raw[i])
		default:
			b.Write(raw[i : i+size])
		}
		i += size
	}
	return b.String()
}

func isHex(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }
