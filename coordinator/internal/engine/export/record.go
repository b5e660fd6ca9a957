package export

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// maxRecord bounds a record's JSON: brokers take a MiB unless told otherwise. A larger one
// goes without its long lists, and says so.
const maxRecord = 512 << 10

// schema is the number of the records' form: it changes when a key's meaning does.
const schema = 1

// Record is one that a sink takes.
type Record struct {
	// ID is the same from every leader: who has had it, drops it.
	ID string
	// Kind is findings, incidents, audit or flows.
	Kind string
	// Key is what keeps its order: a host, an incident, or the cluster.
	Key string
	// Time is Unix ns.
	Time int64
	// Version of what has the key; of two records of an incident the larger is the newer.
	Version int64
	// What a table has columns for.
	Host, HostName, Severity, Class, Subject, Title string
	// Cluster is whose it is, and JSON the record as a document.
	Cluster string
	JSON    []byte
}

// document is a record's JSON. Of the last four the one that type names is not null.
type document struct {
	ID        string    `json:"id"`
	Type      string    `json:"type"`
	Schema    int       `json:"schema"`
	Cluster   string    `json:"cluster"`
	Time      stamp     `json:"time"`
	Host      string    `json:"host"`
	HostName  string    `json:"host_name"`
	Truncated bool      `json:"truncated"`
	Finding   *finding  `json:"finding"`
	Incident  *incident `json:"incident"`
	Audit     *entry    `json:"audit"`
	Flow      *note     `json:"flow"`
}

// stamp is Unix ns, shown as RFC 3339 in UTC; 0 is null.
type stamp int64

// MarshalJSON implements json.Marshaler.
func (s stamp) MarshalJSON() ([]byte, error) {
	if s == 0 {
		return []byte("null"), nil
	}
	return json.Marshal(time.Unix(0, int64(s)).UTC().Format(time.RFC3339Nano))
}

func (r Record) with(cluster string, kind string, fill func(d *document, short bool)) (Record, error) {
	r.Cluster = cluster
	for _, short := range []bool{false, true} {
		d := document{ID: r.ID, Type: kind, Schema: schema, Cluster: cluster, Time: stamp(r.Time), Host: r.Host, HostName: r.HostName, Truncated: short}
		fill(&d, short)
		raw, err := json.Marshal(d)
		if err != nil {
			return r, fmt.Errorf("encoding %s: %w", r.ID, err)
		}
		if r.JSON = raw; len(raw) <= maxRecord {
			return r, nil
		}
	}
	// Longer than all that the state's own bounds allow: say at least that it is.
	raw, err := json.Marshal(document{ID: r.ID, Type: kind, Schema: schema, Cluster: cluster, Time: stamp(r.Time), Host: r.Host, Truncated: true})
	r.JSON = raw
	return r, err
}

func ofFinding(cluster string, row *operatorv1.FindingRow) (Record, error) {
	f := row.GetFinding()
	r := Record{ID: "finding/" + f.GetId(), Kind: Findings, Key: row.GetHost(), Time: f.GetTime(), Host: row.GetHost(), HostName: row.GetHostName(),
		Severity: f.GetSeverity(), Class: f.GetKind(), Subject: f.GetId(), Title: f.GetTitle()}
	return r.with(cluster, "finding", func(d *document, short bool) {
		d.Finding = shapeFinding(row)
		if short {
			d.Finding.Evidence.Flows, d.Finding.Evidence.Lookups, d.Finding.Losses = []flow{}, []string{}, []loss{}
			if p := d.Finding.Process; p != nil {
				p.Argv, p.Ancestors, d.Finding.Evidence.ArgvTruncated = []string{}, []ancestor{}, true
			}
		}
	})
}

func ofIncident(cluster string, in store.ChangedIncident) (Record, error) {
	// The entry's time is in it, as a restored cluster counts entries again from where its
	// backup ended.
	r := Record{ID: fmt.Sprintf("incident/%s/%d.%d", in.GetId(), in.Index, in.At), Kind: Incidents, Key: in.GetId(), Time: in.At, Version: in.Index,
		Severity: in.GetSeverity(), Class: in.GetStatus(), Subject: in.GetId(), Title: in.GetTitle()}
	if r.Time == 0 {
		r.Time = in.GetLastSeen()
	}
	if len(in.GetHosts()) == 1 {
		r.Host = in.GetHosts()[0]
	}
	return r.with(cluster, "incident", func(d *document, short bool) {
		body := in.Incident
		if short {
			body = proto.Clone(in.Incident).(*raftv1.Incident) //nolint:forcetypeassert // a clone's type is its origin's
			body.Timeline, body.Edges, body.Findings, body.Storylines = nil, nil, nil, nil
		}
		d.Incident = shapeIncident(body)
	})
}

func ofAudit(cluster string, e *operatorv1.AuditEntry) (Record, error) {
	// Its hash says which it is, as in a restored cluster another entry has its number.
	r := Record{ID: fmt.Sprintf("audit/%d/%.16s", e.GetIndex(), hex.EncodeToString(e.GetHash())), Kind: Audit, Key: cluster, Time: e.GetTime(),
		Version: int64(e.GetIndex()), Class: e.GetAction(), Subject: e.GetSubject(), Title: e.GetDetail()} //nolint:gosec // an index of the audit
	return r.with(cluster, "audit", func(d *document, _ bool) {
		d.Audit = &entry{e.GetIndex(), stamp(e.GetTime()), e.GetActor(), e.GetAction(), e.GetSubject(), e.GetDetail(),
			hex.EncodeToString(e.GetPrevious()), hex.EncodeToString(e.GetHash())}
	})
}

func ofFlow(cluster string, row *store.NumberedFlow) (Record, error) {
	r := Record{ID: fmt.Sprintf("flow/%s/%d.%d.%d", row.Host, row.Index, row.N, row.Time), Kind: Flows, Key: row.Host, Time: row.Time, Host: row.Host, HostName: row.HostName,
		Class: "flow", Subject: row.Note.GetStoryline(), Title: endpoint(row.Note.GetFlow().GetRemote(), row.Note.GetFlow().GetRemotePort())}
	return r.with(cluster, "flow", func(d *document, short bool) {
		d.Flow = &note{Storyline: row.Note.GetStoryline(), Process: shapeAncestor(row.Note.GetProcess()), flow: shapeFlow(row.Note.GetFlow())}
		if short && d.Flow.Process != nil {
			d.Flow.Process.Argv = []string{}
		}
	})
}

// row is a record as a line of a table, the whole document in its last column. Numbers are
// written as text where a reader of JSON might round them.
type row struct {
	ID       string `json:"id"`
	Type     string `json:"type"`
	Time     string `json:"time"` // Unix ns
	Version  string `json:"version"`
	Cluster  string `json:"cluster"`
	Host     string `json:"host"`
	HostName string `json:"host_name"`
	Kind     string `json:"kind"`
	Severity string `json:"severity"`
	Subject  string `json:"subject"`
	Title    string `json:"title"`
	Raw      string `json:"raw"`
}

// types are the kinds as one record is called.
var types = map[string]string{Findings: "finding", Incidents: "incident", Audit: "audit", Flows: "flow"}

func (r Record) row() row {
	return row{r.ID, types[r.Kind], strconv.FormatInt(r.Time, 10), strconv.FormatInt(r.Version, 10), r.Cluster, r.Host, r.HostName, r.Class, r.Severity, r.Subject, r.Title, string(r.JSON)}
}
