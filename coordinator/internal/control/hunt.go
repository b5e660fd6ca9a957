package control

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/inquire"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/proto/sigma"
)

// Hunts puts questions to hosts (package inquire).
type Hunts interface {
	Hunt(ctx context.Context, targets []inquire.Target, ask *sensorv1.Ask, each func(inquire.Piece) error) error
}

const (
	// huntsAtOnce of one node: each may hold as many answers as fit into a node's room.
	huntsAtOnce = 4
	defaultRows = 1000
	maxHuntRows = 100_000
	// defaultMillis is what a host may take that was given no time, and maxMillis any.
	defaultMillis = 30_000
	maxMillis     = 300_000
	maxRuleText   = 64 << 10
	// progressEvery is between two words on how far a hunt has come.
	progressEvery = 500 * time.Millisecond
)

// errEnough ends a hunt at its rows.
var errEnough = errors.New("enough rows")

// Hunt implements the service. Who asks what is in the audit record before any host is
// asked; what they answer is in none.
func (s *Server) Hunt(ctx context.Context, r *operatorv1.HuntRequest, stream *connect.ServerStream[operatorv1.HuntResponse]) error {
	if s.cfg.Hunts == nil {
		return connect.NewError(connect.CodeUnimplemented, errors.New("this node asks no hosts"))
	}
	h := &hunting{server: s, stream: stream, names: map[string]string{}, told: map[string]*operatorv1.HuntHost{}, began: s.cfg.Now()}
	question, err := h.prepare(ctx, r)
	if err != nil {
		return err
	}
	select {
	case s.hunts <- struct{}{}:
		defer func() { <-s.hunts }()
	default:
		return connect.NewError(connect.CodeResourceExhausted, fmt.Errorf("this node has %d hunts under way: wait for one, or ask another node", huntsAtOnce))
	}
	hosts, err := s.selected(ctx, r.GetSelector())
	if err != nil {
		return err
	}
	if len(hosts) > inquire.MaxHosts {
		return invalid("the selection has %d hosts, the most in one hunt is %d: hunt on parts of the fleet by labels", len(hosts), inquire.MaxHosts)
	}
	var targets []inquire.Target
	for _, host := range hosts {
		t := inquire.Target{Host: host.GetId(), Node: host.GetNode()}
		if host.GetEnded() != "" {
			t.Node = ""
		}
		targets = append(targets, t)
		h.names[host.GetId()] = host.GetName()
	}
	id := "hunt-" + strings.ToLower(rand.Text()[:12])
	if _, err := s.propose(ctx, &raftv1.Command{IdempotencyKey: id, Body: &raftv1.Command_NoteHunt{NoteHunt: &raftv1.NoteHunt{
		Id: id, Question: question, Hosts: uint32(len(hosts))}}}); err != nil { //nolint:gosec // bounded above
		return err
	}
	s.cfg.Logger.Info("a hunt begins", "hunt", id, "operator", operator(ctx).ID, "hosts", len(hosts))
	return h.run(ctx, id, targets)
}

// hunting is one hunt's way to its operator.
type hunting struct {
	server *Server
	stream *connect.ServerStream[operatorv1.HuntResponse]
	ask    *sensorv1.Ask
	left   uint64 // rows
	names  map[string]string
	told   map[string]*operatorv1.HuntHost // hosts that have begun to answer
	so     operatorv1.HuntProgress
	began  time.Time
}

