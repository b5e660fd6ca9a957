package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/vedette-edr/vedette/cmd/vedette/internal/output"
	"github.com/vedette-edr/vedette/cmd/vedette/internal/shape"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// huntGrace is how much longer than its hosts the command itself waits: a node gives a
	// host some seconds more than the question does, and hosts are asked some hundred at once.
	huntGrace = 20 * time.Second
	// maxHostTime is the most that one host may take.
	maxHostTime = 5 * time.Minute
	// sayEvery is between two lines of progress.
	sayEvery     = 2 * time.Second
	maxRuleBytes = 64 << 10
	// namedHosts is how many hosts with one trouble are named.
	namedHosts = 10
)

// hunter is the command line of a hunt.
type hunter struct {
	selection    selection
	since, until string
	rule, like   string
	limit        uint32
	fields       bool
}

func (a *app) huntCommand() *cobra.Command {
	h := &hunter{}
	c := &cobra.Command{
		Use:   "hunt EXPRESSION [HOST...]",
		Short: "ask the hosts what they have seen",
		Long: `Puts a question to the flight recorders of hosts and prints what they have, as they
answer. The cluster keeps none of it; that you asked, and what, is in the audit record.

An expression names a kind of event (process, network, dns, file, privilege, login, any) and
what must hold: ==, !=, startswith, endswith, contains, matches (RE2), in (…), <, >, and, or,
not and parentheses. --fields lists what can be compared. What a record does not tell is
compared with nothing: a comparison with it is false. Hosts are named behind the
expression, or by -l, -f, --incident or --all.

--rule hunts with a Sigma rule in place of an expression, --like with one made from a
finding, which is shown. Rows come host by host, the newest part of each recorder first.

On stderr: how far it is, and at the end which hosts did not answer and why, and which
could not look through all of the time asked for. Then the exit code is 3.`,
		Example: `  vedette hunt 'process where image endswith "/nc" and parent.image endswith "/nginx"' --all
  vedette hunt 'network where remote.address == "203.0.113.0/24"' -l role=web --since 2h
  vedette hunt 'file where path startswith "/etc/cron" and not trait == "set-id"' web1 web2 -o jsonl
  vedette hunt --rule ./suspicious.yml --all --since 24h
  vedette hunt --like 01JDGF2J3Z8QK9W3V5T0YXN7RM --all`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if h.fields {
				return bare(func(context.Context, []string) error { return a.huntFields() })(cmd, args)
			}
			return a.connected(h.run)(cmd, args)
		},
	}
	f := c.Flags()
	h.selection.flags(c)
	f.StringVar(&h.since, "since", "24h", "from this time on: RFC 3339, or how long ago (30m, 36h); all for all there is")
	f.StringVar(&h.until, "until", "", "up to this time: RFC 3339, or how long ago")
	f.StringVar(&h.rule, "rule", "", "hunt with the Sigma rule in this file; - is stdin")
	f.StringVar(&h.like, "like", "", "hunt for what is like this finding")
	f.Uint32Var(&h.limit, "limit", 1000, "at most so many rows of all hosts, up to 100000")
	f.BoolVar(&h.fields, "fields", false, "list the fields that an expression can compare, and ask nobody")
	c.ValidArgsFunction = a.completeHosts
	return c
}

func (h *hunter) run(ctx context.Context, s *session, args []string) error {
	ask, hosts, err := h.ask(ctx, s, args)
	if err != nil {
		return err
	}
	sel, err := h.selection.required(s.stdin, hosts)
	if err != nil {
		return err
	}
	if err := h.times(ask, s.now()); err != nil {
		return err
	}
	perHost := maxHostTime
	if s.timeout > 0 {
		perHost = min(s.timeout, maxHostTime)
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.timeout+huntGrace)
		defer cancel()
	}
	ask.MaxMillis = uint32(perHost.Milliseconds()) //nolint:gosec // bounded
	if h.limit == 0 || h.limit > 100_000 {
		return usage("--limit %d: a hunt brings 1 to 100000 rows", h.limit)
	}
	hunted := &huntReport{session: s, hosts: map[string][]string{}}
	_, err = output.Print(s.Printer, huntTable(), hunted.rows(s.api.Hunt(ctx, &operatorv1.HuntRequest{Selector: sel, Ask: ask, MaxRows: h.limit})))
	if err != nil {
		return err
	}
	return hunted.end(ask.GetSince())
}

