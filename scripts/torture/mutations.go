package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/scripts/internal/figure"
)

// Each kind of file that a node keeps is damaged in two ways: thousands of times in a test's
// process, where each is opened, read and compared at once, and some times in a real cluster.

const (
	// mutatedFiles is how many files the tests damage, each as often as the others.
	mutatedFiles = 18
	// damagedIn is how long a node may take to refuse its files, or to be as the others again.
	damagedIn = 60 * time.Second
	// thereIn is how long a node may take to have a file of a kind, such as its first snapshot.
	thereIn = 15 * time.Second

	snapshotFiles    = "raft/snapshots/*/state.bin"
	damagedInCluster = "files damaged in a cluster"
)

// kinds of files in a node's directory; of several that match one is drawn.
var fileKinds = []string{"state.db", "state.db-wal", "state.db-shm", "raft/wal/*.wal", "raft/wal/wal-index.json", snapshotFiles,
	"raft/snapshots/*/meta.json", "raft/snapshots/*/meta.sum", "cluster.json", "ca.crt", "ca.key", "operators.crt", "node.crt", "node.key"}

// mutation is one step of the plan.
type mutation struct {
	node int
	kind string
	// how it is damaged, and where, as a share of its content.
	how   string
	where float64
	// killed: the node dies, and leaves the journal of its state; otherwise it is stopped.
	killed bool
	// which of several files, and the seed of noise.
	which int
	noise uint64
}

var hows = []string{"a bit flipped", "cut", "a page of zeros", "a page of noise", "a page twice"}

func (m mutation) String() string {
	way := "stopped"
	if m.killed {
		way = "killed"
	}
	return fmt.Sprintf("%s %s, %s: %s at %.0f %%", id(m.node), way, m.kind, m.how, 100*m.where)
}

// planMutations is n of them, of each kind of file in turn.
func planMutations(seed uint64, n, nodes int) (all []mutation) {
	d := dice(seed, "mutations")
	order := d.Perm(len(fileKinds))
	for i := range n {
		m := mutation{node: d.IntN(nodes), kind: fileKinds[order[i%len(order)]], how: hows[d.IntN(len(hows))], where: d.Float64(),
			killed: d.IntN(2) == 0, which: d.IntN(1 << 16), noise: d.Uint64()}
		switch {
		case m.kind == "state.db-wal" || m.kind == "state.db-shm":
			m.killed = true // a node that is stopped leaves neither
		case m.kind == "state.db" && i < len(order):
			m.how, m.where, m.killed = "cut", 0.1+0.8*m.where, false // so that each plan has one that is plain
		}
		all = append(all, m)
	}
	return all
}

// plain says that the node cannot but see it: of what it reads when it starts nothing is left,
// or of its state, which no journal mends, less than SQLite's first page says.
func (m mutation) plain() bool {
	switch m.kind {
	case "state.db":
		return m.how == "cut" && m.where >= 0.1 && m.where <= 0.9 && !m.killed
	case "cluster.json", "ca.crt", "ca.key", "operators.crt", "node.crt", "node.key": // each is less than a page
		return m.how == "a page of zeros" || m.how == "a page of noise"
	}
	return false
}

// files are those of a kind; of a snapshot that is being made nothing is ever read.
func files(dir, kind string) ([]string, error) {
	paths, err := filepath.Glob(filepath.Join(dir, kind))
	paths = slices.DeleteFunc(paths, func(path string) bool { return strings.HasSuffix(filepath.Dir(path), ".tmp") })
	slices.Sort(paths)
	return paths, err
}

// damage says whether a file is another than before: the one that was drawn may be empty, or
// zeros where it is to be zeros, and then the next is taken.
func (m mutation) damage(dir string) (changed bool, err error) {
	paths, err := files(dir, m.kind)
	for i := range paths {
		path := paths[(m.which+i)%len(paths)]
		content, err := os.ReadFile(path)
		if err != nil {
			return false, err
		}
		if after := m.damaged(slices.Clone(content)); !bytes.Equal(after, content) {
			return true, os.WriteFile(path, after, 0o600)
		}
	}
	return false, err
}

