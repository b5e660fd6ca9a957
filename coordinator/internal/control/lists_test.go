package control

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/revocation"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// walk reads a list page by page, and says how many pages it had.
func walk(t *testing.T, size uint32, page func(size uint32, token string) ([]string, string, error)) (rows []string, pages int) {
	t.Helper()
	for token := ""; ; {
		got, next, err := page(size, token)
		if err != nil {
			t.Fatalf("page %d of %d rows: %v", pages, size, err)
		}
		rows = append(rows, got...)
		if pages++; next == "" {
			return rows, pages
		}
		if token = next; pages > 1000 {
			t.Fatal("the list does not end")
		}
	}
}

// refusesTokens wants for each token that is none the error that every list has for it.
func refusesTokens(t *testing.T, d *desk, page func(size uint32, token string) ([]string, string, error)) {
	t.Helper()
	for _, token := range []string{"2.!", "!.2", "!"} {
		_, want := d.ListRollOuts(d.ctx, &operatorv1.ListRollOutsRequest{PageToken: token})
		_, _, err := page(0, token)
		if connect.CodeOf(err) != connect.CodeInvalidArgument || want == nil || err.Error() != want.Error() {
			t.Errorf("token %q: got %v, want %v", token, err, want)
		}
	}
}

// Ensure every order to forget is reached over pages, once and newest first, of all hosts and of one, and
// that a token which is none is refused.
func TestPagesOfUnlearns(t *testing.T) {
	d := newDesk(t)
	d.host("h-1", "web", time.Now())
	d.host("h-2", "web", time.Now())
	var all []string
	for i := range store.DefaultPage + 30 {
		now := time.Now()
		u := &sensorv1.Unlearn{Id: fmt.Sprintf("ul-%03d", i), ClusterId: "c-test", Host: "h-1", Subject: []byte("/tmp/x"),
			Operator: "ann", IssuedAt: now.UnixNano(), NotAfter: now.Add(time.Hour).UnixNano(), Reason: "an implant"}
		if i%10 == 0 {
			u.Host = "h-2"
		}
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(u)
		if err != nil {
			t.Fatal(err)
		}
		d.put(&raftv1.Command{Body: &raftv1.Command_LearningOrder{LearningOrder: &raftv1.LearningOrder{
			Body: &raftv1.LearningOrder_Unlearn{Unlearn: &sensorv1.SignedUnlearn{Payload: payload}}}}})
		all = append(all, u.GetId())
	}
	slices.Reverse(all)
	of := func(host string) func(uint32, string) ([]string, string, error) {
		return func(size uint32, token string) (ids []string, next string, err error) {
			res, err := d.ListUnlearns(d.ctx, &operatorv1.ListUnlearnsRequest{Host: host, PageSize: size, PageToken: token})
			for _, row := range res.GetRows() {
				ids = append(ids, row.GetId())
			}
			return ids, res.GetPageToken(), err
		}
	}
	for size, want := range map[uint32]int{0: 2, 7: 19, 65: 2, store.MaxPage: 1} {
		if got, pages := walk(t, size, of("")); !slices.Equal(got, all) || pages != want {
			t.Errorf("by %d: %d orders on %d pages, want %d on %d", size, len(got), pages, len(all), want)
		}
	}
	theirs := slices.DeleteFunc(slices.Clone(all), func(id string) bool { return !strings.HasSuffix(id, "0") })
	if got, pages := walk(t, 5, of("h-2")); !slices.Equal(got, theirs) || pages != 3 {
		t.Errorf("of one host: %q on %d pages, want %q", got, pages, theirs)
	}
	refusesTokens(t, d, of(""))
}

