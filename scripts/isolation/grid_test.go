package main

import (
	"strings"
	"testing"
)

// Ensure that what leaked, what proves nothing and what could not be sent is never
// ok, however the lines around it look.
func TestRows(t *testing.T) {
	const said = `=== RUN   TestMeasure
ISOLATION-ROW {"path":"cut","phase":"apply","sent":10,"before":5,"leaked":0}
sensor/internal/respond/isolation: ISOLATION-ROW {"path":"leak","phase":"apply","sent":10,"before":5,"leaked":1}` + "\r" + `
ISOLATION-ROW {"path":"no path","phase":"apply","sent":10,"before":0,"leaked":0}
ISOLATION-ROW {"path":"not sent","phase":"apply","sent":0,"before":5,"leaked":0}
ISOLATION-ROW {"path":"broken","phase":"apply","sent":10,"before":5,"leaked":0,"error":"EINVAL"}
ISOLATION-ROW {"path":"no driver","phase":"apply","lacks":"operation not supported"}
ISOLATION-ROW {"path":"in time","phase":"nft flushed","unit":"ms","value":999,"most":1000}
ISOLATION-ROW {"path":"late","phase":"apply","unit":"ms","value":50.1,"most":50}
ISOLATION-ROW {"path":"half
--- PASS: TestMeasure (1.00s)
    churn_test.go:10: 5 rounds
--- PASS: TestGood (1.00s)
    churn_test.go:11: one leaked
--- FAIL: TestBad (1.00s)
    --- PASS: TestBad/part (1.00s)
    dhcp_test.go:12: SKIP: needs busybox
--- SKIP: TestSkipped (1.00s)
`
	g := newGrid("")
	if err := g.read(strings.NewReader(said)); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{
		"cut / apply": true, "leak / apply": false, "no path / apply": false, "not sent / apply": false,
		"broken / apply": false, "no driver / apply": true, "in time / nft flushed": true, "late / apply": false,
		"a row that cannot be read": false, "TestGood": true, "TestBad": false, "TestSkipped": true,
	}
	for _, row := range g.rows() {
		ok, known := want[row.Name]
		if !known || ok != row.OK {
			t.Errorf("%s: got ok %t (%s), want %t", row.Name, row.OK, row.Note, ok)
		}
		delete(want, row.Name)
	}
	if len(want) > 0 {
		t.Errorf("no rows: %v", want)
	}
	var out strings.Builder
	if err := g.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"1 NO", "? NO", "999.0 ms", "50.1 ms NO", "SKIP", "GUEST=6.12", "FAIL TestBad"} {
		if !strings.Contains(out.String(), text) {
			t.Errorf("the matrix does not say %q:\n%s", text, out.String())
		}
	}
}
