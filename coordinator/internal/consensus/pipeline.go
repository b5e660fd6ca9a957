package consensus

import (
	"sync"

	"github.com/hashicorp/raft"
)

// pipeline keeps the answers until raft takes them. Raft stops taking them at the first that
// says no, and may send once more before it sees that: with the library's own pipeline, which
// waits for the answer before to be taken, it then waits for ever. Its heartbeats go on
// meanwhile, so that nobody elects another leader; the peer gets no entry again, and the
// leader cannot stop (hashicorp/raft#612).
//
// What is kept is bounded by what is sent: the library decodes one answer after the other.
type pipeline struct {
	raft.AppendPipeline
	silent  func() bool // see mute.go
	answers chan raft.AppendFuture
	done    chan struct{}
	once    sync.Once
}

// newPipeline keeps what inner answers until Close.
func newPipeline(inner raft.AppendPipeline, silent func() bool) *pipeline {
	p := &pipeline{AppendPipeline: inner, silent: silent, answers: make(chan raft.AppendFuture), done: make(chan struct{})}
	go p.keep()
	return p
}

func (p *pipeline) keep() {
	var kept []raft.AppendFuture
	for {
		var (
			taken  chan<- raft.AppendFuture // nil, which is never ready, while nothing is kept
			oldest raft.AppendFuture
		)
		if len(kept) > 0 {
			taken, oldest = p.answers, kept[0]
		}
		select {
		case answer := <-p.AppendPipeline.Consumer():
			kept = append(kept, answer)
		case taken <- oldest:
			kept = kept[1:]
		case <-p.done:
			return
		}
	}
}

// AppendEntries implements raft.AppendPipeline.
func (p *pipeline) AppendEntries(args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) (raft.AppendFuture, error) {
	if p.silent() {
		return nil, ErrUnfit
	}
	return p.AppendPipeline.AppendEntries(args, resp)
}

// Consumer implements raft.AppendPipeline.
func (p *pipeline) Consumer() <-chan raft.AppendFuture { return p.answers }

// Close implements raft.AppendPipeline.
func (p *pipeline) Close() error {
	p.once.Do(func() { close(p.done) })
	return p.AppendPipeline.Close()
}
