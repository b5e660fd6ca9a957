// Package inquire puts questions to the flight recorders of hosts, wherever in the cluster
// their sessions are.
//
// Its one idea: whoever holds a host's session asks it, and nobody remembers an answer. It
// is handed on piece by piece, from the sensor to who asked, and what waits on the way has a
// bound at each node. A host that does not answer costs its own time alone.
package inquire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/ingest"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// atOnce is how many hosts a node asks at once for one hunt. More are asked as those
	// answer: a fleet that answers at once would only wait here.
	atOnce = 256
	// maxStreams is how many streams with questions this node has open to others, and serves.
	// A connection carries 64 (package link), of which the log needs some.
	maxStreams = 16
	// MaxHosts of one hunt.
	MaxHosts = 10_000
	// requestTime is how long a node may take to say what it asks.
	requestTime = 10 * time.Second
	writeTime   = 30 * time.Second
)

// Local asks the hosts whose sessions are at this node (package ingest).
type Local interface {
	Ask(ctx context.Context, host string, ask *sensorv1.Ask, each func(*sensorv1.Answer) error) error
}

// Peers opens streams to other nodes (package consensus).
type Peers interface {
	OpenQuestions(ctx context.Context, node string) (net.Conn, error)
}

// Target is a host with the node where its session was last known; "" when it has none.
type Target struct{ Host, Node string }

// Piece is a part of what a host answered, or why it does not.
type Piece struct {
	Host   string
	Answer *sensorv1.Answer
	// Code and Err are set in place of an answer, and nothing more comes of this host.
	Code string
	Err  error
}

// Last says whether nothing more comes of its host.
func (p Piece) Last() bool { return p.Err != nil || p.Answer.GetDone() }

// Codes of why there is no answer.
const (
	CodeAway    = "away"
	CodeOld     = "old-sensor"
	CodeLate    = "late"
	CodeEnded   = "ended"
	CodeNoRoom  = "busy"
	CodeNode    = "node"    // the node that has its session could not be asked
	CodeRefused = "refused" // the sensor said why
)

var codes = []struct {
	code string
	err  error
}{
	{CodeAway, ingest.ErrAway}, {CodeOld, ingest.ErrOldSensor}, {CodeLate, ingest.ErrLate}, {CodeEnded, ingest.ErrEnded}, {CodeNoRoom, ingest.ErrNoRoom},
}

func codeOf(err error) string {
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeRefused
}

// Asker is one node's.
type Asker struct {
	self   string
	local  Local
	peers  Peers
	opened chan struct{} // holds one for each stream to another node
	served chan struct{} // and for each of another node's
}

// New makes one for the node with this id.
func New(self string, local Local, peers Peers) *Asker {
	return &Asker{self: self, local: local, peers: peers, opened: make(chan struct{}, maxStreams), served: make(chan struct{}, maxStreams)}
}

// Ask is a question to one host, for who wants its whole answer: the rows of all pieces
// in the last. What the sensor itself could not do is an error.
func (a *Asker) Ask(ctx context.Context, target Target, ask *sensorv1.Ask) (*sensorv1.Answer, error) {
	var rows []*sensorv1.Sighting
	var whole *sensorv1.Answer
	err := a.Hunt(ctx, []Target{target}, ask, func(p Piece) error {
		rows = append(rows, p.Answer.GetRows()...)
		if p.Answer.GetDone() {
			whole = p.Answer
			whole.Rows = rows
		}
		return p.Err
	})
	switch {
	case err != nil:
		return nil, fmt.Errorf("asking host %s: %w", target.Host, err)
	case whole.GetError() != "":
		return nil, fmt.Errorf("asking host %s: %s", target.Host, whole.GetError())
	}
	return whole, nil
}

