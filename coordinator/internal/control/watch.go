package control

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// entry is one committed command on its way to a watcher.
type entry struct {
	cmd *raftv1.Command
	res *raftv1.Result
}

// watcher turns entries into what a person sees. It belongs to one request.
type watcher struct {
	server *Server
	// host limits to one host's id; empty: all.
	host    string
	queue   chan entry
	dropped atomic.Uint64
	names   map[string]string // host id → name
}

// droppedEvery is how often a watcher that missed something is told.
const droppedEvery = time.Second

// Watch implements the service. A watcher that does not read is told what it
// missed, in number; it slows nobody else.
func (s *Server) Watch(ctx context.Context, r *operatorv1.WatchRequest, stream *connect.ServerStream[operatorv1.WatchResponse]) error {
	if s.watchers.Add(1) > int64(s.cfg.MaxWatchers) {
		s.watchers.Add(-1)
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("this node has %d watchers already: watch at another node", s.cfg.MaxWatchers))
	}
	defer s.watchers.Add(-1)
	w := &watcher{server: s, queue: make(chan entry, s.cfg.WatchBuffer), names: make(map[string]string)}
	if r.GetHost() != "" {
		host, err := s.cfg.DB.Host(ctx, r.GetHost())
		if err != nil {
			return readError(err)
		}
		w.host = host.GetId()
	}
	// The answer begins at once, so that the caller knows that it is followed.
	if err := stream.Send(nil); err != nil {
		return err
	}
	cancel := s.cfg.Log.Subscribe(w.committed)
	defer cancel()
	told := time.NewTicker(droppedEvery)
	defer told.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-w.queue:
			if err := w.show(ctx, e, stream.Send); err != nil {
				if ctx.Err() != nil || errors.Is(err, context.Canceled) {
					return nil
				}
				return err
			}
		case <-told.C:
			if err := s.stillMay(ctx); err != nil {
				return err
			}
			if n := w.dropped.Swap(0); n > 0 {
				if err := stream.Send(&operatorv1.WatchResponse{Time: s.cfg.Now().UnixNano(), Body: &operatorv1.WatchResponse_HostChange{
					HostChange: &operatorv1.HostChange{Change: "dropped", Detail: fmt.Sprintf("%s not shown: this watcher read too slowly; the lists have all of them", verb(n, "entry was", "entries were"))}}}); err != nil {
					return err
				}
			}
		}
	}
}

// committed runs after every entry that this node applies, with a nil command
// when some were missed. It never blocks.
func (w *watcher) committed(_ uint64, cmd *raftv1.Command, res *raftv1.Result) {
	if res.GetRejected() != "" {
		return
	}
	if cmd == nil {
		w.dropped.Add(1)
		w.server.dropped.Add(1)
		return
	}
	select {
	case w.queue <- entry{cmd, res}:
	default:
		w.dropped.Add(1)
		w.server.dropped.Add(1)
	}
}

type sender func(*operatorv1.WatchResponse) error

// show sends what an entry means to a watcher.
func (w *watcher) show(ctx context.Context, e entry, send sender) error {
	switch body := e.cmd.GetBody().(type) {
	case *raftv1.Command_Ingest:
		stored := make(map[string]bool, len(e.res.GetAcks()))
		for _, ack := range e.res.GetAcks() {
			stored[ack.GetHost()] = !ack.GetGap()
		}
		for _, b := range body.Ingest.GetBatches() {
			if stored[b.GetHost()] {
				if err := w.showBatch(ctx, b, send); err != nil {
					return err
				}
			}
		}
		return nil
	case *raftv1.Command_ConsumeToken:
		if body.ConsumeToken.GetKind() != sensorv1.EnrollKind_ENROLL_KIND_SENSOR {
			return nil
		}
		w.names[body.ConsumeToken.GetId()] = body.ConsumeToken.GetFacts().GetName()
		return w.change(ctx, e.cmd, body.ConsumeToken.GetId(), "enrolled", "token "+body.ConsumeToken.GetTokenId(), send)
	case *raftv1.Command_HostSession:
		return w.began(ctx, e.cmd, body.HostSession, send)
	case *raftv1.Command_BeginSessions:
		for i, session := range body.BeginSessions.GetSessions() {
			if e.res.GetSessions()[i].GetRejected() != "" {
				continue
			}
			if err := w.began(ctx, e.cmd, session, send); err != nil {
				return err
			}
		}
		return nil
	case *raftv1.Command_SessionsEnded:
		return w.ended(ctx, e.cmd, body.SessionsEnded, send)
	case *raftv1.Command_RaiseSilence:
		f := body.RaiseSilence.GetFinding()
		for _, silent := range body.RaiseSilence.GetHosts() {
			if err := w.change(ctx, e.cmd, silent.GetHost(), "silent", "finding "+f.GetId(), send); err != nil {
				return err
			}
		}
		return w.finding(ctx, e.cmd, f.GetId(), send)
	case *raftv1.Command_PutIncident:
		return w.incident(ctx, e.cmd, body.PutIncident.GetIncident().GetId(), send)
	case *raftv1.Command_CloseIncident:
		return w.incident(ctx, e.cmd, body.CloseIncident.GetId(), send)
	case *raftv1.Command_RequestResponse:
		return w.isolations(ctx, e.cmd.GetTime(), body.RequestResponse.GetDecoded().GetOperation(), "", send)
	case *raftv1.Command_ApproveOperation:
		return w.isolations(ctx, e.cmd.GetTime(), body.ApproveOperation.GetOperation(), "", send)
	case *raftv1.Command_StartOperation:
		return w.isolations(ctx, e.cmd.GetTime(), body.StartOperation.GetOperation(), "", send)
	case *raftv1.Command_ProposeResponse:
		return w.isolations(ctx, e.cmd.GetTime(), body.ProposeResponse.GetGrant().GetOperation(), "", send)
	}
	return nil
}

