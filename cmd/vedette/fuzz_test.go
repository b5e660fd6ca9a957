package main

import (
	"bytes"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/audit"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// FuzzExport reads any file as an export of the audit: it breaks off with a reason, or its entries are
// a chain whose last hash is that of a record that says the same.
func FuzzExport(f *testing.F) {
	var lines bytes.Buffer
	var rows []shape.Audit
	for _, e := range fixedAudit() {
		rows = append(rows, shape.FromAudit(e))
		if err := json.NewEncoder(&lines).Encode(rows[len(rows)-1]); err != nil {
			f.Fatal(err)
		}
	}
	array, err := json.MarshalIndent(rows, "", "  ")
	if err != nil {
		f.Fatal(err)
	}
	good := hex.EncodeToString(fixedAudit()[len(rows)-1].GetHash())
	for _, seed := range []string{lines.String(), string(array), string(array[:len(array)/2]), lines.String()[:lines.Len()-9], "", " \n[]", "[", "{}", "null", "[1]", `{"index":1e30}`,
		strings.Replace(lines.String(), `"index":2`, `"index":3`, 1), strings.Repeat("[", 20_000)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		n := 0
		for e, err := range exported(bytes.NewReader(raw)) {
			if (e == nil) == (err == nil) {
				t.Fatalf("entry %v and %v", e, err)
			}
			if n++; n > len(raw) {
				t.Fatal("more entries than bytes")
			}
		}
		chain, err := client.VerifyAudit(exported(bytes.NewReader(raw)))
		if err == nil && hex.EncodeToString(chain.Head) == good && int(chain.To) != len(rows) { //nolint:gosec // a few
			t.Errorf("entries %d to %d end as %d others do", chain.From, chain.To, len(rows))
		}
	})
}

// FuzzReceipt reads any file as a receipt of the audit: it is refused, or is what somebody of its authority signed.
func FuzzReceipt(f *testing.F) {
	ca := linktest.NewCA(f)
	cert := ca.IssueBetween(link.KindOperator, "ann", "admin", time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
	c := &raftv1.Checkpoint{ClusterId: linktest.Cluster, Node: "operator:ann", Index: 7, Hash: audit.Genesis(), Time: time.Now().UnixNano()}
	if err := audit.SignCheckpoint(cert.PrivateKey.(crypto.Signer), cert.Certificate, c); err != nil {
		f.Fatal(err)
	}
	signed := receipt{ClusterID: c.GetClusterId(), By: c.GetNode(), Index: c.GetIndex(), Hash: hex.EncodeToString(c.GetHash()), Time: stamp(c.GetTime()),
		Signature: c.GetSignature(), Chain: c.GetChain(), Authority: ca.Certificate.Raw, Nodes: 3}
	good, err := json.Marshal(signed)
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range [][]byte{good, good[:len(good)/2], []byte("{}"), []byte("null"), nil, bytes.Replace(good, []byte(`"index":7`), []byte(`"index":8`), 1),
		bytes.Replace(good, []byte(`"chain":[`), []byte(`"chain":["",`), 1), []byte(`{"authority":"AA=="}`)} {
		f.Add(seed)
	}
	path := filepath.Join(f.TempDir(), "receipt.json")
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := readReceipt(path)
		if err != nil || !bytes.Equal(r.Authority, ca.Certificate.Raw) {
			return // of another authority: a person compares its name, and a fuzzer could make one
		}
		if r.Index != signed.Index || r.Hash != signed.Hash || r.By != signed.By || r.Time != signed.Time || r.ClusterID != signed.ClusterID {
			t.Errorf("taken: %+v", r)
		}
	})
}

// FuzzRun reads anything as what a sensor's program says of a run of drills: it is refused, or can be
// shown and kept.
func FuzzRun(f *testing.F) {
	for _, seed := range []string{
		`{"host":"h-1","nonce":"0badc0de","program":"/x","began":"2026-01-31T09:00:00Z","ended":"2026-01-31T09:01:00Z","drills":[
			{"id":"cron-entry","mark":"vdrill-0badc0de.cron-entry","state":"done","clean":true},{"id":"","state":"skipped","why":"\u0000","left":["\ud800"]}]}`,
		`{}`, `null`, `{"drills":null}`, `{"drills":[null]}`, `{"began":"0000-01-01T00:00:00Z","ended":"9999-12-31T23:59:59Z","drills":[{"ended":"0001-01-01T00:00:00Z"}]}`, `[`, ``,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		var run drill.Run
		if json.Unmarshal(raw, &run) != nil {
			return
		}
		all := judged(&run)
		for _, d := range all {
			d.decide()
			if _, err := json.Marshal(d.shape()); err != nil {
				t.Errorf("drill %q cannot be shown: %v", d.ID, err)
			}
		}
		for _, r := range kept(all) {
			if problem := drill.CheckResult(r, 1<<20); problem == "" && r.GetTime() <= 0 {
				t.Errorf("kept: %v", r)
			}
		}
	})
}
