package investigate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/inquire"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/hunt"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// Bounds of what one investigation reads: of the store, and of the host's recorder.
const (
	maxFindings  = 200
	maxRows      = 500
	maxTelling   = 2000
	maxBytes     = 1 << 20
	maxMillis    = 5000
	askFor       = 10 * time.Second
	askBefore    = 10 * time.Minute // what led to a finding
	horizon      = 24 * time.Hour   // what is older than the newest finding by more is not weighed
	maxLookedUp  = 12               // programs whose prevalence is read
	peopleBefore = 8                // findings whose precedents are read
)

// evidence is all that is known of a storyline; weigh and tell read nothing else.
type evidence struct {
	key      storyKey
	host     *operatorv1.Host
	findings []*operatorv1.FindingRow // oldest first
	orders   []*operatorv1.Isolation
	// answer is what the recorder said; unanswered is why it did not.
	question   string
	answer     *sensorv1.Answer
	unanswered string
	shortened  bool // of what it did only what matters was read
	closed     int  // findings that people closed, and not as malicious
	did        deeds
	fleet      int
	usual      map[string]uint64 // by image: on how many hosts at least
	rollOut    *operatorv1.RollOutRow
	// How people judged what looks the same.
	benign, malicious int
}

// gather reads and asks; nil: there is nothing to look into any more.
func (e *Engine) gather(ctx context.Context, key storyKey) (*evidence, error) {
	c := &evidence{key: key, usual: map[string]uint64{}}
	rows, _, err := e.cfg.DB.Findings(ctx, store.FindingFilter{Host: key.host, Storyline: key.storyline}, store.Page{Size: maxFindings})
	if err != nil {
		return nil, fmt.Errorf("reading findings: %w", err)
	}
	if len(rows) == 0 {
		return nil, nil //nolint:nilnil // they are older than what is kept
	}
	if err := e.open(ctx, c, rows); err != nil || len(c.findings) == 0 {
		return nil, err
	}
	if c.host, err = e.cfg.DB.Host(ctx, key.host); err != nil {
		if errors.Is(err, store.ErrNotFound) {
			return nil, nil //nolint:nilnil // it was removed
		}
		return nil, fmt.Errorf("reading host: %w", err)
	}
	e.ask(ctx, c)
	c.did = read(slices.DeleteFunc(slices.Clone(c.answer.GetRows()), c.told))
	if err := e.compare(ctx, c); err != nil {
		return nil, err
	}
	if c.orders, _, err = e.cfg.DB.Isolations(ctx, store.IsolationFilter{Host: key.host}, store.Page{Size: store.DefaultPage}); err != nil {
		return nil, fmt.Errorf("reading isolations: %w", err)
	}
	return c, nil
}

// open takes of a storyline's findings, newest first, those that are to be weighed. What people
// closed counts no more, unless as malicious; nor does what is older than the horizon: a service
// is one storyline for as long as it runs.
func (e *Engine) open(ctx context.Context, c *evidence, rows []*operatorv1.FindingRow) error {
	malicious := map[string]bool{}
	for _, row := range slices.Backward(rows) {
		if row.GetHost() != c.key.host || row.GetFinding().GetTime() < rows[0].GetFinding().GetTime()-int64(horizon) {
			continue // a host may be called what another's number is
		}
		if id := row.GetIncident(); row.GetDisposition() == "closed" {
			is, known := malicious[id]
			if !known {
				incident, err := e.cfg.DB.Incident(ctx, id)
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					return fmt.Errorf("reading incident: %w", err)
				}
				is = incident.GetDisposition() == "malicious"
				malicious[id] = is
			}
			if !is {
				c.closed++
				continue
			}
		}
		c.findings = append(c.findings, row)
	}
	return nil
}

// told says whether a finding is about this very file: what it says is weighed by it alone.
func (c *evidence) told(r *sensorv1.Sighting) bool {
	path := text(r, "path")
	return r.GetKind() == "file" && path != "" && slices.ContainsFunc(c.findings, func(row *operatorv1.FindingRow) bool {
		return sameEvent(row.GetFinding(), r.GetTime(), r.GetProcess()) && strings.Contains(row.GetFinding().GetReason(), path)
	})
}

// asked is since when the recorder is asked.
func (c *evidence) asked() int64 { return c.findings[0].GetFinding().GetTime() - int64(askBefore) }

// root is when the storyline's first process began; 0 when no finding tells of it.
func (c *evidence) root() int64 {
	for _, row := range c.findings {
		for _, p := range append([]*sensorv1.Process{row.GetFinding().GetProcess()}, row.GetFinding().GetAncestors()...) {
			if fmt.Sprintf("%d.%d", p.GetPid(), p.GetStart()) == c.key.storyline {
				return p.GetStartTime()
			}
		}
	}
	return 0
}

