package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Hunt answers as three hosts do: one with everything, one with hostile bytes and little
// left of the past, one that is away.
func (f *fake) Hunt(_ context.Context, r *operatorv1.HuntRequest, stream *connect.ServerStream[operatorv1.HuntResponse]) error {
	if text := r.GetAsk().GetExpression(); text != "" {
		if _, err := hunt.Parse(text); err != nil {
			return connect.NewError(connect.CodeInvalidArgument, err)
		}
	} else if r.GetAsk().GetRule() == "" {
		return connect.NewError(connect.CodeInvalidArgument, errors.New("the hunt asks for nothing"))
	}
	begin := &operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Begun{Begun: &operatorv1.HuntBegun{Id: "hunt-abc", Hosts: 3}}}
	row := &sensorv1.Sighting{Time: at(1), Kind: "process", Type: "exec", Storyline: "10.100", ParentPid: 10, ParentStart: 100, ParentImage: []byte("/usr/sbin/nginx"),
		ParentArgv: [][]byte{[]byte("nginx")}, Process: &sensorv1.Process{Pid: 20, Start: 99, StartTime: at(1), Image: []byte("/usr/bin/nc"), User: "www-data",
			Argv: [][]byte{[]byte("nc"), []byte("-e"), []byte("a b")}, Sha256: []byte{0xab}}}
	evil := &sensorv1.Sighting{Time: at(2), Kind: "dns", Type: "dns", Process: &sensorv1.Process{Pid: 21, Image: []byte("/tmp/\x1b]0;owned\a\xff")},
		Flow:    &sensorv1.Flow{Protocol: 17, Local: []byte{10, 0, 0, 5}, LocalPort: 50000, Remote: []byte{10, 0, 0, 1}, RemotePort: 53},
		Details: []*sensorv1.Detail{{Name: "query", Value: &sensorv1.Detail_Text{Text: []byte("a\x1b[2J.example")}}, {Name: "rcode", Value: &sensorv1.Detail_Number{Number: 3}}, {Name: "response", Value: &sensorv1.Detail_Flag{Flag: true}}}}
	send := func(host, name string, rows ...*sensorv1.Sighting) {
		for _, s := range rows {
			_ = stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Row{Row: &operatorv1.HuntRow{Host: host, HostName: name, Sighting: s}}})
		}
	}
	end := func(h *operatorv1.HuntHost) {
		_ = stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Host{Host: h}})
	}
	_ = stream.Send(begin)
	send("h-web1", "web1", row)
	so := &operatorv1.HuntProgress{Asked: 3, Answered: 2, Failed: 1, Rows: 2, Scanned: 100}
	switch {
	case f.is("hunt breaks"):
		return connect.NewError(connect.CodeUnavailable, errors.New("the node is stopping"))
	case f.is("hunt complete"):
		end(&operatorv1.HuntHost{Host: "h-web1", HostName: "web1", Rows: 1, Answer: &sensorv1.Answer{Done: true, CoveredFrom: 1, ReachesBack: 0}})
		so = &operatorv1.HuntProgress{Asked: 1, Answered: 1, Rows: 1}
	default:
		end(&operatorv1.HuntHost{Host: "h-web1", HostName: "web1", Rows: 1, Answer: &sensorv1.Answer{Done: true, CoveredFrom: at(-60), ReachesBack: at(-60),
			Losses: []*sensorv1.Loss{{Where: "ring:bulk", Cause: "full", Count: 3}}, Untold: []string{"vedette.Known"}, ParentUnknown: 4}})
		send("h-evil", "evil\x1b[2J", evil)
		end(&operatorv1.HuntHost{Host: "h-evil", HostName: "evil\x1b[2J", Rows: 1, Answer: &sensorv1.Answer{Done: true, Limited: "budget", Unwatched: []*sensorv1.Unwatched{{Until: 5}}}})
		end(&operatorv1.HuntHost{Host: "h-app1", HostName: "app1", Code: "away", Error: "the host has no session: it is off, or cut off from the cluster"})
		so.Limited = r.GetMaxRows() == 2
	}
	if strings.HasPrefix(r.GetAsk().GetExpression(), "file") { // a script looks at what was asked
		_ = stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Host{Host: &operatorv1.HuntHost{Host: "x", HostName: "asked", Code: "refused", Error: fmt.Sprintf(
			"since %d until %d rows %d millis %d of %v", r.GetAsk().GetSince(), r.GetAsk().GetUntil(), r.GetMaxRows(), r.GetAsk().GetMaxMillis(), r.GetSelector().GetLabels())}}})
	}
	return stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_End{End: so}})
}
