package ingest

import "time"

// workerIdle is how long a worker waits for more to do.
const workerIdle = 5 * time.Second

// workers do what needs a large stack. A goroutine's stack grows with what it calls and is
// made smaller by a later collection, to half and only while it then has room for what lies
// on it. Each session's goroutine would grow its own with every report; so it only waits,
// and a few workers, as many as there are messages in work, have the large ones.
type workers struct {
	jobs   chan func()
	closed <-chan struct{}
}

func newWorkers(closed <-chan struct{}) *workers {
	return &workers{jobs: make(chan func()), closed: closed}
}

// wait returns what job does.
func (w *workers) wait(job func() error) error {
	done := make(chan error, 1)
	w.start(func() { done <- job() })
	return <-done
}

func (w *workers) start(job func()) {
	select {
	case w.jobs <- job:
	default:
		go w.work(job)
	}
}

func (w *workers) work(job func()) {
	idle := time.NewTimer(workerIdle)
	defer idle.Stop()
	for {
		job()
		idle.Reset(workerIdle)
		select {
		case job = <-w.jobs:
		case <-idle.C:
			return
		case <-w.closed:
			return
		}
	}
}