// ask is what is hunted for, and the arguments that are left for hosts.
func (h *hunter) ask(ctx context.Context, s *session, args []string) (*sensorv1.Ask, []string, error) {
	switch {
	case h.rule != "" && h.like != "":
		return nil, nil, usage("hunt by --rule or by --like, not by both")
	case h.rule != "":
		text, err := h.readRule(s.stdin)
		return &sensorv1.Ask{What: &sensorv1.Ask_Rule{Rule: text}}, args, err
	case h.like != "":
		asking, cancel := s.limit(ctx)
		defer cancel()
		row, err := s.api.Finding(asking, h.like)
		if err != nil {
			return nil, nil, err
		}
		text, err := huntLike(row.GetFinding())
		if err != nil {
			return nil, nil, usage("finding %s: %w", h.like, err)
		}
		s.say("hunting: %s", text)
		return &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: text}}, args, nil
	case len(args) == 0:
		return nil, nil, usage("what to hunt for is missing: an expression, --rule FILE or --like FINDING\n" +
			`as in vedette hunt 'process where image endswith "/nc"' --all`)
	}
	if _, err := hunt.Parse(args[0]); err != nil {
		var wrong *hunt.Error
		if errors.As(err, &wrong) {
			return nil, nil, usage("%s\n%s", wrong.Message, own(wrong.Caret()))
		}
		return nil, nil, usage("%w", err)
	}
	return &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: args[0]}}, args[1:], nil
}

