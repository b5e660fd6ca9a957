package world

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"time"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

const (
	// settling is within how long a new host has begun all that it usually does.
	settling = 2 * time.Minute
	// knownAfter so long a habit is known to the host's baseline.
	knownAfter = 10 * time.Minute
	// oddPerHour out of a thousand hosts do something odd in an hour, once; noisePerHour
	// out of a thousand have a finding that is no incident.
	oddPerHour, noisePerHour = 100, 20
	// rolloutSpread is how long a roll-out takes to reach the last host of its role, and
	// keptRollouts how many are in use: an older one has been replaced.
	rolloutSpread = 10 * time.Minute
	keptRollouts  = 3
	maxLines      = 64 // new behaviours and deltas of one summary of an honest host
)

// Key is a behaviour's: the same on every host.
func Key(kind sensorv1.BehaviourKind, subject, object string) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\x00%s\x00%s", kind, subject, object))
	return sum[:16]
}

// Records are what a host's sensor records in a window, oldest first, the summary last,
// without sequences: those are the sender's. A host that is absent records nothing.
func (w *World) Records(n, window int) []*sensorv1.Record {
	if !w.Present(n, window) {
		return nil
	}
	records := w.campaignRecords(n, window)
	if noise := w.noise(n, window); noise != nil {
		records = append(records, noise)
	}
	end := w.At(window + 1).UnixNano()
	records = append(records, &sensorv1.Record{Time: end, Body: &sensorv1.Record_Summary{Summary: w.Summary(n, window)}})
	slices.SortStableFunc(records, func(a, b *sensorv1.Record) int { return int(a.GetTime() - b.GetTime()) })
	return records
}

// Summary is what a host does in a window.
func (w *World) Summary(n, window int) *sensorv1.Summary {
	h := &w.hosts[n]
	s := &sensorv1.Summary{WindowStart: w.At(window).UnixNano(), WindowEnd: w.At(window + 1).UnixNano()}
	busy := w.busy(h, window)
	for _, list := range [][]habit{everywhere, h.role.habits} {
		for i := range list {
			w.usual(s, h, window, busy, &list[i])
		}
	}
	w.pushHabits(s, h, window)
	w.rolledOut(s, h, window, busy)
	w.odd(s, h, window)
	s.Health = w.health(h, window, s)
	return s
}

// windows is how many begin in so long a time, one at least.
func (w *World) windows(d time.Duration) uint64 { return max(1, uint64(d/w.cfg.Window)) }

// busy is how much of its busiest a host is in a window, out of a thousand.
func (w *World) busy(h *Host, window int) int {
	at := w.At(window).UTC()
	minute := (at.Hour()*60 + at.Minute() + h.zone) % (24 * 60)
	now, next := h.role.day[minute/60], h.role.day[(minute/60+1)%24]
	busy := now + (next-now)*(minute%60)/60
	if day := at.Weekday(); (day == time.Saturday || day == time.Sunday) && h.role.name != "web" && h.role.name != "db" {
		busy /= 5
	}
	return busy
}

// usual adds what a host does of a habit, if it has it: seven of eight hosts do.
func (w *World) usual(s *sensorv1.Summary, h *Host, window, busy int, does *habit) {
	id := habitID(does)
	dice := w.roll(tagHabit, uint64(h.N), id)
	if dice%8 == 0 {
		return
	}
	since := h.Born + int(dice>>8%w.windows(settling))
	w.does(s, h, window, since, w.times(h, window, busy, does.perHour, id), does)
}

// times is how often something that is done so often an hour is done in a window.
func (w *World) times(h *Host, window, busy, perHour int, id uint64) uint64 {
	dice := w.roll(tagCount, uint64(h.N), id, uint64(window))
	expected := int64(perHour) * int64(busy) * int64(w.cfg.Window/time.Second) / 3600 // thousandths
	expected = expected * int64(500+dice%1000) / 1000                                 // half to one and a half times
	times := expected / 1000
	if int64(dice>>20%1000) < expected%1000 {
		times++
	}
	return uint64(times) //nolint:gosec // never negative
}

// does adds a behaviour that began in window since and was done so often in this one.
func (w *World) does(s *sensorv1.Summary, h *Host, window, since int, times uint64, does *habit) {
	if since = w.returns(h.N, since, window); window < since || len(s.Deltas) >= maxLines {
		return
	}
	if window == since {
		times = max(times, 1)
	}
	if times == 0 {
		return
	}
	key := Key(does.kind, does.subject, does.object)
	span := uint64(w.cfg.Window)
	last := s.GetWindowEnd() - 1 - int64(w.roll(tagCount, uint64(h.N), uint64(window), habitID(does), 1)%(span/2)) //nolint:gosec // below a window
	if window == since {
		s.NewBehaviours = append(s.NewBehaviours, &sensorv1.Behaviour{Key: key, Kind: does.kind, Subject: []byte(does.subject), Object: []byte(does.object),
			FirstSeen: s.GetWindowStart() + (last-s.GetWindowStart())/2})
	}
	s.Deltas = append(s.Deltas, &sensorv1.BehaviourDelta{Key: key, Count: times, LastSeen: last, Known: time.Duration(window-since)*w.cfg.Window >= knownAfter})
}

