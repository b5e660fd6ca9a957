package ingest

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Which session is a host's is the state's to say: the one whose begin was taken last, at whichever node.
// A node hears of it from the entries that it applies, in the log's order, and makes its own table follow:
// what another node has taken over is closed, and what the state has here and is not here is ended there.

// maxOwes bounds the ends that wait for a session to begin that took others' place.
const maxOwes = 8

// drawnFor, and as long again at most, a number that this node gave a host is not given again,
// whatever its state knows of.
const drawnFor = time.Hour

// draw gives a session its number: above those that this node's state knows of, and above those
// that this node gave the host before. An end that is told again is then never another's. False:
// a newer one has taken its place, which it must not take back.
func (s *Server) draw(n *session, newest uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[n.host] != n {
		return false
	}
	n.number = max(newest, s.drawn[n.host], s.drawnBefore[n.host]) + 1
	n.at, n.elsewhere = 0, false
	s.drawn[n.host] = n.number
	return true
}

// undraw takes the number of a session back that the log does not hear of.
func (s *Server) undraw(n *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.number = 0
}

// began notes which entry began a session. This node's state is there.
func (s *Server) began(n *session, index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.begin(index)
}

// begin: the log has the session, as of that entry. What was owed unless it began is owed no
// more. Server.mu is held.
func (n *session) begin(index uint64) {
	if n.at == 0 {
		n.at, n.owes = index, nil
	}
}

// forgetDrawn lets numbers go that were drawn a while ago. What is drawn again then is above
// all that this node's state has, and what it has not by then it will not have.
func (s *Server) forgetDrawn(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.drawnSince) >= drawnFor {
		s.drawnBefore, s.drawn, s.drawnSince = s.drawn, make(map[string]uint64), now
	}
}

// sessionsBegan follows the sessions of an entry that the log has taken.
func (s *Server) sessionsBegan(index uint64, in *raftv1.BeginSessions, res *raftv1.Result) {
	answers := res.GetSessions()
	for i, b := range in.GetSessions() {
		if i < len(answers) && answers[i].GetRejected() == "" {
			s.sessionBegan(index, b)
		}
	}
}

// sessionBegan follows an applied entry: the host's session is now that one.
func (s *Server) sessionBegan(index uint64, b *raftv1.HostSession) {
	if !b.GetConnected() {
		return
	}
	here := b.GetNode() == s.cfg.NodeID
	s.mu.Lock()
	n := s.sessions[b.GetHost()]
	if n != nil && here && n.number == b.GetSession() {
		n.begin(index)
		n.elsewhere = false // this entry may be a second one, behind another node's
		s.mu.Unlock()
		return
	}
	// One whose own entry is still to come takes over from this one.
	taken := n != nil && n.at != 0 && index > n.at
	s.mu.Unlock()
	if taken {
		s.supersede(n, b.GetNode())
	}
	if here {
		s.stray(b.GetHost(), b.GetSession())
	}
}

// supersede closes a session because the host has a newer one with that node. Its end is no news
// to the log.
func (s *Server) supersede(n *session, node string) {
	s.mu.Lock()
	n.elsewhere = true
	s.mu.Unlock()
	s.cfg.Logger.Info("session closed: the host has a newer one. If this recurs, two machines use one identity: enrol one of them again",
		"host", n.host, "node", node)
	n.end(link.CodeSuperseded, "this host has a newer session with node "+node)
}

// stray has the log told that a session is not, or no longer, here whose begin it has taken: the
// begin came later than what was told of its end.
func (s *Server) stray(host string, number uint64) {
	if !s.hasBegun() { // everything up to there is ended at once
		return
	}
	end := &raftv1.SessionEnd{Host: host, Session: number, How: endNode, Detail: "it was over before the log had it", Heard: s.cfg.Now().UnixNano()}
	s.mu.Lock()
	lost, _ := s.queueEnds(s.inherit(host, []*raftv1.SessionEnd{end}))
	s.mu.Unlock()
	s.notNoted(lost)
}

// inherit leaves ends to who has the place of the session that they are of: when that begins the
// log needs none of them, and told before it they would show the host as gone meanwhile. It
// returns those to be told now. The caller holds mu.
func (s *Server) inherit(host string, told []*raftv1.SessionEnd) []*raftv1.SessionEnd {
	next := s.sessions[host]
	if next == nil || next.at != 0 || len(next.owes)+len(told) > maxOwes {
		return told
	}
	next.owes = append(next.owes, told...)
	return nil
}

