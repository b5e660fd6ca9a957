package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

// What is counted: hosts with so many behaviours each, of which a summary counts every
// fourth. All of them together are more than a node's cache of the state holds.
const (
	rowHosts      = 300
	rowBehaviours = 2000
	rowShares     = 4 // a summary's part of its host's behaviours is one of so many
	rowsPerBatch  = rowBehaviours / rowShares
	rowsAtOnce    = 48 // hosts that send at the same time, a third of them at each node
	rowsFilling   = 12 // a new behaviour costs several statements: fewer at a time while they come
	rowSpan       = 20 * time.Second
	rowRounds     = 3
	rowLimit      = 8 * time.Minute
)

const (
	rowsName  = "behaviour deltas replicated and applied on three nodes"
	shareName = "of the lower bare ceiling, three at once"
)

// replicatedRows has real sessions send large summaries as fast as they are acknowledged, to three
// nodes that are processes of their own, and then measures what raft-wal and SQLite alone
// do with the same.
func replicatedRows(ctx context.Context, b *bench) []figure.Row {
	ctx, cancel := context.WithTimeoutCause(ctx, rowLimit, fmt.Errorf("not within %s", rowLimit))
	defer cancel()
	missing := func(err error) []figure.Row {
		return []figure.Row{figure.Missing(rowsName, "rows/s", "≥ 40000", err), figure.Missing(shareName, "%", "≥ 60", err)}
	}
	// What still runs would be load that the figures do not know of.
	if err := b.lab.Close(); err != nil {
		return missing(err)
	}
	run, err := newRowsRun(ctx, b)
	if run != nil {
		defer run.close()
	}
	if err != nil {
		return missing(err)
	}
	rounds, err := run.measure(ctx, b.span(rowSpan))
	if err != nil {
		return missing(err)
	}
	run.close()
	best := rounds[0]
	var each []string
	for _, r := range rounds {
		each = append(each, fmt.Sprintf("%.0f", r.rate()))
		if r.rate() > best.rate() {
			best = r
		}
	}
	span := b.span(rowSpan) / 2
	sqlite, err := ceiling(ctx, "BenchmarkBareRows", "./coordinator/internal/store", "VEDETTE_ROWS="+fmt.Sprintf("%d %d %d %d %g",
		rowHosts, rowBehaviours, rowsPerBatch, max(1, int(best.perEntry()+rowsPerBatch/2)/rowsPerBatch), span.Seconds()))
	if err != nil {
		return missing(err)
	}
	log, err := ceiling(ctx, "BenchmarkBareLog", "./coordinator/internal/consensus", fmt.Sprintf("VEDETTE_LOG=%.0f %g", best.entryBytes(), span.Seconds()))
	if err != nil {
		return missing(err)
	}
	for name := range log {
		log[name] *= best.perEntry()
	}
	reopened := 0
	for _, s := range run.sources {
		reopened += s.Reopened
	}
	lower := min(sqlite["three"], log["three"])
	micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1000 / float64(best.deltas) }
	return []figure.Row{
		figure.AtLeast(rowsName, best.rate(), 40_000, "rows/s", fmt.Sprintf(
			"acknowledged to %d sessions, %d at a time, until the last node had applied the last; best of %d rounds (%s); %d hosts with %d behaviours; entries of %.0f rows, %.0f KiB; load %s",
			rowHosts, rowsAtOnce, len(rounds), strings.Join(each, ", "), rowHosts, rowBehaviours, best.perEntry(), best.entryBytes()/1024, best.load)),
		figure.AtLeast(shareName, 100*best.rate()/lower, 60, "%", "the nodes share the machine with the sensors and each other; the ceilings have it for themselves"),
		entrySize(rounds),
		figure.Info("SQLite alone, one prepared UPDATE a row, three at once", sqlite["three"], "rows/s", "each of three, the same rows in the same transactions"),
		figure.Info("SQLite alone, one", sqlite["alone"], "rows/s", ""),
		figure.Info("raft-wal alone, entries of that size, three at once", log["three"], "rows/s", "each of three, an fsync an entry"),
		figure.Info("raft-wal alone, one", log["alone"], "rows/s", ""),
		figure.Info("CPU of the three nodes for each delta", micros(best.nodes), "µs", "receiving, committing and applying three times"),
		figure.Info("CPU of the sensors for each delta", micros(best.sensors), "µs", "on the same processors here; summaries are encoded before"),
		figure.Info("disk of one node for each behaviour that a host has", float64(run.disk)/(rowHosts*rowBehaviours), "bytes", "its count and times; what it is stands once for the fleet"),
		figure.Info("sessions that ended while they sent", float64(reopened), "sessions", "a node that cannot commit within 4 s sends its sensor elsewhere"),
		figure.Exactly("behaviours whose count is not what was acknowledged", float64(run.wrong), 0, "behaviours",
			fmt.Sprintf("of %d that each of three nodes was asked for", run.asked)),
	}
}

