package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/scripts/internal/figure"
	"github.com/vedette-edr/vedette/scripts/internal/fleet"
	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const (
	fleetRounds = 3
	// fleetLimit bounds one size of the fleet, from its first token to the last release.
	fleetLimit = 6 * time.Minute
	// roundLimit bounds one order.
	roundLimit = 60 * time.Second
	// settleFor is how long a grown fleet is left alone: what its coming has made is over.
	settleFor = 5 * time.Second
)

// fleetSizes are how many sensors, and within what the slowest but one in a hundred must
// have answered an order for all of them.
var fleetSizes = []struct {
	sensors int
	most    time.Duration
}{
	{1000, 300 * time.Millisecond},
	{10_000, 3 * time.Second},
}

// fleetSpeed gives an order to all of a fleet at once and waits for every answer. The
// nodes are processes of their own, and all sensors together are this one: on one
// machine they share the processors, which in life each host has for itself.
func fleetSpeed(ctx context.Context, b *bench) []figure.Row {
	// What still runs would be load that the figures do not know of.
	if err := b.lab.Close(); err != nil {
		return []figure.Row{figure.Missing(answeredName(fleetSizes[0].sensors), "ms", "≤ 300", err)}
	}
	var rows []figure.Row
	run, err := newFleetRun(ctx, b)
	if run != nil {
		defer run.close()
	}
	for i, size := range fleetSizes {
		if i > 0 && b.quick {
			break
		}
		var more []figure.Row
		if err == nil {
			more, err = run.at(ctx, size.sensors, size.most)
			rows = append(rows, more...)
		}
		if err != nil {
			rows = append(rows, figure.Missing(answeredName(size.sensors), "ms", fmt.Sprintf("≤ %d", size.most.Milliseconds()), err))
		}
	}
	return rows
}

func answeredName(sensors int) string {
	return fmt.Sprintf("command → answer of %d sensors committed, p99", sensors)
}

// fleetRun is a cluster of its own with its fleet and the two operators whom an order for
// a whole fleet needs.
type fleetRun struct {
	lab         *lab.Lab
	cluster     *lab.Cluster
	fleet       *fleet.Fleet
	first, next *client.Client
}

func (r *fleetRun) close() {
	if r.fleet != nil {
		r.fleet.Close()
	}
	for _, c := range []*client.Client{r.first, r.next} {
		if c != nil {
			c.Close()
		}
	}
	if err := r.lab.Close(); err != nil {
		fmt.Fprintln(os.Stderr, "bench: ending the fleet's nodes:", err)
	}
	// Keys and state are for nobody any more, however the bench ends; logs stay where it failed.
	entries, _ := os.ReadDir(r.lab.Dir)
	for _, e := range entries {
		if e.Name() != "logs" {
			_ = os.RemoveAll(filepath.Join(r.lab.Dir, e.Name()))
		}
	}
}

func newFleetRun(ctx context.Context, b *bench) (r *fleetRun, err error) {
	l, err := lab.New(b.bin, filepath.Join(b.dir, "fleet"))
	if err != nil {
		return nil, err
	}
	r = &fleetRun{lab: l}
	var nodes []lab.NodeSpec
	for i := range 3 {
		nodes = append(nodes, lab.NodeSpec{
			ID:     fmt.Sprintf("f%d", i+1),
			Listen: fmt.Sprintf("127.0.0.1:%d", *firstPort+20+i), Operator: fmt.Sprintf("127.0.0.1:%d", *firstPort+30+i),
		})
	}
	if r.cluster, err = l.StartCluster(ctx, nodes, func(string) {}); err != nil {
		return r, err
	}
	if r.first, err = operatorClient(r.cluster.Context); err != nil {
		return r, err
	}
	second, err := r.secondOperator(ctx)
	if err != nil {
		return r, err
	}
	if r.next, err = operatorClient(second); err != nil {
		return r, err
	}
	r.fleet = fleet.New(fleet.Config{Nodes: r.cluster.Addresses(),
		Token: func(ctx context.Context) (string, error) {
			made, err := r.first.CreateToken(ctx, &operatorv1.CreateTokenRequest{Kind: "sensor", TtlSeconds: 600})
			return made.GetToken(), err
		},
		Progress: func(text string) { fmt.Fprintf(os.Stderr, "    %s\n", text) },
	})
	return r, nil
}