// Ensure a list of one host says when there is no such host, and that one which was removed
// is found by its id.
func TestListsOfNoHost(t *testing.T) {
	d := newDesk(t)
	d.host("h-1", "web", time.Now(), 0.9)
	d.put(&raftv1.Command{Body: &raftv1.Command_RemoveHost{RemoveHost: &raftv1.RemoveHost{Host: "h-1", Reason: "scrapped"}}})
	for name, of := range map[string]func(host string) error{
		"findings": func(host string) error {
			res, err := d.ListFindings(d.ctx, &operatorv1.ListFindingsRequest{Host: host})
			if err == nil && len(res.GetFindings()) == 0 {
				t.Error("the finding is not listed")
			}
			return err
		},
		"isolations": func(host string) error {
			_, err := d.ListIsolations(d.ctx, &operatorv1.ListIsolationsRequest{Host: host})
			return err
		},
		"investigations": func(host string) error {
			_, err := d.ListInvestigations(d.ctx, &operatorv1.ListInvestigationsRequest{Host: host})
			return err
		},
		"drills": func(host string) error {
			_, err := d.ListDrills(d.ctx, &operatorv1.ListDrillsRequest{Host: host})
			return err
		},
	} {
		for _, host := range []string{"h-1", ""} {
			if err := of(host); err != nil {
				t.Errorf("%s of host %q: %v", name, host, err)
			}
		}
		if err := of("web-h-2"); connect.CodeOf(err) != connect.CodeNotFound {
			t.Errorf("%s of a host that is none: got %v, want %v", name, err, connect.CodeNotFound)
		}
	}
}

// Ensure every operator is reached over pages, once and by name, whether seen, revoked or both, that the list of
// who is revoked comes with the first page alone, and that a token which is none is refused.
func TestPagesOfOperators(t *testing.T) {
	d := newDesk(t)
	var all []string
	list := &sensorv1.Revocations{ClusterId: "c-test", Serial: 1, Operator: "ann"}
	for i := range store.DefaultPage + 30 {
		name := fmt.Sprintf("op-%03d", i)
		all = append(all, name)
		if i%3 != 0 {
			d.put(&raftv1.Command{Body: &raftv1.Command_PutOperator{PutOperator: &raftv1.PutOperator{Name: name, Role: "viewer", NotAfter: time.Now().Add(time.Hour).UnixNano()}}})
		}
		if i%3 != 1 {
			list.Operators = append(list.Operators, &sensorv1.RevokedOperator{Name: name, At: 1})
		}
	}
	payload, err := revocation.Encode(list)
	if err != nil {
		t.Fatal(err)
	}
	d.put(&raftv1.Command{Body: &raftv1.Command_PutRevocations{PutRevocations: &raftv1.PutRevocations{
		Signed: &sensorv1.SignedRevocations{Payload: payload, Signature: &sensorv1.Signature{}}, Reason: "left"}}})
	page := func(size uint32, token string) (names []string, next string, err error) {
		res, err := d.ListOperators(d.ctx, &operatorv1.ListOperatorsRequest{PageSize: size, PageToken: token})
		if err == nil && (res.GetRevocations() == nil) != (token != "") {
			t.Errorf("token %q: the list of who is revoked: %v", token, res.GetRevocations())
		}
		for _, row := range res.GetOperators() {
			names = append(names, row.GetName())
		}
		return names, res.GetPageToken(), err
	}
	// Clients that know no pages get as much as one may have.
	for size, want := range map[uint32]int{0: 1, 7: 19, 65: 2, store.MaxPage: 1} {
		if got, pages := walk(t, size, page); !slices.Equal(got, all) || pages != want {
			t.Errorf("by %d: %d operators on %d pages, want %d on %d", size, len(got), pages, len(all), want)
		}
	}
	refusesTokens(t, d, page)
	// Behind a name that is nobody's: who was there when the page before was read.
	token := base64.RawURLEncoding.EncodeToString([]byte("op-0005"))
	if got, _, err := page(1, token); err != nil || !slices.Equal(got, []string{"op-001"}) {
		t.Errorf("behind a name that is nobody's: %q, %v", got, err)
	}
}