func (w *watcher) showBatch(ctx context.Context, b *raftv1.HostBatch, send sender) error {
	if !w.wants(b.GetHost()) {
		return nil
	}
	for _, record := range b.GetBatch().GetRecords() {
		out := &operatorv1.WatchResponse{Time: record.GetTime(), Host: b.GetHost(), HostName: w.name(ctx, b.GetHost())}
		switch body := record.GetBody().(type) {
		case *sensorv1.Record_Summary:
			out.Body = &operatorv1.WatchResponse_Summary{Summary: body.Summary}
		case *sensorv1.Record_Finding:
			row, err := w.server.cfg.DB.Finding(ctx, body.Finding.GetId())
			if err != nil {
				row = &operatorv1.FindingRow{Host: b.GetHost(), HostName: out.GetHostName(), Finding: body.Finding, Disposition: "new"}
			}
			out.Body = &operatorv1.WatchResponse_Finding{Finding: row}
		case *sensorv1.Record_Isolation:
			if err := w.isolations(ctx, record.GetTime(), body.Isolation.GetOperation(), b.GetHost(), send); err != nil {
				return err
			}
			continue
		default:
			continue
		}
		if err := send(out); err != nil {
			return err
		}
	}
	return nil
}

// ended shows the ends of sessions: they are no alarm yet, for a sensor that lost a
// node goes to another within seconds.
func (w *watcher) ended(ctx context.Context, cmd *raftv1.Command, in *raftv1.SessionsEnded, send sender) error {
	for _, end := range in.GetSessions() {
		change, detail := "disconnected", end.GetHow()
		if end.GetHow() == "stopped" {
			change, detail = "stopped", "its sensor was stopped"
		}
		if err := w.change(ctx, cmd, end.GetHost(), change, detail, send); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) began(ctx context.Context, cmd *raftv1.Command, session *raftv1.HostSession, send sender) error {
	if !session.GetConnected() {
		return w.change(ctx, cmd, session.GetHost(), "silent", "its session has ended", send)
	}
	if err := w.returned(ctx, cmd, session, send); err != nil {
		return err
	}
	w.names[session.GetHost()] = session.GetFacts().GetName()
	return w.change(ctx, cmd, session.GetHost(), "online", fmt.Sprintf("at node %s, sensor %s", session.GetNode(), session.GetSensorVersion()), send)
}

// returned shows the finding that a return made, if it made one.
func (w *watcher) returned(ctx context.Context, cmd *raftv1.Command, session *raftv1.HostSession, send sender) error {
	id, err := w.server.cfg.DB.ReturnOf(ctx, session.GetHost(), cmd.GetTime())
	if err != nil || id == "" {
		return nil //nolint:nilerr // the list has it
	}
	return w.finding(ctx, cmd, id, send)
}

func (w *watcher) finding(ctx context.Context, cmd *raftv1.Command, id string, send sender) error {
	row, err := w.server.cfg.DB.Finding(ctx, id)
	if err != nil || !w.wants(row.GetHost()) {
		return nil //nolint:nilerr // gone since
	}
	return send(&operatorv1.WatchResponse{Time: cmd.GetTime(), Host: row.GetHost(), HostName: w.name(ctx, row.GetHost()),
		Body: &operatorv1.WatchResponse_Finding{Finding: row}})
}

func (w *watcher) change(ctx context.Context, cmd *raftv1.Command, host, change, detail string, send sender) error {
	if !w.wants(host) {
		return nil
	}
	return send(&operatorv1.WatchResponse{Time: cmd.GetTime(), Host: host, HostName: w.name(ctx, host),
		Body: &operatorv1.WatchResponse_HostChange{HostChange: &operatorv1.HostChange{Change: change, Detail: detail}}})
}

func (w *watcher) incident(ctx context.Context, cmd *raftv1.Command, id string, send sender) error {
	incident, err := w.server.cfg.DB.Incident(ctx, id)
	if err != nil {
		return nil //nolint:nilerr // gone since; the next event tells more
	}
	wanted := w.host == ""
	for _, host := range incident.GetHosts() {
		wanted = wanted || host == w.host
	}
	if !wanted {
		return nil
	}
	return send(&operatorv1.WatchResponse{Time: cmd.GetTime(), Body: &operatorv1.WatchResponse_Incident{Incident: incident}})
}

// isolations shows an operation's rows, or only one host's of them.
func (w *watcher) isolations(ctx context.Context, at int64, operation, host string, send sender) error {
	rows, err := w.server.cfg.DB.Operation(ctx, operation)
	if err != nil {
		return nil //nolint:nilerr // a report about an operation that nobody asked for
	}
	for _, row := range rows {
		if !w.wants(row.GetHost()) || host != "" && row.GetHost() != host {
			continue
		}
		if err := send(&operatorv1.WatchResponse{Time: at, Host: row.GetHost(), HostName: row.GetHostName(),
			Body: &operatorv1.WatchResponse_Isolation{Isolation: row}}); err != nil {
			return err
		}
	}
	return nil
}

func (w *watcher) wants(host string) bool { return w.host == "" || w.host == host }

// name is a host's, asked for once: names change with sessions, which tell it.
func (w *watcher) name(ctx context.Context, host string) string {
	name, known := w.names[host]
	if known {
		return name
	}
	if h, err := w.server.cfg.DB.Host(ctx, host); err == nil {
		name = h.GetName()
	}
	w.names[host] = name
	return name
}
