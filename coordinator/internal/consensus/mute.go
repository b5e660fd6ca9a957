package consensus

import (
	"io"

	"github.com/hashicorp/raft"
)

// A node that is not fit sends no heartbeats, no entries and asks for no votes: so a
// leader loses its followers within the election timeout although the goroutine that leads
// may hang in a write, which is where raft would have to be asked to step down. It
// answers what others send, so that it stays a voter and keeps its log.

// AppendEntries implements raft.Transport.
func (t *transport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.silent() {
		return ErrUnfit
	}
	return t.NetworkTransport.AppendEntries(id, target, args, resp)
}

// AppendEntriesPipeline implements raft.Transport.
func (t *transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	if t.silent() {
		return nil, ErrUnfit
	}
	p, err := t.NetworkTransport.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return newPipeline(p, t.silent), nil
}

// RequestVote implements raft.Transport.
func (t *transport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if t.silent() {
		return ErrUnfit
	}
	return t.NetworkTransport.RequestVote(id, target, args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (t *transport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if t.silent() {
		return ErrUnfit
	}
	return t.NetworkTransport.RequestPreVote(id, target, args, resp)
}

// InstallSnapshot implements raft.Transport: what this node holds must not spread.
func (t *transport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if t.silent() {
		return ErrUnfit
	}
	return t.NetworkTransport.InstallSnapshot(id, target, args, resp, data)
}