// ask has the recorder tell what the storyline did. A host that does not answer limits what is
// known and fails nothing.
func (e *Engine) ask(ctx context.Context, c *evidence) {
	c.question = "any where storyline == " + hunt.Quote(c.key.storyline)
	if _, err := hunt.Parse(c.question); err != nil {
		c.question, c.unanswered = "", "its storyline has no name that can be asked for"
		return
	}
	target := inquire.Target{Host: c.key.host, Node: c.host.GetNode()}
	if c.host.GetEnded() != "" {
		target.Node = ""
	}
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	answer, err := e.cfg.Asker.Ask(ctx, target, &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: c.question},
		Since: c.asked(), MaxRows: maxRows, MaxBytes: maxBytes, MaxMillis: maxMillis, Asker: "node:" + e.cfg.NodeID})
	if err != nil {
		c.unanswered = err.Error()
		return
	}
	c.answer = answer
	if answer.GetLimited() == "" {
		return
	}
	// It did more than is read. What matters of it is asked for by itself: when that comes whole,
	// nothing that would be weighed is missing.
	question := c.question + " and (" + telling + ")"
	more, err := e.cfg.Asker.Ask(ctx, target, &sensorv1.Ask{What: &sensorv1.Ask_Expression{Expression: question},
		Since: c.asked(), MaxRows: maxTelling, MaxBytes: maxBytes, MaxMillis: maxMillis, Asker: "node:" + e.cfg.NodeID})
	if err != nil || more.GetError() != "" || more.GetLimited() != "" || more.GetDamaged() > 0 {
		return
	}
	c.question, c.shortened = question, true
	more.Scanned += answer.GetScanned()
	more.Losses = append(more.GetLosses(), answer.GetLosses()...)
	c.answer = more
}

// telling is what read makes something of.
const telling = `class in ("credential", "persistence", "binary", "module", "web", "history", "log") or unexplained == true or ` +
	`trait in ("memfd", "deleted", "world-writable-dir", "hidden-path") or type == "flow-open" or type == "login"`

// compare reads how usual it is in the fleet, and how people judged what looks the same.
func (e *Engine) compare(ctx context.Context, c *evidence) (err error) {
	if c.fleet, err = e.cfg.DB.HostCount(ctx); err != nil {
		return fmt.Errorf("counting hosts: %w", err)
	}
	for _, image := range c.programs(maxLookedUp) {
		if c.usual[image], err = e.cfg.DB.Usual(ctx, sensorv1.BehaviourKind_BEHAVIOUR_KIND_EXEC, image); err != nil {
			return fmt.Errorf("reading how usual a program is: %w", err)
		}
	}
	signs := map[string]bool{}
	for _, row := range c.findings {
		sign := state.Sign(row.GetFinding())
		if signs[string(sign)] {
			continue
		}
		if len(signs) == peopleBefore {
			c.benign = 0 // what is beyond may be what nobody ever judged
			break
		}
		benign, malicious, err := e.cfg.DB.Precedent(ctx, sign)
		if err != nil {
			return fmt.Errorf("reading precedents: %w", err)
		}
		c.malicious += malicious
		// What nobody ever judged is not made harmless by what came beside it.
		if len(signs) == 0 || benign < c.benign {
			c.benign = benign
		}
		signs[string(sign)] = true
	}
	return e.rolledOut(ctx, c)
}

// rolledOut says of a storyline whose findings are all of programs that are new whether a
// recognised roll-out brought one.
func (e *Engine) rolledOut(ctx context.Context, c *evidence) error {
	for _, row := range c.findings {
		if row.GetFinding().GetKind() != "new-exec" {
			return nil
		}
	}
	rows, _, err := e.cfg.DB.RollOuts(ctx, store.Page{Size: store.MaxPage})
	if err != nil {
		return fmt.Errorf("reading roll-outs: %w", err)
	}
	for _, row := range c.findings {
		found := false
		for _, o := range rows {
			f, noted := row.GetFinding(), o.GetRollOut()
			if string(o.GetBehaviour().GetObject()) == string(f.GetProcess().GetImage()) &&
				f.GetTime() >= noted.GetFirstSeen()-int64(rollOutAround) && f.GetTime() <= noted.GetLastSeen()+int64(rollOutAround) {
				c.rollOut, found = o, true
				break
			}
		}
		if !found {
			c.rollOut = nil
			return nil
		}
	}
	return nil
}

const rollOutAround = 6 * time.Hour

