package control

import (
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/nodelist"
	operators "github.com/vedette-edr/vedette/proto/operator"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func (d *desk) list(change func(*sensorv1.NodeAddresses)) *sensorv1.SignedNodes {
	d.t.Helper()
	now := d.cfg.Now()
	l := &sensorv1.NodeAddresses{ClusterId: "c-test", Serial: uint64(now.UnixNano()), NotAfter: now.Add(time.Hour).UnixNano(), Operator: "ann",
		Nodes: []*sensorv1.NodeAddress{{Id: "n1", Address: "10.0.0.1:7443"}}}
	change(l)
	signed, err := nodelist.Sign(d.key, d.chain, l)
	if err != nil {
		d.t.Fatal(err)
	}
	return signed
}

// Ensure only what an admin signed gets into the log, once, and by that admin.
func TestPutSignedNodes(t *testing.T) {
	d := newDesk(t)
	put := func(signed *sensorv1.SignedNodes) connect.Code {
		_, err := d.PutSignedNodes(d.ctx, &operatorv1.PutSignedNodesRequest{Signed: signed})
		if err == nil {
			return 0
		}
		return connect.CodeOf(err)
	}
	same := func(*sensorv1.NodeAddresses) {}
	good := d.list(same)
	forged := d.list(same)
	forged.Payload = d.list(func(l *sensorv1.NodeAddresses) { l.Nodes[0].Address = "10.0.0.66:7443" }).GetPayload()
	for _, tt := range []struct {
		name   string
		signed *sensorv1.SignedNodes
		want   connect.Code
	}{
		{"nothing", nil, connect.CodeInvalidArgument},
		{"forged", forged, connect.CodePermissionDenied},
		{"another's name", d.list(func(l *sensorv1.NodeAddresses) { l.Operator = "bob" }), connect.CodePermissionDenied},
		{"another cluster", d.list(func(l *sensorv1.NodeAddresses) { l.ClusterId = "c-other" }), connect.CodePermissionDenied},
		{"ended", d.list(func(l *sensorv1.NodeAddresses) { l.Serial, l.NotAfter = 1, 2 }), connect.CodeInvalidArgument},
		{"good", good, 0},
		{"again", good, 0}, // its answer may have been lost
		{"older", d.list(func(l *sensorv1.NodeAddresses) { l.Serial -= uint64(time.Minute) }), connect.CodeFailedPrecondition},
	} {
		if got := put(tt.signed); got != tt.want {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
	}
	bob := context.WithValue(t.Context(), operatorKey{}, link.Peer{Cluster: "c-test", Kind: link.KindOperator, ID: "bob", Role: operators.RoleAdmin})
	_, err := d.PutSignedNodes(bob, &operatorv1.PutSignedNodesRequest{Signed: d.list(same)})
	if connect.CodeOf(err) != connect.CodePermissionDenied {
		t.Errorf("submitted by another admin: %v", err)
	}
	res, err := d.cfg.DB.SignedNodes(t.Context())
	if err != nil || !proto.Equal(res, good) {
		t.Errorf("%v is in force, %v", res, err)
	}
}

func TestNodesProblem(t *testing.T) {
	d, now := newDesk(t), time.Now()
	year := func(l *sensorv1.NodeAddresses) { l.NotAfter = now.Add(300 * 24 * time.Hour).UnixNano() }
	member := func(id, address string) *operatorv1.Member { return &operatorv1.Member{Id: id, Address: address} }
	for _, tt := range []struct {
		name    string
		signed  *sensorv1.SignedNodes
		members []*operatorv1.Member
		want    string
	}{
		{"none was signed", nil, []*operatorv1.Member{member("n1", "10.0.0.1:7443")}, ""},
		{"all are on it", d.list(year), []*operatorv1.Member{member("n1", "10.0.0.1:7443")}, ""},
		{"the members are not known", d.list(year), nil, ""},
		{"one was added", d.list(year), []*operatorv1.Member{member("n1", "10.0.0.1:7443"), member("n2", "10.0.0.2:7443")}, "does not name n2 (10.0.0.2:7443)"},
		{"one has moved", d.list(year), []*operatorv1.Member{member("n1", "10.0.0.9:7443")}, "does not name n1"},
		{"one was removed", d.list(func(l *sensorv1.NodeAddresses) {
			year(l)
			l.Nodes = append(l.Nodes, &sensorv1.NodeAddress{Id: "n2", Address: "10.0.0.2:7443"})
		}), []*operatorv1.Member{member("n1", "10.0.0.1:7443")}, "names n2 (10.0.0.2:7443), no member"},
		{"it ends soon", d.list(func(*sensorv1.NodeAddresses) {}), []*operatorv1.Member{member("n1", "10.0.0.1:7443")}, "ends at"},
		{"it has ended", d.list(func(l *sensorv1.NodeAddresses) { l.Serial, l.NotAfter = 1, 2 }), nil, "ended at"},
	} {
		got := nodesProblem(tt.signed, tt.members, now)
		if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
		if got != "" && !strings.Contains(got, "vedette cluster sign-nodes") {
			t.Errorf("%s: it does not say what to do: %q", tt.name, got)
		}
	}
}