func (h *hunter) readRule(stdin io.Reader) (string, error) {
	in := stdin
	if h.rule != "-" {
		f, err := os.Open(h.rule)
		if err != nil {
			return "", usage("opening the rule: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	raw, err := io.ReadAll(io.LimitReader(in, maxRuleBytes+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("reading the rule: %w", err)
	case len(raw) > maxRuleBytes:
		return "", usage("the rule has more than %d bytes", maxRuleBytes)
	case len(strings.TrimSpace(string(raw))) == 0:
		return "", usage("the rule is empty")
	}
	return strings.ToValidUTF8(string(raw), "\uFFFD"), nil
}

// times sets from when to when.
func (h *hunter) times(ask *sensorv1.Ask, now time.Time) error {
	since, err := huntTime("--since", h.since, now)
	if err != nil {
		return err
	}
	until, err := huntTime("--until", h.until, now)
	if err != nil {
		return err
	}
	if since > 0 && until > 0 && until < since {
		return usage("--until %s is before --since %s", h.until, h.since)
	}
	ask.Since, ask.Until = since, until
	return nil
}

func huntTime(flag, s string, now time.Time) (int64, error) {
	if s == "" || s == "all" && flag == "--since" {
		return 0, nil
	}
	if back, err := time.ParseDuration(s); err == nil && back >= 0 {
		return now.Add(-back).UnixNano(), nil
	}
	at, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return 0, usage("%s %q: want a time such as 2026-05-01T12:00:00Z, or how long ago, such as 10m or 36h", flag, s)
	}
	return at.UnixNano(), nil
}

func (a *app) huntFields() error {
	p, err := a.printer("")
	if err != nil {
		return err
	}
	_, err = output.Print(p, output.List[hunt.Doc]{
		Name: func(d hunt.Doc) string { return d.Name },
		Value: func(d hunt.Doc) any {
			return struct {
				Name  string   `json:"name"`
				Form  string   `json:"form"`
				Kinds []string `json:"kinds"`
				Says  string   `json:"says"`
			}{d.Name, d.Form, d.Kinds, d.Says}
		},
		Columns: []output.Column[hunt.Doc]{
			{Head: "FIELD", Cell: func(d hunt.Doc) string { return d.Name }},
			{Head: "IS", Cell: func(d hunt.Doc) string { return d.Form }},
			{Head: "OF", Cell: func(d hunt.Doc) string { return strings.Join(d.Kinds, ", ") }},
			{Head: "WHAT", Cell: func(d hunt.Doc) string { return d.Says }},
		},
	}, output.Rows(hunt.Fields()))
	return err
}

func huntTable() output.List[*operatorv1.HuntRow] {
	type row = *operatorv1.HuntRow
	return output.List[row]{
		Name:  func(r row) string { return r.GetHost() },
		Value: func(r row) any { return shape.FromSighting(r) },
		Columns: []output.Column[row]{
			{Head: "TIME", Cell: func(r row) string { return clock(r.GetSighting().GetTime()) }},
			{Head: "HOST", Max: 32, Cell: func(r row) string { return first(r.GetHostName(), r.GetHost()) }},
			{Head: "ID", Wide: true, Cell: row.GetHost},
			{Head: "TYPE", Cell: func(r row) string { return r.GetSighting().GetType() }},
			{Head: "PID", Right: true, Cell: func(r row) string {
				if p := r.GetSighting().GetProcess(); p != nil {
					return fmt.Sprint(p.GetPid())
				}
				return ""
			}},
			{Head: "USER", Max: 16, Cell: func(r row) string {
				if p := r.GetSighting().GetProcess(); len(p.GetImage()) > 0 {
					return shape.User(p)
				}
				return ""
			}},
			{Head: "WHAT", Max: 90, Cell: func(r row) string { return seen(r.GetSighting()) }},
			{Head: "PARENT", Wide: true, Cell: func(r row) string { return string(r.GetSighting().GetParentImage()) }},
			{Head: "PROCESS", Wide: true, Cell: func(r row) string { return shape.ProcessID(r.GetSighting().GetProcess()) }},
			{Head: "STORYLINE", Wide: true, Cell: func(r row) string { return r.GetSighting().GetStoryline() }},
		},
	}
}

// seen is a sighting in one line.
func seen(in *sensorv1.Sighting) string {
	var words []string
	if p := in.GetProcess(); p != nil {
		words = append(words, command(p))
	}
	if f := in.GetFlow(); f != nil {
		words = append(words, flowWords(f))
	}
	for _, d := range in.GetDetails() {
		switch d.GetName() {
		case "op", "path", "target", "query", "text", "call", "via", "user", "addresses":
			switch v := d.GetValue().(type) {
			case *sensorv1.Detail_Text:
				words = append(words, string(v.Text))
			case *sensorv1.Detail_Texts:
				for _, t := range v.Texts.GetTexts() {
					words = append(words, string(t))
				}
			}
		}
	}
	return strings.Join(words, "  ")
}

func flowWords(f *sensorv1.Flow) string {
	s := shape.FromFlow(f)
	arrow := "→"
	if f.GetInbound() {
		arrow = "←"
	}
	words := fmt.Sprintf("%s %s %s %s", s.Protocol, s.Local, arrow, s.Remote)
	if s.Name != "" {
		words += " (" + s.Name + ")"
	}
	return words
}

// huntReport is what a hunt says on stderr.
type huntReport struct {
	*session
	id      string
	so      *operatorv1.HuntProgress
	ended   bool
	said    time.Time
	hosts   map[string][]string // with one trouble
	partial bool
	short   []string // hosts whose recorder was read to its oldest
	newest  int64    // the latest of those
	unknown uint64
}

// rows are what a hunt brings; the rest is kept for the end.
func (r *huntReport) rows(in iter.Seq2[*operatorv1.HuntResponse, error]) iter.Seq2[*operatorv1.HuntRow, error] {
	return func(yield func(*operatorv1.HuntRow, error) bool) {
		for m, err := range in {
			if err != nil {
				yield(nil, err)
				return
			}
			switch body := m.GetBody().(type) {
			case *operatorv1.HuntResponse_Begun:
				r.id = body.Begun.GetId()
				r.said = r.now()
			case *operatorv1.HuntResponse_Row:
				if !yield(body.Row, nil) {
					return
				}
			case *operatorv1.HuntResponse_Host:
				r.host(body.Host)
			case *operatorv1.HuntResponse_Progress:
				r.progress(body.Progress)
			case *operatorv1.HuntResponse_End:
				r.so, r.ended = body.End, true
			}
		}
	}
}

func (r *huntReport) progress(so *operatorv1.HuntProgress) {
	if r.now().Sub(r.said) < sayEvery {
		return
	}
	r.said = r.now()
	r.say("%d of %d hosts have answered, %d cannot; %d rows", so.GetAnswered(), so.GetAsked(), so.GetFailed(), so.GetRows())
}

// host notes what limits the answer of one.
func (r *huntReport) host(h *operatorv1.HuntHost) {
	name := first(h.GetHostName(), h.GetHost())
	trouble := func(format string, args ...any) {
		text := fmt.Sprintf(format, args...)
		r.hosts[text] = append(r.hosts[text], name)
	}
	answer := h.GetAnswer()
	if h.GetCode() != "" {
		r.partial = true
		trouble("no answer: %s", h.GetError())
		return
	}
	if l := answer.GetLimited(); l != "" {
		r.partial = true
		trouble("more may match, it ended at its limit of %s", limitWords(l))
	}
	if answer.GetDamaged() > 0 {
		trouble("some of what was recorded cannot be read")
	}
	if n := answer.GetParentUnknown(); n > 0 {
		r.unknown += n
	}
	if text := losses(answer.GetLosses()); text != "" {
		trouble("events were lost in that time")
	}
	if len(answer.GetUnwatched()) > 0 {
		trouble("the sensor did not run all of that time")
	}
	if untold := answer.GetUntold(); len(untold) > 0 {
		trouble("what is recorded does not tell %s: the rule was judged without", strings.Join(untold, ", "))
	}
	if from := answer.GetCoveredFrom(); from != 0 && from == answer.GetReachesBack() {
		r.short = append(r.short, name)
		r.newest = max(r.newest, answer.GetReachesBack())
	}
}

func limitWords(limit string) string {
	if limit == "budget" {
		return "processor time"
	}
	return limit
}

// end says what came of it.
func (r *huntReport) end(since int64) error {
	if !r.ended {
		return errors.New("the node ended the hunt without a word")
	}
	var texts []string
	for text := range r.hosts {
		texts = append(texts, text)
	}
	slices.Sort(texts)
	for _, text := range texts {
		r.say("%s: %s", named(r.hosts[text]), text)
	}
	if since > 0 && r.newest > since {
		r.say("%s: the flight recorder reaches back no further than %s at the latest of them", named(r.short), clock(r.newest))
	}
	if r.unknown > 0 {
		r.say("%d records could not be judged: what started their process is not known any more", r.unknown)
	}
	more := ""
	if r.so.GetLimited() {
		more = "; more match, raise --limit"
	}
	r.say("%d rows of %d hosts, %d of %d answered%s (%s)", r.so.GetRows(), r.so.GetAsked(), r.so.GetAnswered(), r.so.GetAsked(), more, r.id)
	if r.partial || r.so.GetFailed() > 0 {
		return exit(exitPartial, "")
	}
	return nil
}

// named is hosts in words, the first of many.
func named(hosts []string) string {
	slices.Sort(hosts)
	if len(hosts) <= namedHosts {
		return strings.Join(hosts, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(hosts[:namedHosts], ", "), len(hosts)-namedHosts)
}