// programs are the images of the findings and of the storyline, those of findings first.
func (c *evidence) programs(most int) (images []string) {
	seen := map[string]bool{}
	add := func(image string) {
		if image != "" && !seen[image] && len(images) < most {
			seen[image] = true
			images = append(images, image)
		}
	}
	for _, row := range c.findings {
		add(string(row.GetFinding().GetProcess().GetImage()))
	}
	for _, p := range c.did.programs {
		add(p.name)
	}
	return images
}

// counted is something with how often it was seen.
type counted struct {
	name  string
	times int
}

// deeds are what a storyline did, as its recorder tells it.
type deeds struct {
	execs, flows, lookups, files, privileges, logins int

	programs  []counted
	addresses []counted // outbound, of other machines
	inbound   []counted
	accounts  []counted
	// By class of file: what was read or changed. Of credential files every opening counts, of the
	// others only what changes them.
	credentials, persistence, binaries, modules, histories []counted
	installed                                              int       // files of these kinds that a package manager put in place
	unexplained                                            []counted // gains of privilege that nothing allows
	odd                                                    []counted // programs in memory, deleted, or where everybody may write
	from, until                                            int64
}

func count(list *[]counted, name string) {
	for i := range *list {
		if (*list)[i].name == name {
			(*list)[i].times++
			return
		}
	}
	if len(*list) < maxRows {
		*list = append(*list, counted{name, 1})
	}
}

func read(rows []*sensorv1.Sighting) (d deeds) {
	for _, r := range rows {
		if d.from == 0 || r.GetTime() < d.from {
			d.from = r.GetTime()
		}
		d.until = max(d.until, r.GetTime())
		switch r.GetKind() {
		case "process":
			d.exec(r)
		case "network":
			d.flow(r)
		case "dns":
			d.lookups++
		case "file":
			d.file(r)
		case "privilege":
			d.privileges++
			if flag(r, "unexplained") {
				count(&d.unexplained, string(r.GetProcess().GetImage())+" by "+text(r, "call"))
			}
		case "login":
			d.logins++
			count(&d.accounts, text(r, "user"))
		}
	}
	return d
}

func (d *deeds) exec(r *sensorv1.Sighting) {
	if r.GetType() != "exec" {
		return
	}
	d.execs++
	image := string(r.GetProcess().GetImage())
	count(&d.programs, image)
	for _, trait := range r.GetProcess().GetImageTraits() {
		switch trait {
		case "memfd", "deleted", "world-writable-dir", "hidden-path":
			count(&d.odd, image+" ("+trait+")")
		}
	}
}

func (d *deeds) flow(r *sensorv1.Sighting) {
	if r.GetType() != "flow-open" {
		return
	}
	d.flows++
	remote, ok := netip.AddrFromSlice(r.GetFlow().GetRemote())
	if !ok || remote.Unmap().IsLoopback() {
		return
	}
	if r.GetFlow().GetInbound() {
		count(&d.inbound, remote.Unmap().String())
		return
	}
	name := netip.AddrPortFrom(remote.Unmap(), uint16(r.GetFlow().GetRemotePort())).String() //nolint:gosec // a port
	if r.GetFlow().GetName() != "" {
		name += " (" + r.GetFlow().GetName() + ")"
	}
	count(&d.addresses, name)
}

func (d *deeds) file(r *sensorv1.Sighting) {
	d.files++
	op, path := text(r, "op"), text(r, "path")
	class := text(r, "class")
	if class == "credential" {
		count(&d.credentials, path)
		return
	}
	if op == "map-exec" { // it changes nothing
		return
	}
	if packagers[string(r.GetProcess().GetImage())] && (class == "persistence" || class == "binary" || class == "web") {
		d.installed++ // what its scripts do is another program's
		return
	}
	switch class {
	case "persistence":
		count(&d.persistence, path)
	case "binary", "web":
		count(&d.binaries, path)
	case "module":
		count(&d.modules, path)
	case "history", "log":
		if op == "unlink" || op == "truncate" || op == "rename" { // to write on is what they are for
			count(&d.histories, path+" ("+op+")")
		}
	}
}

// packagers put files in place as packages have them: that is their work. Whoever changes one of
// these programs has changed a program.
var packagers = map[string]bool{"/usr/bin/dpkg": true, "/usr/bin/rpm": true, "/usr/bin/dnf": true, "/usr/bin/dnf5": true, "/usr/bin/zypper": true,
	"/usr/bin/pacman": true, "/sbin/apk": true, "/usr/sbin/apk": true}

func text(r *sensorv1.Sighting, name string) string {
	for _, d := range r.GetDetails() {
		if d.GetName() == name {
			return string(d.GetText())
		}
	}
	return ""
}

func flag(r *sensorv1.Sighting, name string) bool {
	for _, d := range r.GetDetails() {
		if d.GetName() == name {
			return d.GetFlag()
		}
	}
	return false
}
