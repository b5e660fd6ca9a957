package state

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// KindSuspect is the kind of a finding about a sensor's own conduct.
const KindSuspect = "suspect-sensor"

// SuspectPrefix begins the id of such a finding.
const SuspectPrefix = "sus-"

// What a sensor can do that an honest one does not.
const (
	SuspectMalformed = "malformed"
	SuspectTime      = "time"
	SuspectFlood     = "behaviour-flood"
	SuspectVolume    = "volume"
	SuspectClock     = "clock"
	SuspectSequence  = "sequence"
	SuspectForged    = "forged"
)

// firstConducts are those that every release knows. The words of each stay as they are: of one
// log, nodes of all releases must make one state.
var firstConducts = []string{SuspectMalformed, SuspectTime, SuspectFlood, SuspectVolume}

// FirstConduct says whether nodes of every release know it.
func FirstConduct(conduct string) bool { return slices.Contains(firstConducts, conduct) }

// secondConducts are those that suspect_conduct takes (command 74), in every release that knows it.
// Never add one: nodes of the release before would reject the command that nodes of the next store,
// and of one log they must make one state. A new conduct needs a command of its own, or is told
// under one of these words with a detail that says what it was.
var secondConducts = []string{SuspectMalformed, SuspectTime, SuspectFlood, SuspectVolume, SuspectClock, SuspectSequence, SuspectForged}

// nsPerDay: each conduct of a host is told once a day.
const nsPerDay = 24 * 3600 * int64(1e9)

// suspicion is what people are told of a conduct.
type suspicion struct{ severity, title, reason string }

var suspicions = map[string]suspicion{
	SuspectMalformed: {"high", "A sensor sends what no sensor of ours sends",
		"Whoever speaks with this host's key broke the protocol: another program has the key, or the sensor was changed or its memory is damaged. The session was closed and nothing of the message was taken."},
	SuspectTime: {"medium", "A sensor's records are from the future",
		"Its records carry times more than a day ahead of the coordinator. Their order by sequence is kept and their times are shown as told: compare the host's clock."},
	SuspectFlood: {"medium", "A sensor floods new behaviours",
		"So many behaviours in so short a time hide the few that matter, and widen what counts as normal: look at what runs on the host. What is above the limit of a host is not kept, and counted."},
	SuspectVolume: {"medium", "A sensor sends without end",
		"It has sent more than a full spool holds and has not slowed down. It is held back, so that the others are served."},
	SuspectClock: {"medium", "A sensor's clock goes back again and again",
		"Its records carry times that go back by more than a day, time after time. Their order by sequence is kept and their times are shown as told: compare the host's clock, and look who sets it."},
	SuspectSequence: {"medium", "A sensor's records do not follow each other",
		"It numbers its records in leaps that no number of lost ones explains, or begins again and again behind what it was told is stored. What a sensor has lost it states as a loss, and goes on from where the coordinator is: look whether another program speaks with this host's key."},
	SuspectForged: {"high", "A sensor tells what only coordinators tell",
		"A finding of its own carried the name or the kind of those that coordinators make: of silences, of one identity in two places, of sensors' conduct. Stored under such a name it would have kept a true one out. It is kept as this host's word under another name; no sensor of ours makes one: look whether another program speaks with this host's key."},
}

// ofCoordinators begin the ids of findings that only coordinators make. Who knows a host and
// its session can tell such an id beforehand, and the first of an id is the one that is kept.
var ofCoordinators = []string{SilencePrefix, ReturnPrefix, SuspectPrefix, twoPrefix}

// Forged says whether a host's finding pretends to be a coordinator's.
func Forged(f *sensorv1.Finding) bool {
	return ForgedID(f.GetId()) || slices.Contains([]string{KindSilent, KindReturned, KindSuspect, KindTwoPlaces}, f.GetKind())
}

// ForgedID says it of the name alone: such a finding must have another before it is proposed.
func ForgedID(id string) bool {
	return slices.ContainsFunc(ofCoordinators, func(prefix string) bool { return strings.HasPrefix(id, prefix) })
}

// suspectSensor stores the finding that a node asks for. Many nodes may see the same, and
// a node again and again: the day's first counts.
func (a *applier) suspectSensor(in *raftv1.SuspectSensor, conducts []string) (*raftv1.Result, error) {
	what := suspicions[in.GetConduct()]
	if !slices.Contains(conducts, in.GetConduct()) || len(in.GetDetail()) > maxName {
		return reject(RejectInvalid, "no conduct is called %q", in.GetConduct()), nil
	}
	host, ok, err := a.tx.HostNumber(in.GetHost())
	if err != nil {
		return nil, fmt.Errorf("reading host: %w", err)
	}
	if !ok {
		return reject(RejectUnknownHost, "no host is called %s", in.GetHost()), nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", in.GetHost(), in.GetConduct(), a.cmd.GetTime()/nsPerDay))
	id := SuspectPrefix + hex.EncodeToString(sum[:8])
	_, err = a.tx.AddFinding(host, a.index, a.cmd.GetTime(), &sensorv1.Finding{
		Id: id, Time: a.cmd.GetTime(), Kind: KindSuspect, RuleId: in.GetConduct(), Severity: what.severity, Title: what.title,
		Reason: what.reason + " " + in.GetDetail(), Techniques: []string{"T1562.001"}, Storyline: id,
	})
	if err != nil {
		return nil, fmt.Errorf("storing finding: %w", err)
	}
	return accept(id), nil
}

// Conducts are the names that suspicions have.
func Conducts() []string {
	names := make([]string, 0, len(suspicions))
	for name := range suspicions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