// Hunt puts a question to hosts, at once as far as that is wise, and hands on what comes,
// from one goroutine. Each host has exactly one piece that is its last, unless each ends
// the hunt by an error, or ctx does.
func (a *Asker) Hunt(ctx context.Context, targets []Target, ask *sensorv1.Ask, each func(Piece) error) error {
	if len(targets) > MaxHosts {
		return fmt.Errorf("%d hosts in one hunt, the most is %d", len(targets), MaxHosts)
	}
	ctx, cancel := context.WithCancel(ctx)
	out := make(chan Piece)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel()
	hand := func(p Piece) error {
		select {
		case out <- p:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	byNode := map[string][]string{}
	for _, t := range targets {
		byNode[t.Node] = append(byNode[t.Node], t.Host)
	}
	for node, hosts := range byNode {
		asking.Go(func() {
			switch node {
			case "":
				fail(hosts, CodeAway, ingest.ErrAway, hand)
			case a.self:
				a.here(ctx, hosts, ask, hand)
			default:
				a.there(ctx, node, hosts, ask, hand)
			}
		})
	}
	for left := len(targets); left > 0; {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case p := <-out:
			if p.Last() {
				left--
			}
			if err := each(p); err != nil {
				return err
			}
		}
	}
	return nil
}

// fail hands on one reason for all hosts.
func fail(hosts []string, code string, err error, hand func(Piece) error) {
	for _, host := range hosts {
		if hand(Piece{Host: host, Code: code, Err: err}) != nil {
			return
		}
	}
}

// here asks the hosts of this node.
func (a *Asker) here(ctx context.Context, hosts []string, ask *sensorv1.Ask, hand func(Piece) error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	next := make(chan string)
	for range min(atOnce, len(hosts)) {
		asking.Go(func() {
			for host := range next {
				a.one(ctx, host, ask, hand)
			}
		})
	}
	defer close(next)
	for _, host := range hosts {
		select {
		case next <- host:
		case <-ctx.Done():
			return
		}
	}
}

func (a *Asker) one(ctx context.Context, host string, ask *sensorv1.Ask, hand func(Piece) error) {
	err := a.local.Ask(ctx, host, ask, func(answer *sensorv1.Answer) error { return hand(Piece{Host: host, Answer: answer}) })
	if err != nil && ctx.Err() == nil {
		_ = hand(Piece{Host: host, Code: codeOf(err), Err: err}) // it fails only when ctx has ended
	}
}

// there has another node ask its hosts. What it said of a host before it failed is kept.
func (a *Asker) there(ctx context.Context, node string, hosts []string, ask *sensorv1.Ask, hand func(Piece) error) {
	waiting := make(map[string]bool, len(hosts))
	for _, host := range hosts {
		waiting[host] = true
	}
	err := a.through(ctx, node, hosts, ask, func(p Piece) error {
		if !waiting[p.Host] {
			return fmt.Errorf("node %s answers for a host that was not asked", node)
		}
		if p.Last() {
			delete(waiting, p.Host)
		}
		return hand(p)
	}, func() bool { return len(waiting) > 0 })
	if len(waiting) == 0 || ctx.Err() != nil {
		return
	}
	var left []string
	for _, host := range hosts {
		if waiting[host] {
			left = append(left, host)
		}
	}
	fail(left, CodeNode, fmt.Errorf("its node could not be asked: %w", err), hand)
}

func (a *Asker) through(ctx context.Context, node string, hosts []string, ask *sensorv1.Ask, each func(Piece) error, more func() bool) error {
	select {
	case a.opened <- struct{}{}:
		defer func() { <-a.opened }()
	case <-ctx.Done():
		return ctx.Err()
	}
	opening, cancel := context.WithTimeout(ctx, requestTime)
	conn, err := a.peers.OpenQuestions(opening, node)
	cancel()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = conn.SetWriteDeadline(time.Now().Add(requestTime))
	if err := frame.Write(conn, &raftv1.NodeQuestion{Ask: ask, Hosts: hosts}); err != nil {
		return err
	}
	for more() {
		var m raftv1.NodeAnswer
		if err := frame.Read(conn, &m); err != nil {
			return fmt.Errorf("node %s: %w", node, err)
		}
		p := Piece{Host: m.GetHost(), Answer: m.GetAnswer()}
		if m.GetCode() != "" {
			p = Piece{Host: m.GetHost(), Code: m.GetCode(), Err: wordsOf(m.GetCode(), m.GetError())}
		} else if p.Answer == nil {
			return fmt.Errorf("node %s: an answer without an answer", node)
		}
		if err := each(p); err != nil {
			return err
		}
	}
	return nil
}

// wordsOf is the reason that another node gave, as the error that it was there.
func wordsOf(code, text string) error {
	for _, c := range codes {
		if c.code == code {
			return c.err
		}
	}
	return errors.New(text)
}

// Serve answers one stream of another node: see consensus.ServeQuestions.
func (a *Asker) Serve(ctx context.Context, conn net.Conn) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	select {
	case a.served <- struct{}{}:
		defer func() { <-a.served }()
	default:
		return // who asks is told that the stream ended; a node opens no more than that
	}
	_ = conn.SetReadDeadline(time.Now().Add(requestTime))
	var q raftv1.NodeQuestion
	if err := frame.Read(conn, &q); err != nil || len(q.GetHosts()) > MaxHosts {
		return
	}
	_ = conn.SetReadDeadline(time.Time{})
	var reading sync.WaitGroup
	defer reading.Wait()
	defer func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) }()
	reading.Go(func() {
		// Nothing more is said; what comes is that nobody waits any more.
		_, _ = conn.Read(make([]byte, 1))
		cancel()
	})
	var writing sync.Mutex
	a.here(ctx, q.GetHosts(), q.GetAsk(), func(p Piece) error {
		m := &raftv1.NodeAnswer{Host: p.Host, Answer: p.Answer, Code: p.Code}
		if p.Err != nil {
			m.Error = p.Err.Error()
		}
		if proto.Size(m) > frame.MaxFrame {
			m = &raftv1.NodeAnswer{Host: p.Host, Code: CodeRefused, Error: "a piece of its answer is too large for the nodes"}
		}
		writing.Lock()
		defer writing.Unlock()
		if err := ctx.Err(); err != nil {
			return err
		}
		_ = conn.SetWriteDeadline(time.Now().Add(writeTime))
		if err := frame.Write(conn, m); err != nil {
			cancel()
			return err
		}
		return nil
	})
}