// damaged is the content as the step leaves it. What is preallocated and empty is not drawn.
func (m mutation) damaged(b []byte) []byte {
	const page = 4096
	used := len(strings.TrimRight(string(b), "\x00"))
	if used == 0 {
		return b
	}
	at := min(int(m.where*float64(used)), used-1)
	block := b[at/page*page : min(at/page*page+page, len(b))]
	noise := rand.New(rand.NewPCG(m.noise, 0)) //nolint:gosec // it is to be drawn again
	switch m.how {
	case "a bit flipped":
		b[at] ^= 1 << noise.IntN(8)
	case "cut":
		b = b[:at]
	case "a page of zeros":
		clear(block)
	case "a page of noise":
		for i := range block {
			block[i] = byte(noise.Uint32()) //nolint:gosec // a byte of it
		}
	case "a page twice":
		b = slices.Insert(b, at/page*page, slices.Clone(block)...)
	}
	return b
}

func corruptions(ctx context.Context, cfg config, dir string) []figure.Row {
	// The cluster first: it is the one that needs quiet, and the other takes what time is left.
	rows := mutateCluster(ctx, cfg, dir)
	return append(rows, mutateInProcess(ctx, cfg)...)
}

var mutated = regexp.MustCompile(`mutations of (.+): (\d+) done, (\d+) refused, (\d+) healed, (\d+) harmless, (\d+) spread`)

func mutateInProcess(ctx context.Context, cfg config) (rows []figure.Row) {
	const name = "files damaged in a process"
	if cfg.mutations == 0 {
		return nil
	}
	each := (cfg.mutations + mutatedFiles - 1) / mutatedFiles
	target := fmt.Sprintf("≥ %d", cfg.mutations)
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-v", "-timeout", "60m", "-run", "Mutations$",
		"./coordinator/internal/state", "./coordinator/internal/consensus", "./coordinator/internal/identity")
	cmd.Env = append(os.Environ(), fmt.Sprintf("VEDETTE_MUTATIONS=%d", each), fmt.Sprintf("VEDETTE_SEED=%d", cfg.seed))
	if _, err := os.Stat("/dev/shm"); err == nil {
		cmd.Env = append(cmd.Env, "TMPDIR=/dev/shm") // no disk is tested here
	}
	printed, err := cmd.CombinedOutput()
	var done, spread int
	for _, m := range mutated.FindAllStringSubmatch(string(printed), -1) {
		n, _ := strconv.Atoi(m[2])
		bad, _ := strconv.Atoi(m[6])
		done, spread = done+n, spread+bad
		rows = append(rows, figure.Info(m[1]+" damaged", float64(n), "", fmt.Sprintf("%s refused, %s healed, %s harmless", m[3], m[4], m[5])))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, lastLines(string(printed), 60))
		rows = append(rows, figure.Missing(name+": each refused, healed or harmless", "", "all", brief(cfg, err)))
	}
	return append(rows,
		figure.AtLeast(name, float64(done), float64(cfg.mutations), "", fmt.Sprintf("seed %d; %s", cfg.seed, target)),
		figure.Exactly("files damaged in a process: read as something else, and not found", float64(spread), 0, "", ""))
}

// came is what came of the damage to a cluster's nodes.
type came struct {
	refused, healed, harmless map[string]int
	// unchanged are steps that found nothing to damage: they are not done.
	unchanged    map[string]int
	done, spread int
	// seen is how many of those that are plain were refused or healed.
	seen  int
	tally tally
}

func newCame() came {
	return came{refused: map[string]int{}, healed: map[string]int{}, harmless: map[string]int{}, unchanged: map[string]int{}}
}

