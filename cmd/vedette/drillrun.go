package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/drill"
	"github.com/vedette-edr/vedette/proto/intent"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// maxRun bounds what the sensor's program says of a run, in bytes.
const maxRun = 4 << 20

// drilled is a drill with all that is known of it.
type drilled struct {
	drill.Done
	known    drill.Drill
	verdict  string
	host     string
	findings []*operatorv1.FindingRow
	incident *raftv1.Incident
	ended    string // how the investigator ended what made no incident
	respond  string
}

func (a *app) drillRunCommand() *cobra.Command {
	var sensor, config, dir, host string
	var settle, lookUp time.Duration
	var closing, forget bool
	c := &cobra.Command{
		Use:   "run [DRILL]...",
		Short: "do drills on this host, and ask the cluster what was found, investigated and would be done",
		Long: `Does drills on this host, all of them unless some are named, by 'vedette-sensor drill run', which
needs root. Then it asks the cluster for the findings that came of each, the incident that they
went into, and what would have been done at level 4 of the autonomy ladder; nothing is done.

A drill is not told to the sensor. Its first process has a mark in its arguments, by which its
findings are known afterwards. Incidents that drills caused stay open unless --close is given:
then those that hold nothing but this run's findings are closed as benign.

The cluster keeps the last result of each drill for 'vedette drill report'. The exit code is 3 when
something was missed, failed, left behind or, of a control, found.`,
		Example: `  sudo -E vedette drill run
  sudo -E vedette drill run cron-entry memory-program --close
  sudo -E vedette drill run -o json | jq -r '.[] | select(.verdict == "missed") | .drill'`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			var ids []string
			for _, d := range drill.All() {
				ids = append(ids, d.ID)
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: a.connected(func(ctx context.Context, s *session, args []string) error {
			for _, id := range args {
				if _, ok := drill.Find(id); !ok {
					return exit(exitNotFound, "no drill is called %q: 'vedette drill list' names them", id)
				}
			}
			run, failed := s.sensorRun(ctx, sensor, flagsOf(config, dir, lookUp), args)
			if run == nil {
				return failed
			}
			run.Host = first(host, run.Host)
			if run.Host == "" {
				return exit(exitError, "this host is not enrolled, so nobody knows what was found: name it with --host")
			}
			all, err := s.judge(ctx, run, settle)
			if err != nil {
				return err
			}
			if !forget {
				limited, cancel := s.limit(ctx)
				err = s.api.PutDrills(limited, kept(all))
				cancel()
				if err != nil {
					s.say("the results are not kept: %s", err)
				}
			}
			if closing {
				s.closeDrilled(ctx, all, run)
			}
			if _, said := output.Print(s.Printer, drilledTable(), output.Rows(all)); said != nil {
				return said
			}
			return errors.Join(err, failed, s.tally(all, run))
		}),
	}
	f := c.Flags()
	f.StringVar(&sensor, "sensor", "", "the sensor's `program` (default: beside this one, then in PATH)")
	f.StringVar(&config, "config", "", "the sensor's config `file` (default: the sensor's own)")
	f.StringVar(&dir, "dir", "", "`folder` for scratch (default: the sensor's own)")
	f.StringVar(&host, "host", "", "the id of this host in the cluster (default: by the sensor's identity)")
	f.DurationVar(&settle, "settle", 30*time.Second, "how long findings may take after the last drill")
	f.DurationVar(&lookUp, "look-up", 0, "what the sensor may take to look up watched paths in a new mount namespace (default 2s, at most 20s)")
	f.BoolVar(&closing, "close", false, "close the incidents that hold nothing but this run's findings, as benign")
	f.BoolVar(&forget, "forget", false, "keep no results at the cluster")
	return c
}

// flagsOf are the sensor's program's arguments but for the drills.
func flagsOf(config, dir string, lookUp time.Duration) []string {
	args := []string{"drill", "run", "-o", "json"}
	if config != "" {
		args = append(args, "--config", config)
	}
	if dir != "" {
		args = append(args, "--dir", dir)
	}
	if lookUp > 0 {
		args = append(args, "--look-up", lookUp.String())
	}
	return args
}

// sensorRun has the sensor's program do the drills; what it says of each goes to stderr.
func (s *session) sensorRun(ctx context.Context, program string, args, ids []string) (*drill.Run, error) {
	if program == "" {
		program = "vedette-sensor"
		if self, err := os.Executable(); err == nil {
			if beside := filepath.Join(filepath.Dir(self), program); exists(beside) {
				program = beside
			}
		}
	}
	cmd := exec.CommandContext(ctx, program, append(args, ids...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, s.stderr
	// It cleans up when it is asked to end, which killing would leave to the next run.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	err := cmd.Run()
	if said.Len() == 0 || said.Len() > maxRun {
		return nil, exit(exitError, "running %s drill run: %w", program, errors.Join(err, errors.New("it told nothing")))
	}
	var run drill.Run
	if broken := json.Unmarshal(said.Bytes(), &run); broken != nil {
		return nil, exit(exitError, "reading what %s said: %w", program, broken)
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if err != nil { // of the run as a whole, or it says again what the drills say
		return &run, exit(exitPartial, "%s, which says above what went wrong: %w", program, err)
	}
	return &run, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// judged are a run's drills, of which nothing is known yet but what was done.
func judged(run *drill.Run) []*drilled {
	all := make([]*drilled, len(run.Drills))
	for i, done := range run.Drills {
		known, _ := drill.Find(done.ID)
		all[i] = &drilled{Done: done, known: known, host: run.Host}
	}
	return all
}

// judge joins what was found with what was done, until all is found or the time is over.
func (s *session) judge(ctx context.Context, run *drill.Run, settle time.Duration) ([]*drilled, error) {
	all := judged(run)
	deadline := time.NewTimer(time.Until(run.Ended.Add(settle)))
	defer deadline.Stop()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for waiting := true; waiting; {
		if err := s.join(ctx, all, run); err != nil {
			return nil, err
		}
		open := slices.ContainsFunc(all, func(d *drilled) bool { return d.State == drill.StateDone && len(d.findings) == 0 })
		if !open {
			break
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-deadline.C:
			waiting = false
		case <-tick.C:
		}
	}
	for _, d := range all {
		d.decide()
	}
	s.investigated(ctx, all)
	return all, s.wouldDo(ctx, all, run)
}

// slack is how far this host's clock as the sensor reads it may be from ours.
const slack = 2 * time.Second

func (s *session) join(ctx context.Context, all []*drilled, run *drill.Run) error {
	limited, cancel := s.limit(ctx)
	defer cancel()
	by := map[string]*drilled{}
	for _, d := range all {
		d.findings = nil
		by[d.ID] = d
	}
	for row, err := range s.api.Findings(limited, &operatorv1.ListFindingsRequest{Host: run.Host, Since: run.Began.Add(-slack).UnixNano()}) {
		if err != nil {
			return err
		}
		if d := by[drillOf(row.GetFinding(), run.Nonce)]; d != nil {
			d.findings = append(d.findings, row)
		}
	}
	for _, d := range all {
		slices.SortStableFunc(d.findings, func(a, b *operatorv1.FindingRow) int {
			return int(a.GetFinding().GetTime() - b.GetFinding().GetTime())
		})
	}
	return nil
}

// drillOf is the drill whose mark a process of the finding has, or one above it.
func drillOf(f *sensorv1.Finding, nonce string) string {
	for _, p := range append([]*sensorv1.Process{f.GetProcess()}, f.GetAncestors()...) {
		for _, arg := range p.GetArgv() {
			if id := drill.OfMark(nonce, string(arg)); id != "" {
				return id
			}
		}
	}
	return ""
}

func (d *drilled) decide() {
	switch {
	case d.State == drill.StateSkipped:
		d.verdict = drill.Skipped
	case d.State == drill.StateFailed:
		d.verdict = drill.Failed
	case d.known.Control() && len(d.findings) > 0:
		d.verdict = drill.Noisy
	case d.known.Control():
		d.verdict = drill.Quiet
	case len(d.findings) > 0:
		d.verdict = drill.Proven
	default:
		d.verdict = drill.Missed
	}
}

// named are the drill's techniques that a finding of it names.
func (d *drilled) named() (all []string) {
	var told []string
	for _, row := range d.findings {
		told = append(told, row.GetFinding().GetTechniques()...)
	}
	for _, id := range d.known.IDs() {
		if drill.Names(told, id) {
			all = append(all, id)
		}
	}
	return all
}

func (d *drilled) after() time.Duration {
	if len(d.findings) == 0 {
		return 0
	}
	return max(0, time.Unix(0, d.findings[0].GetFinding().GetTime()).Sub(d.Began))
}

func (d *drilled) why() string {
	return strings.Join(fields(append([]string{d.Why}, d.Left...)...), "; ")
}

// everything is an intent that permits all, to ask what automation would do at most. It is
// put to the recorded findings and never applied.
const everything = "@id(\"drill\")\npermit (principal, action, resource);\n"

func (s *session) wouldDo(ctx context.Context, all []*drilled, run *drill.Run) error {
	limited, cancel := s.limit(ctx)
	defer cancel()
	res, err := s.api.TestIntent(limited, &sensorv1.Intent{Policy: everything, Reason: "drill " + run.Nonce}, run.Began.Add(-slack).UnixNano(), 0)
	if errors.Is(err, client.ErrDenied) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, d := range all {
		for _, v := range res.GetVerdicts() {
			if d.respond != "" || v.GetLevel() < intent.Act || !slices.ContainsFunc(d.findings, func(r *operatorv1.FindingRow) bool { return r.GetFinding().GetId() == v.GetFinding() }) {
				continue
			}
			d.respond = v.GetAction()
			if v.GetHeld() != "" {
				d.respond += " (held: " + v.GetHeld() + ")"
			}
		}
	}
	return nil
}

// ofRun says that a finding comes from the run's own program as root. A mark alone is an
// argument, which any process of the host can copy.
func ofRun(f *sensorv1.Finding, run *drill.Run) bool {
	return slices.ContainsFunc(append([]*sensorv1.Process{f.GetProcess()}, f.GetAncestors()...), func(p *sensorv1.Process) bool {
		return run.Program != "" && string(p.GetImage()) == run.Program && p.GetUid() == 0 &&
			slices.ContainsFunc(p.GetArgv(), func(arg []byte) bool { return drill.OfMark(run.Nonce, string(arg)) != "" })
	})
}

// closeDrilled closes the incidents that hold nothing but findings of this run's own program.
func (s *session) closeDrilled(ctx context.Context, all []*drilled, run *drill.Run) {
	ours := map[string]bool{}
	for _, d := range all {
		for _, row := range d.findings {
			ours[row.GetFinding().GetId()] = ofRun(row.GetFinding(), run)
		}
	}
	for _, d := range all {
		i := d.incident
		if i == nil || i.GetStatus() == "closed" {
			continue
		}
		if slices.ContainsFunc(i.GetFindings(), func(id string) bool { return !ours[id] }) {
			s.say("incident %s holds findings that are not for certain a drill's: it stays open", i.GetId())
			continue
		}
		limited, cancel := s.limit(ctx)
		// Without a word to the sensors: a drill is an attack in all that they measure.
		closed, err := s.api.CloseIncident(limited, &operatorv1.CloseIncidentRequest{
			Id: i.GetId(), Disposition: "benign", Reason: "drill " + run.Nonce + ": " + d.ID, IdempotencyKey: client.NewID("key"),
		})
		cancel()
		if err != nil {
			s.say("closing %s: %s", i.GetId(), err)
			continue
		}
		for _, other := range all {
			if other.incident.GetId() == i.GetId() {
				other.incident = closed.GetIncident()
			}
		}
	}
}

// kept is what the cluster is told.
func kept(all []*drilled) (out []*raftv1.DrillResult) {
	for _, d := range all {
		out = append(out, &raftv1.DrillResult{
			Host: d.host, Drill: d.ID, Verdict: d.verdict, Time: d.Ended.UnixNano(), Named: d.named(), Findings: uint32(len(d.findings)), //nolint:gosec // few
			After: d.after().Nanoseconds(), Why: output.Cut(d.why(), 500), Incident: d.incident.GetId(), Mark: d.Mark,
		})
	}
	return out
}

func drilledTable() output.List[*drilled] {
	type row = *drilled
	return output.List[row]{
		Name:  func(d row) string { return d.ID },
		Value: func(d row) any { return d.shape() },
		Columns: []output.Column[row]{
			{Head: "DRILL", Cell: func(d row) string { return d.ID }},
			{Head: "TECHNIQUES", Max: 30, Cell: func(d row) string { return strings.Join(d.known.IDs(), ",") }},
			{Head: "VERDICT", Cell: func(d row) string { return d.verdict }, Paint: verdictColour},
			{Head: "AFTER", Right: true, Cell: func(d row) string {
				if len(d.findings) == 0 {
					return ""
				}
				return d.after().Round(10 * time.Millisecond).String()
			}},
			{Head: "FOUND AS", Max: 50, Cell: func(d row) string { return strings.Join(d.titles(), "; ") }},
			{Head: "INVESTIGATED", Cell: row.investigation},
			{Head: "WOULD DO", Max: 30, Cell: func(d row) string { return d.respond }},
			{Head: "CLEAN", Cell: func(d row) string { return map[bool]string{true: "yes", false: "NO"}[d.Clean] }},
			{Head: "WHY", Max: 60, Cell: row.why},
			{Head: "NAMED", Wide: true, Cell: func(d row) string { return strings.Join(d.named(), ",") }},
			{Head: "INCIDENT", Wide: true, Cell: func(d row) string { return d.incident.GetId() }},
			{Head: "MARK", Wide: true, Cell: func(d row) string { return d.Mark }},
		},
	}
}

func verdictColour(d *drilled) output.Colour {
	switch d.verdict {
	case drill.Proven, drill.Quiet:
		return output.Green
	case drill.Skipped:
		return output.Yellow
	default:
		return output.Red
	}
}

func (d *drilled) titles() (all []string) {
	for _, row := range d.findings {
		if title := row.GetFinding().GetTitle(); !slices.Contains(all, title) {
			all = append(all, title)
		}
	}
	return all
}

func (d *drilled) shape() shape.DrillResult {
	out := shape.DrillResult{
		Host: d.host, Drill: d.ID, Verdict: d.verdict, Techniques: d.known.IDs(), Named: d.named(), Findings: []string{}, Titles: d.titles(),
		AfterSeconds: d.after().Seconds(), Investigated: d.investigation(), Respond: d.respond, Clean: d.Clean, Why: d.why(), Mark: d.Mark, Time: stamp(d.Ended.UnixNano()),
	}
	for _, row := range d.findings {
		out.Findings = append(out.Findings, row.GetFinding().GetId())
	}
	if id := d.incident.GetId(); id != "" {
		out.Incident = &id
	}
	return out
}

// tally says how it went, and is an error when not all went well.
func (s *session) tally(all []*drilled, run *drill.Run) error {
	count := map[string]int{}
	unclean := 0
	for _, d := range all {
		count[d.verdict]++
		if !d.Clean {
			unclean++
		}
	}
	if run.Shared {
		s.say("all drills shared the storyline of who ran them (no systemd, or a sensor of one network): what one did may have made the next one suspect")
	}
	if n := count[drill.Noisy]; n > 0 {
		s.say("%s found: what drills do around their techniques is found by itself here, so that they prove less", plural(n, "control"))
	}
	s.say("%d proven, %d missed, %d skipped, %d failed", count[drill.Proven], count[drill.Missed], count[drill.Skipped], count[drill.Failed])
	if count[drill.Missed]+count[drill.Failed]+count[drill.Noisy]+unclean > 0 {
		return exit(exitPartial, "not everything was found, done and cleaned up")
	}
	return nil
}
