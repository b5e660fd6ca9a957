package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// pushers are sensors that push, each in a goroutine of its own.
type pushers struct {
	all    []*sensor
	cancel context.CancelFunc
	wg     sync.WaitGroup
	mu     sync.Mutex // guards err
	err    error
}

func push(ctx context.Context, all []*sensor, every time.Duration) *pushers {
	p := &pushers{all: all}
	ctx, p.cancel = context.WithCancel(ctx)
	for _, s := range all {
		p.wg.Go(func() {
			if err := s.run(ctx, every); err != nil {
				p.mu.Lock()
				p.err = errors.Join(p.err, err)
				p.mu.Unlock()
			}
		})
	}
	return p
}

// stop returns when what was sent is settled.
func (p *pushers) stop() error {
	p.cancel()
	p.wg.Wait()
	return p.failed()
}

func (p *pushers) failed() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// tally is what was found of what was acknowledged.
type tally struct{ acknowledged, lost, doubled uint64 }

func (t *tally) add(o tally) {
	t.acknowledged += o.acknowledged
	t.lost += o.lost
	t.doubled += o.doubled
}

// bounds looks at what one node has while the sensors go on: nothing less than was
// acknowledged before, nothing more than was sent after.
func (r *rig) bounds(ctx context.Context, all []*sensor, acked []uint64, node int) (t tally, err error) {
	for i, s := range all {
		has, err := r.count(ctx, node, s)
		if err != nil {
			return t, err
		}
		sent, _ := s.position()
		least, most := acked[i]-acked[i]/findingEvery, sent-sent/findingEvery
		t.add(tally{acked[i], least - min(least, has), has - min(has, most)})
	}
	return t, nil
}

func (r *rig) count(ctx context.Context, node int, s *sensor) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	host, err := r.at[node].Host(ctx, s.id)
	if err != nil {
		return 0, fmt.Errorf("asking %s for host %s: %w", id(node), s.id, err)
	}
	for _, b := range host.GetBehaviours() {
		if string(b.GetBehaviour().GetKey()) == string(counted) {
			return b.GetCount(), nil
		}
	}
	return 0, nil
}

func positions(all []*sensor) []uint64 {
	out := make([]uint64, len(all))
	for i, s := range all {
		_, out[i] = s.position()
	}
	return out
}

// exactly compares what every node has with what the sensors, which have stopped, were
// told: counts, and each finding by its id.
func (r *rig) exactly(ctx context.Context, all []*sensor) (total tally, err error) {
	if err := r.level(ctx); err != nil {
		return total, err
	}
	for node := range nodes {
		for _, s := range all {
			_, acked := s.position()
			has, err := r.count(ctx, node, s)
			if err != nil {
				return total, err
			}
			want := acked - acked/findingEvery
			total.add(tally{acked, want - min(want, has), has - min(has, want)})
			if has != want {
				fmt.Printf("torture: %s has %d summaries of host %s, which was told %d\n", id(node), has, s.id, want)
			}
			seen := map[string]bool{}
			for row, err := range r.at[node].Findings(ctx, &operatorv1.ListFindingsRequest{Host: s.id}) {
				if err != nil {
					return total, fmt.Errorf("listing findings at %s: %w", id(node), err)
				}
				if seen[row.GetFinding().GetId()] {
					total.doubled++
				}
				seen[row.GetFinding().GetId()] = true
			}
			for sequence := uint64(findingEvery); sequence <= acked; sequence += findingEvery {
				if !seen[s.finding(sequence)] {
					total.lost++
					fmt.Printf("torture: %s lacks %s of host %s\n", id(node), s.finding(sequence), s.id)
				}
			}
		}
	}
	return total, nil
}