func mutateCluster(ctx context.Context, cfg config, dir string) []figure.Row {
	r, err := newRig(ctx, cfg, dir, ",digest-every:20,look-ms:300", nothingFirst)
	if err != nil {
		return []figure.Row{figure.Missing(damagedInCluster, "", fmt.Sprintf("≥ %d", cfg.damaged), err)}
	}
	out := newCame()
	all, err := r.sensors(ctx, killSensors)
	if err == nil {
		p := push(context.WithoutCancel(ctx), all, killRhythm)
		// In the place of steps that changed nothing come the plan's next ones.
		for i, m := range planMutations(cfg.seed, cfg.damaged+len(fileKinds), nodes) {
			if ctx.Err() != nil || out.done == cfg.damaged {
				break
			}
			one := r.mutate(context.WithoutCancel(ctx), m, &out)
			if one = errors.Join(one, p.failed()); one != nil {
				err = fmt.Errorf("damage %d, %s: %w", i+1, m, one)
				break
			}
			if out.done > 0 && out.done%tellEvery == 0 {
				fmt.Printf("torture: %d of %d files damaged, %d spread\n", out.done, cfg.damaged, out.spread)
			}
		}
		err = errors.Join(err, p.stop())
	}
	if err == nil {
		out.tally, err = r.exactly(context.WithoutCancel(ctx), all)
	}
	err = errors.Join(err, r.close(cfg.keep || err != nil))
	rows := out.rows(cfg)
	if err != nil {
		rows = append(rows, figure.Missing("the plan of damage", "", "followed to its end", brief(cfg, err)))
	}
	return rows
}

func (out *came) rows(cfg config) []figure.Row {
	plain, unchanged := 0, 0
	for _, m := range planMutations(cfg.seed, cfg.damaged, nodes) {
		if m.plain() {
			plain++
		}
	}
	var of []string
	for _, kind := range fileKinds {
		if n := out.unchanged[kind]; n > 0 {
			unchanged += n
			of = append(of, fmt.Sprintf("%s ×%d", kind, n))
		}
	}
	rows := []figure.Row{
		figure.AtLeast(damagedInCluster, float64(out.done), float64(cfg.damaged), "", fmt.Sprintf("seed %d; three nodes, one after the other, under writes; each changed a file", cfg.seed)),
		figure.AtLeast("of these, plain to see, and refused or made anew", float64(out.seen), float64(plain), "", "a state that is cut, nothing left of a key, a certificate or the node's description"),
		figure.Info("steps that found nothing to change, which are not counted", float64(unchanged), "", strings.Join(of, ", ")),
	}
	for _, kind := range fileKinds {
		refused, healed, harmless := out.refused[kind], out.healed[kind], out.harmless[kind]
		if n := refused + healed + harmless; n > 0 {
			rows = append(rows, figure.Info(kind+" damaged in a cluster", float64(n), "", fmt.Sprintf("%d refused with what to do, %d re-synced or made anew, %d harmless: the whole state is the others'", refused, healed, harmless)))
		}
	}
	return append(rows,
		figure.Exactly("damage that spread: states that differ at one entry afterwards", float64(out.spread), 0, "", ""),
		figure.Exactly("acknowledged lost by damage", float64(out.tally.lost), 0, "", fmt.Sprintf("of %d", out.tally.acknowledged)),
		figure.Exactly("acknowledged doubled by damage", float64(out.tally.doubled), 0, "", ""))
}

// mutate damages a file of one node that does not run, starts it and waits for what comes of it.
func (r *rig) mutate(ctx context.Context, m mutation, out *came) error {
	r.there(ctx, m.node, m.kind)
	p := r.Members[id(m.node)]
	if m.killed {
		p.Kill()
	} else if err := p.Stop(); err != nil {
		return err
	}
	dir, whole := r.data(m.node), filepath.Join(r.dir, "whole")
	if err := errors.Join(os.RemoveAll(whole), program(ctx, "cp", "-a", dir, whole)); err != nil {
		return err
	}
	changed, err := m.damage(dir)
	if err != nil {
		return err
	}
	if !changed {
		out.unchanged[m.kind]++
		return errors.Join(r.start(ctx, m.node, ""), r.level(ctx))
	}
	from := r.said()
	if err := r.start(ctx, m.node, ""); err != nil {
		return err
	}
	text, refused, err := r.outcome(ctx, m, from)
	if err != nil {
		return fmt.Errorf("%w\n%s said:\n%s", err, id(m.node), lastLines(text, 15))
	}
	if strings.Contains(text, "goroutine ") && !strings.Contains(text, "cannot be applied") {
		return fmt.Errorf("it panicked:\n%s", lastLines(text, 30))
	}
	settled := r.said()
	out.done++
	healed := strings.Contains(text, "set aside") || strings.Contains(text, "this node serves")
	if m.plain() && (refused || healed) {
		out.seen++
	}
	switch {
	case refused:
		out.refused[m.kind]++
		if err := errors.Join(os.RemoveAll(dir), program(ctx, "cp", "-a", whole, dir), r.start(ctx, m.node, "")); err != nil {
			return err
		}
	case healed:
		out.healed[m.kind]++
	default:
		out.harmless[m.kind]++
	}
	if err := r.level(ctx); err != nil {
		return err
	}
	// The others from the damage on, this one since it is as they are.
	from[m.node] = settled[m.node]
	return r.same(ctx, from, out)
}