// leave takes a session out and queues the ends to be told, its own as the last of them. At no time
// is it neither here nor among the ends: a comparison would take it for one that was lost.
func (s *Server) leave(n *session, own *raftv1.SessionEnd) (queued, lost []*raftv1.SessionEnd, noted <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var told []*raftv1.SessionEnd
	if n.at == 0 {
		told = n.owes
	}
	if n.number != 0 && !n.elsewhere {
		told = append(told, own)
	}
	next := s.sessions[n.host]
	if next == n {
		delete(s.sessions, n.host)
	}
	switch {
	case s.closed:
		return nil, nil, nil
	case next != n && next != nil && next.at != 0: // which ended it
		return nil, nil, nil
	}
	queued = s.inherit(n.host, told)
	lost, noted = s.queueEnds(queued)
	return queued, lost, noted
}

// queueEnds queues ends for the log, and returns those that there is no room for, and what is
// closed when the log has the last of them. The caller holds mu.
func (s *Server) queueEnds(told []*raftv1.SessionEnd) (lost []*raftv1.SessionEnd, noted <-chan struct{}) {
	for _, end := range told {
		if noted = s.ends.add(end); noted == nil {
			lost = append(lost, end)
		}
	}
	return lost, noted
}

func (s *Server) notNoted(lost []*raftv1.SessionEnd) {
	for _, end := range lost {
		s.cfg.Logger.Error("end of a session not noted: too many wait for a leader", "host", end.GetHost())
	}
}

// ended takes the session out and has the log told how it ended, unless a newer one
// has taken its place. A session that the log may have is reported, welcomed or not.
func (s *Server) ended(n *session) {
	n.end(link.CodeOK, "")
	end := n.ending(s.cfg.Now())
	queued, lost, noted := s.leave(n, end)
	s.notNoted(lost)
	if len(queued) == 0 {
		return
	}
	s.cfg.Logger.Info("session closed", "host", n.host, "how", end.GetHow(), "detail", end.GetDetail())
	if noted == nil || end.GetHow() != endStopped && end.GetHow() != endFailed {
		return
	}
	timer := time.NewTimer(goodbyeTime)
	defer timer.Stop()
	select {
	case <-noted:
	case <-timer.C:
	case <-s.running.Done():
	case <-n.conn.Context().Done(): // it does not wait
	}
	_ = n.conn.CloseWithReason(link.CodeOK, "noted")
}

func (s *Server) hasBegun() bool {
	select {
	case <-s.begun:
		return true
	default:
		return false
	}
}

// compareSessions does what entries about sessions asked for that this node did not see.
func (s *Server) compareSessions(ctx context.Context) {
	if !s.hasBegun() {
		return
	}
	s.forgetDrawn(s.cfg.Now())
	// Before the state is read: it holds the begins of all of these.
	here := s.standing()
	has, err := s.cfg.Presence.SessionsAt(ctx, s.cfg.NodeID)
	if err != nil {
		s.cfg.Logger.Warn("sessions not compared with the state", "error", err)
		return
	}
	for n, number := range here {
		if has[n.host] != number && s.session(n.host) == n {
			s.notHere(ctx, n)
		}
	}
	for _, host := range slices.Sorted(maps.Keys(has)) {
		if s.numberOf(host) != has[host] {
			s.stray(host, has[host])
		}
	}
}

// standing are the sessions that have begun, with their numbers.
func (s *Server) standing() map[*session]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[*session]uint64, len(s.sessions))
	for _, n := range s.sessions {
		if n.at != 0 {
			all[n] = n.number
		}
	}
	return all
}

// numberOf is that of the host's session here, 0 for none.
func (s *Server) numberOf(host string) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.sessions[host]; n != nil {
		return n.number
	}
	return 0
}

// notHere closes a session that the state does not have at this node.
func (s *Server) notHere(ctx context.Context, n *session) {
	known, err := s.cfg.Store.Host(ctx, n.host)
	switch {
	case err != nil: // it was removed, or the next comparison finds it
	case known.GetNode() != s.cfg.NodeID:
		s.supersede(n, known.GetNode())
	default:
		s.cfg.Logger.Warn("session closed: the state does not have it", "host", n.host)
		n.because(endNode, "the cluster took the session for ended")
		n.end(link.CodeInternal, "the cluster took this session for ended: connect again")
	}
}