// prepare checks what is asked and fills in its limits; question is how the audit has it.
func (h *hunting) prepare(ctx context.Context, r *operatorv1.HuntRequest) (question string, err error) {
	h.ask, _ = proto.Clone(r.GetAsk()).(*sensorv1.Ask)
	switch what := h.ask.GetWhat().(type) {
	case *sensorv1.Ask_Expression:
		if _, err := hunt.Parse(what.Expression); err != nil {
			return "", connect.NewError(connect.CodeInvalidArgument, fmt.Errorf("the expression: %w", err))
		}
		question = what.Expression
	case *sensorv1.Ask_Rule:
		if len(what.Rule) > maxRuleText {
			return "", invalid("the rule has %d bytes, the limit is %d", len(what.Rule), maxRuleText)
		}
		file, refused := sigma.ParseFile("the rule", []byte(what.Rule))
		if len(refused) > 0 {
			return "", connect.NewError(connect.CodeInvalidArgument, errors.Join(refused...))
		}
		if len(file.Rules) != 1 || len(file.Correlations) > 0 {
			return "", invalid("the file holds %d rules and %d correlations: hunt with one rule at a time", len(file.Rules), len(file.Correlations))
		}
		sum := sha256.Sum256([]byte(what.Rule))
		title := file.Rules[0].Title
		question = fmt.Sprintf("rule %q, sha256 %s", title[:min(len(title), 200)], hex.EncodeToString(sum[:]))
	default:
		return "", invalid("the hunt asks for nothing: give an expression or a rule")
	}
	if since, until := h.ask.GetSince(), h.ask.GetUntil(); until > 0 && until < since {
		return "", invalid("the time hunted in ends before it begins")
	}
	h.left = defaultRows
	if n := r.GetMaxRows(); n > 0 {
		h.left = min(uint64(n), maxHuntRows)
	}
	if n := h.ask.GetMaxRows(); n == 0 || uint64(n) > h.left {
		h.ask.MaxRows = uint32(min(h.left, 10_000)) //nolint:gosec // bounded
	}
	if h.ask.GetMaxMillis() == 0 {
		h.ask.MaxMillis = defaultMillis
	}
	h.ask.MaxMillis = min(h.ask.GetMaxMillis(), maxMillis)
	h.ask.Asker = actor(ctx)
	return question, nil
}

// run streams until every host has answered, or there are rows enough.
func (h *hunting) run(ctx context.Context, id string, targets []inquire.Target) error {
	s := h.server
	h.so.Asked = uint32(len(targets)) //nolint:gosec // bounded
	if err := h.stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Begun{Begun: &operatorv1.HuntBegun{Id: id, Hosts: h.so.GetAsked()}}}); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pieces, ended := make(chan inquire.Piece), make(chan error, 1)
	go func() {
		ended <- s.cfg.Hunts.Hunt(ctx, targets, h.ask, func(p inquire.Piece) error {
			select {
			case pieces <- p:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	defer func() {
		if ended != nil {
			cancel()
			_ = <-ended //nolint:staticcheck // why it ended is what ended it
		}
	}()
	told := time.NewTicker(progressEvery)
	defer told.Stop()
	for {
		var err error
		select {
		case p := <-pieces:
			err = h.take(p)
		case err = <-ended:
			ended = nil
			if err == nil {
				err = h.end()
			}
			return hunted(err)
		case <-told.C:
			if err = s.stillMay(ctx); err == nil {
				err = h.stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Progress{Progress: h.progress()}})
			}
		}
		if errors.Is(err, errEnough) {
			return hunted(h.end())
		}
		if err != nil {
			return hunted(err)
		}
	}
}

func hunted(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil // who asked has gone
	}
	return readError(err)
}

func (h *hunting) progress() *operatorv1.HuntProgress {
	return proto.CloneOf(&h.so)
}

// take hands a piece on.
func (h *hunting) take(p inquire.Piece) error {
	host := h.told[p.Host]
	if host == nil {
		host = &operatorv1.HuntHost{Host: p.Host, HostName: h.names[p.Host]}
		h.told[p.Host] = host
	}
	for _, row := range p.Answer.GetRows() {
		if h.left == 0 {
			h.so.Limited = true
			return errEnough
		}
		h.left--
		h.so.Rows++
		host.Rows++
		if err := h.stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Row{Row: &operatorv1.HuntRow{
			Host: p.Host, HostName: host.GetHostName(), Sighting: row}}}); err != nil {
			return err
		}
	}
	if !p.Last() {
		return nil
	}
	return h.last(p, host)
}

func (h *hunting) last(p inquire.Piece, host *operatorv1.HuntHost) error {
	delete(h.told, p.Host)
	host.Millis = uint32(min(h.server.cfg.Now().Sub(h.began).Milliseconds(), 1<<31)) //nolint:gosec // bounded
	if p.Err != nil {
		h.so.Failed++
		host.Code, host.Error = p.Code, p.Err.Error()
	} else {
		h.so.Scanned += p.Answer.GetScanned()
		host.Answer = p.Answer
		host.Answer.Rows = nil
		if text := p.Answer.GetError(); text != "" {
			h.so.Failed++
			host.Code, host.Error = inquire.CodeRefused, text
		} else {
			h.so.Answered++
		}
	}
	return h.stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_Host{Host: host}})
}

func (h *hunting) end() error {
	return h.stream.Send(&operatorv1.HuntResponse{Body: &operatorv1.HuntResponse_End{End: h.progress()}})
}