// there waits for a node to have a file of a kind. Where none comes, there is nothing to damage,
// and a place is not reached: both are told.
func (r *rig) there(ctx context.Context, node int, kind string) {
	_ = until(ctx, thereIn, "a "+kind, func(context.Context) (bool, error) {
		paths, err := files(r.data(node), kind)
		return len(paths) > 0, errors.Join(err, errors.New("there is none"))
	})
}

// outcome waits until the node has ended by itself, or holds what a majority holds.
func (r *rig) outcome(ctx context.Context, m mutation, from []int64) (text string, refused bool, err error) {
	p, again := r.Members[id(m.node)], false
	err = until(ctx, damagedIn, "the node to refuse its files or to be as the others", func(ctx context.Context) (bool, error) {
		text = r.since(m.node, from[m.node])
		select {
		case <-p.Exited():
		default:
			return strings.Contains(text, "the whole state is that of a majority") || strings.Contains(text, "this node serves"), errors.New("it runs")
		}
		text = r.since(m.node, from[m.node])
		if strings.Contains(text, "cannot be applied") && !again {
			again = true // a service is started again, and its state is then made anew
			if err := r.start(ctx, m.node, ""); err != nil {
				return false, err
			}
			p = r.Members[id(m.node)]
			return false, nil
		}
		refused = true
		return true, nil
	})
	if err == nil && refused && !strings.Contains(text, "join again") && !strings.Contains(text, filepath.Base(m.kind)) && !strings.Contains(text, r.data(m.node)) {
		err = errors.New("it ended, and does not say why and what to do")
	}
	return text, refused, err
}

// said is how long each node's log is.
func (r *rig) said() (sizes []int64) {
	for i := range nodes {
		info, err := os.Stat(r.Members[id(i)].LogPath)
		if err != nil {
			sizes = append(sizes, 0)
			continue
		}
		sizes = append(sizes, info.Size())
	}
	return sizes
}

func (r *rig) since(node int, from int64) string {
	raw, err := os.ReadFile(r.Members[id(node)].LogPath)
	if err != nil || int64(len(raw)) < from {
		return ""
	}
	return string(raw[from:])
}

// same waits until all nodes have spoken of an entry since then, and compares what they say.
func (r *rig) same(ctx context.Context, from []int64, out *came) error {
	return until(ctx, patience, "all nodes to speak of one entry", func(context.Context) (bool, error) {
		said := map[string][]string{}
		for i := range nodes {
			mine := map[string]string{}
			for _, line := range strings.Split(r.since(i, from[i]), "\n") {
				if strings.Contains(line, `"state digest"`) {
					mine[field(line, "index=")] = field(line, "digest=")
				}
			}
			for index, digest := range mine {
				said[index] = append(said[index], digest)
			}
		}
		all := false
		for index, digests := range said {
			all = all || len(digests) == nodes
			if len(slices.Compact(slices.Sorted(slices.Values(digests)))) > 1 {
				out.spread++
				fmt.Printf("torture: entry %s has several states\n", index)
				return true, nil
			}
		}
		return all, errors.New("not yet")
	})
}
