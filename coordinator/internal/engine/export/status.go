package export

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

const (
	// failingFor is how long a sink must fail before a status says so, and behindFor how
	// old what waits must be when it does not.
	failingFor = time.Minute
	behindFor  = 10 * time.Minute
	// shownLoss is how long a status tells of a loss, and orphaned for how long it tells of a
	// sink that this leader does not know.
	shownLoss = 7 * 24 * time.Hour
	orphaned  = 7 * 24 * time.Hour
	// maxSaid bounds what a server's words are in a status.
	maxSaid = 400
	// look is how often what waits is counted for the status, at most.
	look = 15 * time.Second
)

// refusal is what a sink said, and what to do about it.
type refusal struct {
	doing  string
	err    error
	advice string
}

// Error implements error.
func (r *refusal) Error() string { return fmt.Sprintf("%s: %v", r.doing, r.err) }

// Unwrap implements errors.
func (r *refusal) Unwrap() error { return r.err }

// ofTLS is what to do about a handshake that failed; empty when none did.
func ofTLS(err error) string {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return "its certificate is of an authority that this node does not know: name that in tls.ca"
	case errors.As(err, &name):
		return "its certificate is for another name: use that name, or say it in tls.server_name"
	case errors.As(err, &invalid):
		return "look at its certificate, and at the clocks"
	case strings.Contains(err.Error(), "remote error: tls:"):
		return "it does not take this node's certificate: compare tls.certificate and tls.key with what it trusts"
	}
	return ""
}

func open(cfg SinkConfig) (Sink, error) {
	if cfg.Kafka != nil {
		return openKafka(cfg.Kafka)
	}
	return openClickHouse(cfg.ClickHouse)
}

// standing is what a status is made of.
type standing struct {
	since   time.Time // it fails; zero: it does not
	err     error
	waiting int64
	oldest  int64
	looked  time.Time
	lost    int64
	lostAt  int64
}

// note keeps how a step ended for the status, and tells the log when that changed. tried
// says that the place is known.
func (f *feed) note(ctx context.Context, err error, tried bool) {
	now := f.engine.cfg.Now()
	f.mu.Lock()
	before, looked := f.state.err, f.state.looked
	f.state.err = err
	switch {
	case err == nil:
		f.state.since = time.Time{}
	case f.state.since.IsZero():
		f.state.since = now
	}
	f.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		f.engine.failed.Of(f.cfg.kind()).Inc()
	}
	switch {
	case err != nil && (before == nil || before.Error() != err.Error()):
		f.logger.Warn("records are not exported; trying again", "error", clean(err.Error()))
	case err == nil && before != nil:
		f.logger.Info("records are exported again")
	}
	if !tried || f.row == nil || now.Sub(looked) < look {
		return
	}
	waiting, oldest, counted := f.engine.waiting(ctx, f.place, f.cfg)
	if counted != nil { // it is asked again soon
		return
	}
	f.mu.Lock()
	f.state.waiting, f.state.oldest, f.state.looked = waiting, oldest, now
	f.mu.Unlock()
}

