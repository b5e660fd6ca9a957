// Package shape gives the coordinator's answers the form of the operator's contract:
// the JSON keys that scripts rely on, in docs/cli.md.
//
// Invariant: every key is always there. What is not known is null, what is empty
// is "", [] or {}; a key is never renamed, and new ones are only added.
package shape

import (
	"encoding/hex"
	"encoding/json"
	"net/netip"
	"time"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/proto/nodelist"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Time is Unix nanoseconds, shown as RFC 3339 in UTC; 0 is null.
type Time int64

// MarshalJSON implements json.Marshaler.
func (t Time) MarshalJSON() ([]byte, error) {
	if t == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(t.String())
}

// UnmarshalJSON implements json.Unmarshaler.
func (t *Time) UnmarshalJSON(raw []byte) error {
	var at *time.Time
	if err := json.Unmarshal(raw, &at); err != nil {
		return err
	}
	*t = 0
	if at != nil {
		*t = Time(at.UnixNano())
	}
	return nil
}

// String is RFC 3339 in UTC, or "" for 0.
func (t Time) String() string {
	if t == 0 {
		return ""
	}
	return time.Unix(0, int64(t)).UTC().Format(time.RFC3339Nano)
}

// Host is a row of `host list`.
type Host struct {
	ID               string            `json:"id"`
	Name             string            `json:"name"`
	Address          string            `json:"address"`
	Labels           map[string]string `json:"labels"`
	State            string            `json:"state"`
	Isolation        string            `json:"isolation"`
	LastSeen         Time              `json:"last_seen"`
	SensorVersion    string            `json:"sensor_version"`
	EventsTotal      uint64            `json:"events_total"`
	EventsSuppressed uint64            `json:"events_suppressed"`
	EventsLost       uint64            `json:"events_lost"`
	Baseline         Baseline          `json:"baseline"`
	Blind            bool              `json:"blind"`
	BlindReason      string            `json:"blind_reason"`
	Degraded         []string          `json:"degraded"`
}

// Baseline is what a host has learnt.
type Baseline struct {
	Behaviours uint64  `json:"behaviours"`
	Confidence float64 `json:"confidence"`
	Learning   bool    `json:"learning"`
}

// Loss is a counter of what was not seen, and why.
type Loss struct {
	Where string `json:"where"`
	Cause string `json:"cause"`
	Count uint64 `json:"count"`
}

// FromHost shapes a host.
func FromHost(h *operatorv1.Host) Host {
	labels := h.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	b := h.GetBaseline()
	return Host{
		ID: h.GetId(), Name: h.GetName(), Address: h.GetAddress(), Labels: labels, State: h.GetState(),
		Isolation: h.GetIsolation(), LastSeen: Time(h.GetLastSeen()), SensorVersion: h.GetSensorVersion(),
		EventsTotal: h.GetEventsTotal(), EventsSuppressed: h.GetEventsSuppressed(), EventsLost: h.GetEventsLost(),
		Baseline: Baseline{b.GetBehaviours(), b.GetConfidence(), b.GetLearning()},
		Blind:    h.GetState() == "blind", BlindReason: h.GetHealth().GetBlindReason(), Degraded: list(h.GetHealth().GetDegraded()),
	}
}

// HostDetail is what `host show` adds.
type HostDetail struct {
	Host
	EnrolledAt   Time        `json:"enrolled_at"`
	Node         string      `json:"node"`
	OS           string      `json:"os"`
	Kernel       string      `json:"kernel"`
	Arch         string      `json:"arch"`
	Scope        string      `json:"scope"`
	Addresses    []string    `json:"addresses"`
	CoverageGaps []string    `json:"coverage_gaps"`
	Coverage     []string    `json:"coverage"` // the same, by the name of the contract
	Ended        string      `json:"ended"`
	EndedDetail  string      `json:"ended_detail"`
	TwoPlaces    string      `json:"two_places"`
	Losses       []Loss      `json:"losses"`
	Health       Health      `json:"health"`
	Behaviours   []Behaviour `json:"behaviours"`
}

// Health is what a sensor says of itself.
type Health struct {
	RSSBytes       uint64 `json:"rss_bytes"`
	CPUNs          uint64 `json:"cpu_ns"`
	SpoolBytes     uint64 `json:"spool_bytes"`
	SpoolRecords   uint64 `json:"spool_records"`
	DroppedRecords uint64 `json:"dropped_records"`
	KnownBehaviour uint64 `json:"behaviours_known"`
}

// Behaviour is one behaviour of a host.
type Behaviour struct {
	Kind      string `json:"kind"`
	Subject   string `json:"subject"`
	Object    string `json:"object"`
	Count     uint64 `json:"count"`
	FirstSeen Time   `json:"first_seen"`
	LastSeen  Time   `json:"last_seen"`
	Hosts     uint64 `json:"hosts"`
	Known     bool   `json:"known"`
}

// Gaps are what the sensor cannot see there, from its facts and its latest health.
func Gaps(h *operatorv1.Host) []string {
	gaps := list(h.GetHealth().GetCoverageGaps())
	if len(gaps) == 0 {
		gaps = list(h.GetFacts().GetCoverageGaps())
	}
	return gaps
}

// FromHostDetail shapes one host with its newest behaviours.
func FromHostDetail(res *operatorv1.GetHostResponse) HostDetail {
	h := res.GetHost()
	facts, health := h.GetFacts(), h.GetHealth()
	d := HostDetail{
		Host: FromHost(h), EnrolledAt: Time(h.GetEnrolledAt()), Node: h.GetNode(), OS: facts.GetOs(),
		Kernel: facts.GetKernel(), Arch: facts.GetArch(), Scope: facts.GetScope(), Addresses: list(facts.GetAddresses()),
		CoverageGaps: Gaps(h), Coverage: Gaps(h), Ended: h.GetEnded(), EndedDetail: h.GetEndedDetail(), TwoPlaces: h.GetTwoPlaces(), Losses: Losses(h.GetLosses()),
		Health: Health{
			health.GetRssBytes(), health.GetCpuNs(), health.GetSpoolBytes(), health.GetSpoolRecords(),
			health.GetDroppedRecords(), h.GetBaseline().GetKnown(),
		},
		Behaviours: []Behaviour{},
	}
	for _, row := range res.GetBehaviours() {
		b := row.GetBehaviour()
		d.Behaviours = append(d.Behaviours, Behaviour{
			Kind(b.GetKind()), output.Lossless(b.GetSubject()), output.Lossless(b.GetObject()),
			row.GetCount(), Time(b.GetFirstSeen()), Time(row.GetLastSeen()), row.GetHosts(), row.GetKnown(),
		})
	}
	return d
}

// Kind names a behaviour's kind.
func Kind(k sensorv1.BehaviourKind) string {
	switch k {
	case sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC:
		return "exec"
	case sensorv1.BehaviourKind_BEHAVIOUR_KIND_FLOW:
		return "flow"
	case sensorv1.BehaviourKind_BEHAVIOUR_KIND_LOOKUP:
		return "lookup"
	case sensorv1.BehaviourKind_BEHAVIOUR_KIND_FILE:
		return "file"
	case sensorv1.BehaviourKind_BEHAVIOUR_KIND_PRIVILEGE:
		return "privilege"
	default:
		return "unknown"
	}
}

// Losses shapes loss counters.
func Losses(in []*sensorv1.Loss) []Loss {
	out := make([]Loss, 0, len(in))
	for _, l := range in {
		out = append(out, Loss{l.GetWhere(), l.GetCause(), l.GetCount()})
	}
	return out
}

// Audit is a row of `audit list`. It carries all that an entry's hash covers, so
// that an exported list can be verified without a cluster.
type Audit struct {
	Index    uint64 `json:"index"`
	Time     Time   `json:"time"`
	Actor    string `json:"actor"`
	Action   string `json:"action"`
	Subject  string `json:"subject"`
	Detail   string `json:"detail"`
	Previous string `json:"previous"`
	Hash     string `json:"hash"`
}

// FromAudit shapes an audit entry.
func FromAudit(e *operatorv1.AuditEntry) Audit {
	return Audit{
		e.GetIndex(), Time(e.GetTime()), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(),
		hex.EncodeToString(e.GetPrevious()), hex.EncodeToString(e.GetHash()),
	}
}

// Entry is the inverse of FromAudit.
func (a Audit) Entry() (*operatorv1.AuditEntry, error) {
	previous, err := hex.DecodeString(a.Previous)
	if err != nil {
		return nil, err
	}
	hash, err := hex.DecodeString(a.Hash)
	if err != nil {
		return nil, err
	}
	return &operatorv1.AuditEntry{
		Index: a.Index, Time: int64(a.Time), Actor: a.Actor, Action: a.Action, Subject: a.Subject,
		Detail: a.Detail, Previous: previous, Hash: hash,
	}, nil
}

// Member is a row of `cluster members`.
type Member struct {
	ID              string `json:"id"`
	Address         string `json:"address"`
	OperatorAddress string `json:"operator_address"`
	Role            string `json:"role"`
	State           string `json:"state"`
	AppliedIndex    uint64 `json:"applied_index"`
	LastContact     Time   `json:"last_contact"`
	Signed          bool   `json:"signed"`

	// What the node says of itself; null when it does not.
	Version         *string  `json:"version"`
	Ready           *bool    `json:"ready"`
	NotReady        []string `json:"not_ready"`
	ClockOffset     *float64 `json:"clock_offset_seconds"`
	DiskFree        *uint64  `json:"disk_free_bytes"`
	DiskTotal       *uint64  `json:"disk_bytes"`
	CertificateEnds Time     `json:"certificate_ends"`
}

// FromMember shapes a node of the cluster; signed is the signed list, nil for none.
func FromMember(m *operatorv1.Member, signed *sensorv1.NodeAddresses) Member {
	out := Member{
		ID: m.GetId(), Address: m.GetAddress(), OperatorAddress: m.GetOperatorAddress(), Role: m.GetRole(), State: m.GetState(),
		AppliedIndex: m.GetAppliedIndex(), LastContact: Time(m.GetLastContact()), Signed: nodelist.Covers(signed, m.GetId(), m.GetAddress()),
		Version: text(m.GetVersion()), NotReady: list(m.GetNotReady()), CertificateEnds: Time(m.GetCertificateEnds()),
	}
	if m.GetVersion() == "" {
		return out
	}
	ready, offset := len(m.GetNotReady()) == 0, time.Duration(m.GetClockOffset()).Seconds()
	out.Ready, out.ClockOffset = &ready, &offset
	if free, total := m.GetDiskFree(), m.GetDiskTotal(); total > 0 {
		out.DiskFree, out.DiskTotal = &free, &total
	}
	return out
}

// SignedNodes is `cluster sign-nodes`.
type SignedNodes struct {
	SignedAt Time          `json:"signed_at"`
	Operator string        `json:"operator"`
	Expires  Time          `json:"expires"`
	Nodes    []NodeAddress `json:"nodes"`
}

// NodeAddress is an address of a signed list.
type NodeAddress struct {
	ID      string `json:"id"`
	Address string `json:"address"`
}

// FromSignedNodes shapes a signed list.
func FromSignedNodes(l *sensorv1.NodeAddresses) SignedNodes {
	out := SignedNodes{Time(nodelist.Signed(l).UnixNano()), l.GetOperator(), Time(l.GetNotAfter()), []NodeAddress{}}
	for _, n := range l.GetNodes() {
		out.Nodes = append(out.Nodes, NodeAddress{n.GetId(), n.GetAddress()})
	}
	return out
}

// Status is `status`.
type Status struct {
	Cluster       string   `json:"cluster_id"`
	Node          string   `json:"node_id"`
	Leader        *string  `json:"leader_id"`
	Version       string   `json:"version"`
	AppliedIndex  uint64   `json:"applied_index"`
	Hosts         uint64   `json:"hosts"`
	HostsSilent   uint64   `json:"hosts_silent"`
	FindingsDay   uint64   `json:"findings_day"`
	IncidentsOpen uint64   `json:"incidents_open"`
	Isolated      uint64   `json:"isolated"`
	Members       []Member `json:"members"`
	Problems      []string `json:"problems"`
	Time          Time     `json:"time"`
	HostsBlind    uint64   `json:"hosts_blind"`
	HostsStopped  uint64   `json:"hosts_stopped"`
	NodesSigned   Time     `json:"nodes_signed_at"`
	NodesExpire   Time     `json:"nodes_expire"`
	Drills        Coverage `json:"drills"`
	// Hosts whose newest order to isolate or release failed or was refused, and that have not answered one.
	IsolationsFailed  uint64 `json:"isolations_failed"`
	IsolationsPending uint64 `json:"isolations_pending"`
}

// FromStatus shapes a status; signed is the signed list of nodes, nil for none.
func FromStatus(s *operatorv1.GetStatusResponse, signed *sensorv1.NodeAddresses) Status {
	out := Status{
		s.GetClusterId(), s.GetNodeId(), text(s.GetLeaderId()), s.GetVersion(), s.GetAppliedIndex(), s.GetHosts(), s.GetHostsSilent(),
		s.GetFindingsDay(), s.GetIncidentsOpen(), s.GetIsolated(), []Member{}, list(s.GetProblems()), Time(s.GetTime()),
		s.GetHostsBlind(), s.GetHostsStopped(), 0, Time(signed.GetNotAfter()), FromCoverage(s.GetDrills()),
		s.GetIsolationsFailed(), s.GetIsolationsPending(),
	}
	if signed != nil {
		out.NodesSigned = Time(nodelist.Signed(signed).UnixNano())
	}
	for _, m := range s.GetMembers() {
		out.Members = append(out.Members, FromMember(m, signed))
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

// Endpoint renders an address of a flow as host:port, or [host]:port for IPv6.
func Endpoint(addr []byte, port uint32) string {
	ip, ok := netip.AddrFromSlice(addr)
	if !ok {
		return ""
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)).String()
}