// entryMost is half of the 512 KiB that an entry is to stay well below; near 64 KiB is asked for.
const entryMost = 256 // KiB

// entrySize judges the round whose entries were the largest in the mean.
func entrySize(rounds []rowsRound) figure.Row {
	worst := rounds[0]
	for _, r := range rounds {
		if r.entryBytes() > worst.entryBytes() {
			worst = r
		}
	}
	return figure.AtMost("size of a log entry under that load, mean", worst.entryBytes()/1024, entryMost, "KiB", fmt.Sprintf(
		"the largest mean of %d rounds; %.0f of its %.0f entries were above %d KiB", len(rounds), worst.large, worst.entries, entryMost))
}

// ceiling runs a benchmark of what a node is built on, alone and three at once.
func ceiling(ctx context.Context, name, folder, setting string) (map[string]float64, error) {
	figures, err := goBench(ctx, name, folder, "1x", setting)
	if err == nil && (figures["alone"] == 0 || figures["three"] == 0) {
		err = fmt.Errorf("%s printed no figure", name)
	}
	return figures, err
}

// rowsRun is a cluster of its own with the sensors that feed it.
type rowsRun struct {
	lab       *lab.Lab
	cluster   *lab.Cluster
	fleet     *fleet.Fleet
	nodes     []*client.Client // one for each node
	sources   []*fleet.Source
	summaries [][rowShares][]byte
	sent      []uint64 // of each source
	closing   sync.Once

	wrong, asked int
	disk         int64 // bytes of a node's state when all behaviours are stored
}

func newRowsRun(ctx context.Context, b *bench) (r *rowsRun, err error) {
	l, err := lab.New(b.bin, filepath.Join(b.dir, "rows"))
	if err != nil {
		return nil, err
	}
	r = &rowsRun{lab: l, sent: make([]uint64, rowHosts)}
	var nodes []lab.NodeSpec
	for i := range 3 {
		nodes = append(nodes, lab.NodeSpec{
			ID:     fmt.Sprintf("r%d", i+1),
			Listen: fmt.Sprintf("127.0.0.1:%d", *firstPort+20+i), Operator: fmt.Sprintf("127.0.0.1:%d", *firstPort+30+i),
		})
	}
	if r.cluster, err = l.StartCluster(ctx, nodes, func(string) {}); err != nil {
		return r, err
	}
	if err := r.connect(); err != nil {
		return r, err
	}
	r.fleet = fleet.New(fleet.Config{Nodes: r.cluster.Addresses(),
		Token: func(ctx context.Context) (string, error) {
			made, err := r.nodes[0].CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 600})
			return made.GetToken(), err
		},
		Progress: func(string) {}})
	r.sources, err = r.fleet.Sources(ctx, rowHosts)
	if err != nil {
		return r, err
	}
	return r, r.encode()
}