// Alarms are what is wrong with the sinks, for the status of this node; only the leader
// has any.
func (e *Engine) Alarms() (out []string) {
	if !e.cfg.Log.IsLeader() {
		return nil
	}
	now := e.cfg.Now()
	for _, f := range e.feeds {
		f.mu.Lock()
		s := f.state
		f.mu.Unlock()
		what := fmt.Sprintf("sink %s (%s)", f.cfg.Name, f.cfg.kind())
		waits := ""
		if s.oldest > 0 {
			waits = fmt.Sprintf("; %d records wait, the oldest for %s, and what retention removes first is lost to it", s.waiting, now.Sub(time.Unix(0, s.oldest)).Round(time.Minute))
		}
		switch {
		case s.err != nil && now.Sub(s.since) >= failingFor:
			advice := "its log has more"
			var said *refusal
			if errors.As(s.err, &said) {
				advice = said.advice
			}
			out = append(out, fmt.Sprintf("exports nothing to %s since %s (%s)%s: %s", what, s.since.UTC().Format("2006-01-02 15:04:05Z"), clean(s.err.Error()), waits, advice))
		case s.oldest > 0 && now.Sub(time.Unix(0, s.oldest)) >= behindFor:
			out = append(out, fmt.Sprintf("is behind with %s%s: if they do not become fewer, it takes records more slowly than they come; see docs/export.md", what, waits))
		}
		if s.lost > 0 && now.Sub(time.Unix(0, s.lostAt)) < shownLoss {
			out = append(out, fmt.Sprintf("could not hand %d records to %s, as they were removed before it took them, at %s last: keep things longer ('retention' in coordinator.yaml), or mend such a sink sooner",
				s.lost, what, time.Unix(0, s.lostAt).UTC().Format("2006-01-02 15:04:05Z")))
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return append(out, e.orphaned...)
}

// lookForOrphans looks for sinks that other leaders export to and this one does not know:
// a configuration that is not the same on every node stops an export at a failover.
func (e *Engine) lookForOrphans(ctx context.Context) {
	poll := time.NewTicker(look)
	defer poll.Stop()
	for {
		if rows, err := e.cfg.DB.Exports(ctx); err == nil {
			e.compare(rows)
		}
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
	}
}

func (e *Engine) compare(rows []*store.Export) {
	known := make(map[string]*feed)
	for _, f := range e.feeds {
		known[f.cfg.Name] = f
	}
	var out []string
	for _, row := range rows {
		if f := known[row.Sink]; f != nil {
			f.mu.Lock()
			f.state.lost, f.state.lostAt = row.Lost, row.LostAt
			f.mu.Unlock()
			continue
		}
		if at := time.Unix(0, row.MovedAt); e.cfg.Now().Sub(at) < orphaned {
			out = append(out, fmt.Sprintf("leads and has no sink %s in its coordinator.yaml, to which others exported until %s: write 'export' alike at every node; if the sink was given up, this ends by itself after a week",
				row.Sink, at.UTC().Format("2006-01-02 15:04:05Z")))
		}
	}
	e.mu.Lock()
	e.orphaned = out
	e.mu.Unlock()
}

// clean is a server's words on one line that drives no terminal.
func clean(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > maxSaid {
			b.WriteString("…")
			break
		}
		if !unicode.IsPrint(r) {
			r = ' '
		}
		b.WriteRune(r)
	}
	return b.String()
}

// figures are of what the log says, and so alike on every node; sinks of a kind are summed up.
func (e *Engine) figures() {
	e.cfg.Meter.Read(meter.Costly, func(ctx context.Context, set meter.Set) {
		rows, err := e.cfg.DB.Exports(ctx)
		if err != nil {
			return
		}
		oldest := make(map[string]float64)
		for _, kind := range kinds {
			for _, name := range []string{"vedette_export_waiting_records", "vedette_export_lost_total"} {
				set(name, kind, 0)
			}
			oldest[kind] = 0
		}
		for _, f := range e.feeds {
			kind := f.cfg.kind()
			for _, row := range rows {
				if row.Sink != f.cfg.Name {
					continue
				}
				set("vedette_export_lost_total", kind, float64(row.Lost))
				n, at, err := e.waiting(ctx, row.Place, f.cfg)
				if err != nil {
					return
				}
				set("vedette_export_waiting_records", kind, float64(n))
				if at > 0 {
					oldest[kind] = max(oldest[kind], e.cfg.Now().Sub(time.Unix(0, at)).Seconds())
				}
			}
		}
		for kind, age := range oldest {
			set("vedette_export_lag_seconds", kind, age)
		}
	},
		meter.Family{Name: "vedette_export_waiting_records", Help: "Records that sinks do not have yet, as far as the log says (a leader notes it every 10 s).", Label: "sink", Values: kinds},
		meter.Family{Name: "vedette_export_lag_seconds", Help: "Age of the oldest record that a sink does not have yet, as far as the log says.", Label: "sink", Values: kinds},
		meter.Family{Name: "vedette_export_lost_total", Help: "Records that were removed before a sink had them.", Label: "sink", Values: kinds},
	)
}
