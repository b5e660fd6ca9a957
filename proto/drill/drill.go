// Package drill is what drills are: which there are, which ATT&CK techniques they stand
// for, what came of them, and the matrix and Navigator layer made of that.
//
// Its one idea: a drill is described here, in words and data, and done by the sensor's
// program alone. So an operator's command line, a coordinator and a report can speak of
// drills on machines that could never run one. What a drill does is in sensor/drill.
package drill

import (
	"slices"
	"strings"
)

// Drill is one safe emulation of an attack technique.
type Drill struct {
	ID    string
	Title string
	// Techniques are ATT&CK ids, separated by spaces; none: a control, which does what
	// drills do around the technique and must not be found.
	Techniques string
	// Does says what it does, in words.
	Does string
	// Private are folders that are overlays in memory for it, in a mount namespace of its own.
	Private string
	// Network: it has a network namespace of its own.
	Network bool
	// Host says what it makes outside of its scratch folder and its namespaces.
	Host string
	// Paths are what must be on the host after it as it was before.
	Paths string
	// Needs are programs, separated by spaces.
	Needs string
	// Expect is what should be seen of it, in general terms.
	Expect string
}

// IDs of a drill's techniques.
func (d Drill) IDs() []string { return strings.Fields(d.Techniques) }

// Control says that it must not be found.
func (d Drill) Control() bool { return d.Techniques == "" }

// Tactics are those of its techniques, in the matrix' order.
func (d Drill) Tactics() (all []string) {
	for _, tactic := range Tactics() {
		for _, id := range d.IDs() {
			if t, ok := ByID(id); ok && slices.Contains(t.In(), tactic) && !slices.Contains(all, tactic) {
				all = append(all, tactic)
			}
		}
	}
	return all
}

// Touches says where it acts, for people.
func (d Drill) Touches() string {
	said := []string{"processes and a scratch folder of its own"}
	if d.Private != "" {
		said = append(said, "overlays in memory over "+strings.Join(strings.Fields(d.Private), ", ")+", in a mount namespace of its own")
	}
	if d.Network {
		said = append(said, "a network namespace of its own")
	}
	if d.Host != "" {
		said = append(said, d.Host)
	}
	return strings.Join(said, "; ")
}

// CleanUp says how what it made goes away.
func (d Drill) CleanUp() string {
	said := "its processes are killed, its scratch folder is removed"
	if d.Private != "" || d.Network {
		said += ", its namespaces end with them"
	}
	if d.Host != "" {
		said += "; what it made on the host is in a journal and undone from it, after a crash by 'vedette-sensor drill clean'"
	}
	return said
}

// All are the drills, by tactic, controls first.
func All() []Drill {
	return slices.Concat(controls, execution, persistence, privilege, stealth, impairment, credentials, discovery, network, impact)
}

// Find is the drill of a name.
func Find(id string) (Drill, bool) {
	all := All()
	i := slices.IndexFunc(all, func(d Drill) bool { return d.ID == id })
	if i < 0 {
		return Drill{}, false
	}
	return all[i], true
}

// Technique is one of ATT&CK's.
type Technique struct {
	ID, name, tactics string
	// Beyond is why it needs no drill; empty: a drill of it makes sense.
	Beyond string
}

// tacticNames are short names and ATT&CK's, in the matrix' order.
var tacticNames = []struct{ short, full, title string }{
	{"initial", "initial-access", "Initial Access"},
	{"execution", "execution", "Execution"},
	{"persistence", "persistence", "Persistence"},
	{"priv", "privilege-escalation", "Privilege Escalation"},
	{"stealth", "stealth", "Stealth"},
	{"impair", "defense-impairment", "Defense Impairment"},
	{"cred", "credential-access", "Credential Access"},
	{"discovery", "discovery", "Discovery"},
	{"lateral", "lateral-movement", "Lateral Movement"},
	{"collection", "collection", "Collection"},
	{"c2", "command-and-control", "Command and Control"},
	{"exfil", "exfiltration", "Exfiltration"},
	{"impact", "impact", "Impact"},
}

// Tactics are ATT&CK's names of them, in the matrix' order.
func Tactics() (all []string) {
	for _, t := range tacticNames {
		all = append(all, t.full)
	}
	return all
}

// TacticTitle is a tactic's name for people.
func TacticTitle(tactic string) string {
	for _, t := range tacticNames {
		if t.full == tactic {
			return t.title
		}
	}
	return tactic
}

// In are a technique's tactics.
func (t Technique) In() (all []string) {
	for _, short := range strings.Fields(t.tactics) {
		for _, n := range tacticNames {
			if n.short == short {
				all = append(all, n.full)
			}
		}
	}
	return all
}

// Name is "Scheduled Task/Job: Cron".
func (t Technique) Name() string {
	if parent, _, sub := strings.Cut(t.ID, "."); sub {
		if p, ok := ByID(parent); ok {
			return p.name + ": " + t.name
		}
	}
	return t.name
}

// Techniques are all of ATT&CK's for Linux, by id.
func Techniques() []Technique { return techniques }

// ByID finds a technique.
func ByID(id string) (Technique, bool) {
	i, ok := slices.BinarySearchFunc(techniques, id, func(t Technique, id string) int { return strings.Compare(t.ID, id) })
	if !ok {
		return Technique{}, false
	}
	return techniques[i], true
}

// renamed are ids of before 2026 that rules still carry.
var renamed = map[string]string{
	"T1562": "T1685", "T1562.001": "T1685", "T1562.003": "T1690", "T1562.004": "T1686", "T1562.012": "T1685.004",
	"T1070.002": "T1685.006",
}

// Current is a technique's id in the present edition.
func Current(id string) string {
	id = strings.ToUpper(id)
	if now := renamed[id]; now != "" {
		return now
	}
	return id
}

// Names says whether what a finding names is the technique, its parent or a part of it.
func Names(named []string, technique string) bool {
	parent, _, _ := strings.Cut(technique, ".")
	return slices.ContainsFunc(named, func(id string) bool {
		id = Current(id)
		return id == technique || id == parent || strings.HasPrefix(id, technique+".")
	})
}