// connect makes an operator's client of each node alone: what is asked is what that node holds.
func (r *rowsRun) connect() error {
	c, err := client.LoadContext(r.cluster.Context, "")
	if err != nil {
		return err
	}
	for _, n := range r.cluster.Nodes {
		one := *c
		one.Nodes = []string{n.Operator}
		to, err := client.New(&one, client.Options{})
		if err != nil {
			return err
		}
		r.nodes = append(r.nodes, to)
	}
	return nil
}

func (r *rowsRun) close() {
	r.closing.Do(func() {
		fleet.Close(r.sources)
		if r.fleet != nil {
			r.fleet.Close()
		}
		for _, c := range r.nodes {
			c.Close()
		}
		if err := r.lab.Close(); err != nil {
			fmt.Fprintln(os.Stderr, "bench: ending the nodes of rows:", err)
		}
		// Keys and state are for nobody any more; logs stay where it failed.
		entries, _ := os.ReadDir(r.lab.Dir)
		for _, e := range entries {
			if e.Name() != "logs" {
				_ = os.RemoveAll(filepath.Join(r.lab.Dir, e.Name()))
			}
		}
	})
}

// encode draws every host's behaviours and makes the summaries that count them.
func (r *rowsRun) encode() error {
	r.summaries = make([][rowShares][]byte, rowHosts)
	now := time.Now().UnixNano()
	for host := range r.summaries {
		for share := range r.summaries[host] {
			s := &sensorv1.Summary{WindowStart: now, WindowEnd: now}
			for range rowsPerBatch {
				key := make([]byte, 16)
				_, _ = rand.Read(key)
				s.Deltas = append(s.Deltas, &sensorv1.BehaviourDelta{Key: key, Count: 1, LastSeen: now, Known: true})
			}
			var err error
			if r.summaries[host][share], err = proto.Marshal(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// rowsRound is one measured time.
type rowsRound struct {
	deltas         int64
	took           time.Duration
	nodes, sensors time.Duration // CPU
	proposed
	load string
}

func (r rowsRound) rate() float64       { return float64(r.deltas) / r.took.Seconds() }
func (r rowsRound) perEntry() float64   { return float64(r.deltas) / max(1, r.entries) }
func (r rowsRound) entryBytes() float64 { return r.bytes / max(1, r.entries) }

// measure fills the state and then counts, several times.
func (r *rowsRun) measure(ctx context.Context, span time.Duration) ([]rowsRound, error) {
	began := time.Now()
	if _, err := r.feed(ctx, rowsFilling, func(sent uint64) bool { return sent < rowShares }); err != nil {
		return nil, fmt.Errorf("filling the state: %w", err)
	}
	if _, err := r.everywhere(ctx); err != nil {
		return nil, err
	}
	fmt.Fprintf(os.Stderr, "    %d behaviours stored in %s\n", rowHosts*rowBehaviours, time.Since(began).Round(time.Millisecond))
	var rounds []rowsRound
	for range rowRounds {
		round, err := r.round(ctx, span)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(os.Stderr, "    %.0f deltas/s, CPU of nodes %s and sensors %s in %s, %.0f entries of %.0f rows and %.0f KiB, load %s\n", round.rate(),
			ms(round.nodes), ms(round.sensors), ms(round.took), round.entries, round.perEntry(), round.entryBytes()/1024, round.load)
		rounds = append(rounds, round)
	}
	state, err := os.Stat(filepath.Join(r.lab.NodeDir(r.cluster.Nodes[0].ID), "state.db"))
	if err != nil {
		return nil, fmt.Errorf("asking how large the state is: %w", err)
	}
	r.disk = state.Size()
	return rounds, r.check(ctx)
}

func (r *rowsRun) round(ctx context.Context, span time.Duration) (round rowsRound, err error) {
	before, err := r.proposed(ctx)
	if err != nil {
		return round, err
	}
	nodes, sensors, began := r.cpu(), ownCPU(), time.Now()
	if round.deltas, err = r.feed(ctx, rowsAtOnce, func(uint64) bool { return time.Since(began) < span }); err != nil {
		return round, err
	}
	if _, err := r.everywhere(ctx); err != nil {
		return round, err
	}
	round.took, round.nodes, round.sensors, round.load = time.Since(began), r.cpu()-nodes, ownCPU()-sensors, loadNow()
	after, err := r.proposed(ctx)
	round.proposed = proposed{after.entries - before.entries, after.bytes - before.bytes, after.large - before.large}
	return round, err
}

// feed has the sources of each node send in turn, some at once, while more says so of what
// one has sent; it answers how many deltas were acknowledged.
func (r *rowsRun) feed(ctx context.Context, atOnce int, more func(sent uint64) bool) (int64, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var acked atomic.Int64
	var sending sync.WaitGroup
	for first := range atOnce {
		sending.Go(func() {
			for i := first; more(r.sent[i]); {
				if err := r.sources[i].Send(ctx, r.summaries[i][r.sent[i]%rowShares]); err != nil {
					cancel(fmt.Errorf("sensor %d: %w", i, err))
					return
				}
				r.sent[i]++
				acked.Add(rowsPerBatch)
				if i += atOnce; i >= len(r.sources) {
					i = first
				}
			}
		})
	}
	sending.Wait()
	return acked.Load(), context.Cause(ctx)
}

// everywhere waits until every node has applied what any has, and answers the index.
func (r *rowsRun) everywhere(ctx context.Context) (uint64, error) {
	var most uint64
	err := lab.Until(ctx, 20*time.Millisecond, "three nodes at the same index", func(ctx context.Context) (bool, error) {
		all := true
		for _, n := range r.nodes {
			status, err := n.Status(ctx)
			if err != nil {
				return false, err
			}
			at := status.GetAppliedIndex()
			all = all && at >= most
			most = max(most, at)
		}
		return all, nil
	})
	return most, err
}

// proposed is what all nodes proposed: entries, their bytes, and how many were above entryMost.
type proposed struct{ entries, bytes, large float64 }

func (r *rowsRun) proposed(ctx context.Context) (sum proposed, err error) {
	for _, n := range r.nodes {
		seen, err := metrics(ctx, n)
		if err != nil {
			return sum, err
		}
		within, known := seen[fmt.Sprintf(`vedette_proposal_bytes_bucket{le="%d"}`, entryMost<<10)]
		if !known {
			return sum, fmt.Errorf("a node does not count proposals of at most %d KiB", entryMost)
		}
		sum.entries += seen["vedette_proposal_bytes_count"]
		sum.bytes += seen["vedette_proposal_bytes_sum"]
		sum.large += seen["vedette_proposal_bytes_count"] - within
	}
	return sum, nil
}

func (r *rowsRun) cpu() (sum time.Duration) {
	for _, p := range r.cluster.Members {
		if used, err := cpu(p.PID()); err == nil {
			sum += used
		}
	}
	return sum
}

// check asks each node for behaviours of some hosts: each was counted once for every time
// that its summary was acknowledged.
func (r *rowsRun) check(ctx context.Context) error {
	for i := 0; i < len(r.sources); i += len(r.sources) / 10 {
		most := (r.sent[i] + rowShares - 1) / rowShares
		for _, node := range r.nodes {
			host, err := node.Host(ctx, r.sources[i].ID())
			if err != nil {
				return fmt.Errorf("asking for a host: %w", err)
			}
			if host.GetHost().GetId() == "" || len(host.GetBehaviours()) == 0 {
				return errors.New("a node answers no behaviours of a host that has told them")
			}
			for _, b := range host.GetBehaviours() {
				r.asked++
				if least := r.sent[i] / rowShares; b.GetCount() < least || b.GetCount() > most {
					r.wrong++
				}
			}
		}
	}
	return nil
}

// metrics are a node's figures, by their names with their labels.
func metrics(ctx context.Context, node *client.Client) (map[string]float64, error) {
	info, err := node.DebugInfo(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking for metrics: %w", err)
	}
	seen := make(map[string]float64)
	for line := range strings.Lines(info.GetMetrics()) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			seen[name] = v
		}
	}
	return seen, nil
}
