package ingest

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// noteTrustEvery gathers what hosts say of the authorities that they trust: with a new
	// list all of them say so at once.
	noteTrustEvery = time.Second
	// maxNoted of them are in one entry of the log.
	maxNoted = 1000
)

// trusted is what hosts said and the log does not have yet: the newest of each.
type trusted struct {
	mu    sync.Mutex
	hosts map[string]*raftv1.HostTrust
	wake  chan struct{}
}

func (t *trusted) add(h *raftv1.HostTrust) {
	t.mu.Lock()
	if t.hosts == nil {
		t.hosts = make(map[string]*raftv1.HostTrust)
	}
	t.hosts[h.GetHost()] = h
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// take is at most maxNoted of them.
func (t *trusted) take() (some []*raftv1.HostTrust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for host, h := range t.hosts {
		if len(some) == maxNoted {
			break
		}
		some = append(some, h)
		delete(t.hosts, host)
	}
	return some
}

// back returns what was not noted, unless the host has said something newer.
func (t *trusted) back(some []*raftv1.HostTrust) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.hosts == nil {
		t.hosts = make(map[string]*raftv1.HostTrust)
	}
	for _, h := range some {
		if t.hosts[h.GetHost()] == nil {
			t.hosts[h.GetHost()] = h
		}
	}
}

// holds is what a host says that it has on disk. It is about itself alone: a host that lies
// here loses its own way back.
func (s *Server) holds(n *session, t *sensorv1.Trusted) {
	if t == nil || len(t.GetRoot()) != sha256.Size {
		return
	}
	n.trust.Store(t.GetEpoch())
	if t.GetEpoch() > 0 { // before the first list there is nothing to count
		s.trusted.add(&raftv1.HostTrust{Host: n.host, Epoch: t.GetEpoch(), Root: t.GetRoot()})
	}
}

// noteTrusted has the log told what hosts hold until ctx ends.
func (s *Server) noteTrusted(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.trusted.wake:
		}
		timer := time.NewTimer(noteTrustEvery)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		for some := s.trusted.take(); len(some) > 0; some = s.trusted.take() {
			proposing, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
			_, err := propose(proposing, s.cfg.Log, &raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:" + s.cfg.NodeID,
				Body: &raftv1.Command_NoteTrust{NoteTrust: &raftv1.NoteTrust{Hosts: some}}})
			cancel()
			if err == nil {
				continue
			}
			s.trusted.back(some)
			select {
			case s.trusted.wake <- struct{}{}:
			default:
			}
			break
		}
	}
}