// secondOperator makes another one, who approves. It is the only place here that knows
// how an operator is made.
func (r *fleetRun) secondOperator(ctx context.Context) (contextFile string, err error) {
	contextFile = filepath.Join(r.lab.Dir, "second.context.yaml")
	args := []string{"--context-file", filepath.Join(r.lab.Dir, "admin.context.yaml"), "operator", "create", "second", "--role", "responder", "--out", contextFile}
	for _, n := range r.cluster.Nodes {
		args = append(args, "--node", n.Operator)
	}
	_, err = r.cluster.CLI(ctx, args...)
	return contextFile, err
}

func operatorClient(contextFile string) (*client.Client, error) {
	c, err := client.LoadContext(contextFile, "")
	if err != nil {
		return nil, err
	}
	return client.New(c, client.Options{})
}

// fleetRound is what one order took.
type fleetRound struct {
	fleet.Times
	ordered time.Duration // the first operator: looked at all hosts, and gave the order
	shown   time.Duration // the second: it is shown as applied everywhere
	polls   int
	nodes   time.Duration // CPU
	sensors time.Duration
	load    string
}

// at grows the fleet to a size and orders it about.
func (r *fleetRun) at(ctx context.Context, sensors int, most time.Duration) ([]figure.Row, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, fleetLimit, fmt.Errorf("not within %s", fleetLimit))
	defer cancel()
	began := time.Now()
	before, err := r.nodesRSS()
	if err != nil {
		return nil, err
	}
	grown := sensors - r.fleet.Size()
	if err := r.fleet.Grow(ctx, sensors); err != nil {
		return nil, err
	}
	came := time.Since(began)
	if err := pause(ctx, settleFor); err != nil {
		return nil, err
	}
	after, err := r.nodesRSS()
	if err != nil {
		return nil, err
	}
	lost, _ := r.fleet.Lost()
	var rounds []fleetRound
	for i := range fleetRounds {
		round, err := r.isolate(ctx)
		if err != nil {
			return nil, fmt.Errorf("order %d: %w", i+1, err)
		}
		rounds = append(rounds, round)
		fmt.Fprintf(os.Stderr, "    %d sensors, order %d: verified p99 %s, committed p50 %s p99 %s, CPU of nodes %s and sensors %s, load %s\n", sensors, i+1,
			ms(fleet.Quantile(round.Verified, 0.99)), ms(fleet.Quantile(round.Acknowledged, 0.5)), ms(fleet.Quantile(round.Acknowledged, 0.99)),
			ms(round.nodes), ms(round.sensors), round.load)
	}
	again, why := r.fleet.Lost()
	rows := fleetRows(sensors, most, rounds)
	return append(rows,
		figure.Exactly(fmt.Sprintf("sessions of %d sensors lost meanwhile", sensors), float64(again-lost), 0, "sessions", why),
		figure.Info(fmt.Sprintf("memory of the nodes for each of %d sessions", grown), float64(after-before)/float64(grown), "KiB",
			"growth of three processes' VmRSS while they came, the state's caches in it"),
		figure.Info(fmt.Sprintf("%d sensors enrolled and connected", grown), float64(grown)/came.Seconds(), "sensors/s",
			fmt.Sprintf("each with a token, a key, a certificate and a session of its own, eight sockets for all; %.0f s", came.Seconds())),
	), nil
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }

func fleetRows(sensors int, most time.Duration, rounds []fleetRound) []figure.Row {
	p99 := func(r fleetRound) time.Duration { return fleet.Quantile(r.Acknowledged, 0.99) }
	best := slices.MinFunc(rounds, func(a, b fleetRound) int { return int(p99(a) - p99(b)) })
	var each []string
	for _, r := range rounds {
		each = append(each, fmt.Sprintf("%d", p99(r).Milliseconds()))
	}
	millis := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	return []figure.Row{
		figure.AtMost(answeredName(sensors), millis(p99(best)), float64(most.Milliseconds()), "ms", fmt.Sprintf(
			"from the second operator's approval to each sensor's ack; best of %d orders (%s), p50 %s, max %s; no summaries meanwhile; load %s",
			len(rounds), strings.Join(each, ", "), ms(fleet.Quantile(best.Acknowledged, 0.5)), ms(best.Acknowledged[len(best.Acknowledged)-1]), best.load)),
		figure.Info(fmt.Sprintf("command → grant verified by %d sensors, p99", sensors), millis(fleet.Quantile(best.Verified, 0.99)), "ms",
			fmt.Sprintf("p50 %s, max %s, of the same order", ms(fleet.Quantile(best.Verified, 0.5)), ms(best.Verified[len(best.Verified)-1]))),
		figure.Info(fmt.Sprintf("command → %d sensors shown as applied", sensors), millis(best.shown), "ms", fmt.Sprintf("what vedette approve --wait does, %d looks at the operation", best.polls)),
		figure.Info(fmt.Sprintf("CPU of the three nodes for each of %d answers", sensors), float64(best.nodes.Microseconds())/float64(sensors), "µs",
			"all of their CPU from the approval to the last answer: sending, committing, applying three times, the operator's looks"),
		figure.Info(fmt.Sprintf("CPU of the sensors for each of %d answers", sensors), float64(best.sensors.Microseconds())/float64(sensors), "µs",
			"on the same processors here, and a host's own in life: QUIC, two signatures (their chains are known but to the first order), the host's proof"),
		figure.Info(fmt.Sprintf("an order for %d hosts, looked at and given", sensors), millis(best.ordered), "ms", "before the clock above begins: the first operator's preview and signed order"),
	}
}