// returns is the first window from since on that a host is there in: what begins while
// it is away begins when it is back. Of windows long ago it makes no difference.
func (w *World) returns(n, since, window int) int {
	longest := 2 * int(maxAway/w.cfg.Window)
	for since < window && window-since <= longest && !w.Present(n, since) {
		since++
	}
	return since
}

// habitID tells habits apart where dice are thrown for them.
func habitID(h *habit) uint64 {
	id := uint64(h.kind) //nolint:gosec // a small enumeration
	for _, text := range []string{h.subject, h.object} {
		for i := range len(text) {
			id = (id ^ uint64(text[i])) * 0x100000001b3 // FNV-1a
		}
		id = mix(id)
	}
	return id
}

// Rollout is something new that comes to all hosts of a role.
type Rollout struct {
	N      int
	Role   string
	Window int // it begins in
}

// Rollouts are those that begin before a window.
func (w *World) Rollouts(before int) []Rollout {
	if w.cfg.RolloutEvery <= 0 || before <= 0 {
		return nil
	}
	var all []Rollout
	for i := 1; ; i++ {
		begins := int((time.Duration(i)*w.cfg.RolloutEvery - 1) / w.cfg.Window)
		if begins >= before {
			return all
		}
		all = append(all, w.rollout(i, begins))
	}
}

func (w *World) rollout(i, begins int) Rollout {
	return Rollout{N: i, Role: roles[w.roll(tagRollout, uint64(i))%uint64(len(roles))].name, Window: begins}
}

// rolledOut adds what the newest roll-outs brought.
func (w *World) rolledOut(s *sensorv1.Summary, h *Host, window, busy int) {
	if w.cfg.RolloutEvery <= 0 {
		return
	}
	newest := int(time.Duration(window+1) * w.cfg.Window / w.cfg.RolloutEvery)
	spread := w.windows(rolloutSpread)
	for i := max(1, newest-keptRollouts+1); i <= newest; i++ {
		r := w.rollout(i, int((time.Duration(i)*w.cfg.RolloutEvery-1)/w.cfg.Window))
		if r.Role != h.Role {
			continue
		}
		since := max(h.Born, r.Window+int(w.roll(tagRollout, uint64(i), uint64(h.N))%spread)) //nolint:gosec // below spread
		program := fmt.Sprintf("/opt/release-%d/bin/agent", i)
		for _, does := range []habit{
			{execs, "/usr/lib/systemd/systemd", program, 2},
			{files, program, "read /etc/agent.d", 120},
			{flows, program, "10.23.0.0/24 8443/tcp out", 120},
		} {
			w.does(s, h, window, since, w.times(h, window, busy, does.perHour, habitID(&does)), &does)
		}
	}
}

// odd adds what a host does once in its life, now and then.
func (w *World) odd(s *sensorv1.Summary, h *Host, window int) {
	hour := w.hour(window)
	if !w.inHour(tagOdd, h.N, window, oddPerHour) {
		return
	}
	dice := w.roll(tagOdd, uint64(h.N), uint64(hour), 2)
	does := habit{execs, "/bin/bash", fmt.Sprintf("/usr/local/bin/task-%x", dice&0xffffff), 0}
	w.does(s, h, window, window, 1, &does)
}

// inHour says whether what so many of a thousand hosts have once in an hour comes to
// this one in this window.
func (w *World) inHour(tag uint64, n, window, permille int) bool {
	hour := w.hour(window)
	dice := w.roll(tag, uint64(n), uint64(hour))
	if int(dice%1000) >= permille {
		return false
	}
	first := int((time.Duration(hour)*time.Hour + w.cfg.Window - 1) / w.cfg.Window)
	windows := max(1, int(time.Hour/w.cfg.Window))
	return window == first+int(dice>>20%uint64(windows))
}

// health is what a small sensor says of itself.
func (w *World) health(h *Host, window int, s *sensorv1.Summary) *sensorv1.Health {
	dice := w.roll(tagHealth, uint64(h.N), uint64(window))
	var events uint64
	for _, d := range s.GetDeltas() {
		events += d.GetCount()
	}
	age := window - h.Born
	return &sensorv1.Health{RssBytes: 34<<20 + dice%(4<<20), CpuNs: 3_000_000 + dice>>30%9_000_000, EventsTotal: events, EventsSuppressed: events - events/50,
		Isolation: "none", Baseline: &sensorv1.BaselineState{Behaviours: 40 + dice%20, Known: min(40, uint64(age)), //nolint:gosec // windows since birth
			Confidence: float64(min(age, 100)) / 100, Learning: time.Duration(age)*w.cfg.Window < knownAfter}}
}

// noise is a finding of no weight.
func (w *World) noise(n, window int) *sensorv1.Record {
	if !w.inHour(tagNoise, n, window, noisePerHour) {
		return nil
	}
	at := w.At(window).UnixNano() + int64(w.cfg.Window)/3
	return &sensorv1.Record{Time: at, Body: &sensorv1.Record_Finding{Finding: &sensorv1.Finding{
		Id: fmt.Sprintf("noise-%d-%d-%d", w.cfg.Seed, n, window), Time: at, Kind: "new-exec", Title: "A program that was never seen here", Severity: "low", Score: 15,
		Storyline: fmt.Sprintf("noise-%d", window), Reason: "Never seen on this host.",
		Process: &sensorv1.Process{Pid: 4000, Image: []byte("/usr/local/bin/task"), User: "root"}}}}
}