// isolate orders all hosts to be isolated, waits until they are, and lets them go.
func (r *fleetRun) isolate(ctx context.Context) (round fleetRound, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*roundLimit, fmt.Errorf("not within %s", 2*roundLimit))
	defer cancel()
	began := time.Now()
	given, err := r.give(ctx, sensorv1.Action_ACTION_ISOLATE)
	if err != nil {
		return round, fmt.Errorf("giving the order: %w", err)
	}
	round.ordered = time.Since(began)
	waiting, err := r.next.Operation(ctx, given)
	if err != nil {
		return round, err
	}
	nodes, own := r.nodesCPU(), ownCPU()
	round.load = loadNow()
	sent := r.fleet.Begin(sensorv1.Action_ACTION_ISOLATE)
	clock := time.Now()
	if _, err := r.next.Approve(ctx, waiting.GetOrder(), nil); err != nil {
		return round, fmt.Errorf("approving the order: %w", err)
	}
	rows, err := r.next.Wait(ctx, given, func([]*operatorv1.Isolation) { round.polls++ })
	if err != nil {
		if _, why := sent.Wait(ctx); why != nil {
			err = errors.Join(err, why)
		}
		return round, fmt.Errorf("waiting for the hosts: %w", err)
	}
	round.shown = time.Since(clock)
	if round.Times, err = sent.Wait(ctx); err != nil {
		return round, err
	}
	round.nodes, round.sensors = r.nodesCPU()-nodes, ownCPU()-own
	for _, row := range rows {
		if row.GetState() != "applied" {
			return round, fmt.Errorf("host %s is %s: %s", row.GetHost(), row.GetState(), row.GetDetail())
		}
	}
	release := r.fleet.Begin(sensorv1.Action_ACTION_RELEASE)
	if _, err := r.give(ctx, sensorv1.Action_ACTION_RELEASE); err != nil {
		return round, fmt.Errorf("releasing the hosts: %w", err)
	}
	_, err = release.Wait(ctx)
	return round, err
}

// give has the first operator give an order for every host.
func (r *fleetRun) give(ctx context.Context, action sensorv1.Action) (operation string, err error) {
	seen, err := r.first.PreviewOrder(ctx, &operatorv1.PreviewOrderRequest{Selector: &operatorv1.Selector{All: true}, Action: action})
	if err != nil {
		return "", err
	}
	order := client.Order{Action: action, Lease: 10 * time.Minute, Reason: "bench: the speed of an order", Seen: seen}
	if action == sensorv1.Action_ACTION_ISOLATE {
		// After the first order the hosts count as contained, and one would be enough.
		seen.Approvals = 2
		order.Level = sensorv1.IsolationLevel_ISOLATION_LEVEL_FULL
	}
	for _, host := range seen.GetHosts() {
		order.Hosts = append(order.Hosts, host.GetId())
	}
	given, err := r.first.Give(ctx, order)
	return given.GetOperation(), err
}

func (r *fleetRun) nodesCPU() (sum time.Duration) {
	for _, p := range r.cluster.Members {
		if used, err := cpu(p.PID()); err == nil {
			sum += used
		}
	}
	return sum
}

func (r *fleetRun) nodesRSS() (sum int, err error) {
	for _, p := range r.cluster.Members {
		kib, err := statusKiB(p.PID(), "VmRSS:")
		if err != nil {
			return 0, err
		}
		sum += kib
	}
	return sum, nil
}

func ownCPU() time.Duration {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func loadNow() string {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(load))[:2], " ")
}
