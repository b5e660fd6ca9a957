package housetest

import (
	"fmt"
	"slices"
	"strings"
)

// importRule says what the packages in from, but not in except, may not import.
type importRule struct {
	name    string
	why     string
	from    []string
	except  []string
	deny    []string
	allow   []string // taken out of deny
	inTests bool     // whether test files are held to it as well
}

var everywhere = []string{"bpf/...", "proto/...", "sensor/...", "coordinator/...", "cmd/...", "scripts/..."}

var importRules = []importRule{
	{
		name: "the sensor knows no coordinator",
		why:  "they are installed, upgraded and attacked separately: what both need to know is a message, and messages live in proto/",
		from: []string{"sensor/...", "cmd/vedette-sensor/..."}, deny: []string{"coordinator/..."}, inTests: true,
	},
	{
		name: "the coordinator knows no sensor",
		why:  "they are installed, upgraded and attacked separately: what both need to know is a message, and messages live in proto/",
		from: []string{"coordinator/...", "cmd/vedette-coordinator/..."}, deny: []string{"sensor/..."}, inTests: true,
	},
	{
		name: "proto and bpf stand below everything",
		why:  "a contract that imports one of its parties is no contract",
		from: []string{"proto/...", "bpf/..."}, deny: []string{"sensor/...", "coordinator/...", "cmd/...", "scripts/..."}, inTests: true,
	},
	{
		name: "nothing imports its facade",
		why:  "sensor.go and coordinator.go wire the parts; a part that reaches back makes a circle and hides who owns what",
		from: []string{"sensor/internal/...", "coordinator/internal/...", "coordinator/client/..."},
		deny: []string{"sensor", "coordinator"}, inTests: true,
	},
	{
		name: "the client stands alone",
		why:  "the CLI imports it and is built without cgo: the server's store must not come along",
		from: []string{"coordinator/client/..."}, deny: []string{"coordinator/internal/..."},
	},
	{
		name: "the CLI talks to the API and to nothing else",
		why:  "what the CLI can do, anybody can do with the API; a short cut into the server would break that",
		from: []string{"cmd/vedette/..."}, deny: []string{"sensor/...", "coordinator/...", "bpf/...", "scripts/..."},
		allow: []string{"coordinator/client/..."},
	},
	{
		name: "programs do not import scripts",
		why:  "scripts build, test and show the product; they are not part of it",
		from: []string{"sensor/...", "coordinator/...", "cmd/..."}, deny: []string{"scripts/..."},
	},
	{
		name: "the store is the bottom of the coordinator",
		why:  "control, ingest, engine → consensus → state → store: a query that knows about raft cannot be replayed",
		from: []string{"coordinator/internal/store/..."},
		deny: []string{"coordinator/internal/state/...", "coordinator/internal/consensus/...", "coordinator/internal/ingest/...", "coordinator/internal/control/...", "coordinator/internal/engine/...", "coordinator/internal/identity/..."},
	},
	{
		name: "state knows only the store",
		why:  "Apply must give the same answer on every node and in every replay, so it sees the command and the rows and nothing else",
		from: []string{"coordinator/internal/state/..."},
		deny: []string{"coordinator/internal/consensus/...", "coordinator/internal/ingest/...", "coordinator/internal/control/...", "coordinator/internal/engine/...", "coordinator/internal/identity/..."},
	},
	{
		name: "consensus does not know who proposes",
		why:  "control, ingest and engine propose to it; the other direction would make the log depend on its readers",
		from: []string{"coordinator/internal/consensus/..."},
		deny: []string{"coordinator/internal/ingest/...", "coordinator/internal/control/...", "coordinator/internal/engine/..."},
	},
	{
		name: "what counts knows nobody",
		why:  "every part of a node may count and log, so what they do it with imports none of them",
		from: []string{"coordinator/internal/meter/...", "coordinator/internal/journal/...", "coordinator/internal/failpoint/..."}, deny: []string{"coordinator/..."},
	},
	{
		name: "metrics have one owner",
		why:  "names, labels and their values are fixed in one place, which is documented and bounded; the rest increments fields",
		from: everywhere, except: []string{"coordinator/internal/meter/..."},
		deny: []string{"github.com/prometheus/...", "github.com/hashicorp/go-metrics/...", "github.com/armon/go-metrics/..."}, inTests: true,
	},
	{
		name: "state has no clock, no dice and no outside",
		why:  "time, ids and randomness arrive inside the command; otherwise two nodes with the same log differ",
		from: []string{"coordinator/internal/state/..."},
		deny: []string{"time", "math/rand/...", "crypto/rand", "os/...", "net/...", "io/fs", "syscall", "runtime", "github.com/google/uuid"},
	},
	{
		name: "cilium/ebpf has one owner",
		why:  "what is loaded into the kernel is decided in one place, where it is also probed, counted and taken out",
		from: everywhere, except: []string{"bpf/...", "sensor/internal/kernel/..."}, deny: []string{"github.com/cilium/ebpf/..."}, inTests: true,
	},
	{
		name: "hashicorp/raft has one owner",
		why:  "the rest of the coordinator knows Propose and Subscribe, so that tests can stand in for a cluster",
		from: everywhere, except: []string{"coordinator/internal/consensus/...", "coordinator/internal/clustertest/..."},
		deny: []string{"github.com/hashicorp/raft/...", "github.com/hashicorp/raft-wal/...", "github.com/hashicorp/raft-autopilot/..."}, inTests: true,
	},
	{
		name: "go-sqlite3 has one owner",
		why:  "it brings cgo, and one package that writes SQL is one place to look for a wrong query",
		from: everywhere, except: []string{"coordinator/internal/store/..."}, deny: []string{"github.com/mattn/go-sqlite3"}, inTests: true,
	},
	{
		name: "SQL has one owner",
		why:  "rows are read and written by named methods of the store; a query elsewhere escapes the migrations",
		from: everywhere, except: []string{"coordinator/internal/store/..."}, deny: []string{"database/sql/..."},
	},
	{
		name: "quic-go has one owner",
		why:  "TLS, ALPN, identity and limits of the link are decided once, in proto/link",
		from: everywhere, except: []string{"proto/link/..."}, deny: []string{"github.com/quic-go/quic-go/..."}, inTests: true,
	},
	{
		name: "gopsutil has one owner",
		why:  "it reads /proc at leisure: only what enriches may, and never the hot path",
		from: everywhere, except: []string{"sensor/internal/enrich/...", "sensor/internal/posture/..."}, deny: []string{"github.com/shirou/gopsutil/..."}, inTests: true,
	},
	{
		name: "porcupine has one owner",
		why:  "what one machine could have answered is one model, beside what asks the real ones",
		from: everywhere, except: []string{"scripts/torture/..."}, deny: []string{"github.com/anishathalye/porcupine/..."}, inTests: true,
	},
	{
		name: "cedar-go has one owner",
		why:  "leader and sensor judge by one evaluator; a second place that asks Cedar would answer differently one day",
		from: everywhere, except: []string{"proto/intent/..."}, deny: []string{"github.com/cedar-policy/cedar-go/..."}, inTests: true,
	},
	{
		name: "franz-go has one owner",
		why:  "what leaves the cluster, as whom and with which secrets, is decided in one place",
		from: everywhere, except: []string{"coordinator/internal/engine/export/..."}, deny: []string{"github.com/twmb/franz-go/..."}, inTests: true,
	},
	{
		name: "age has one owner",
		why:  "how files with keys are encrypted, at which cost, and what opens them is decided once",
		from: everywhere, except: []string{"proto/seal/..."}, deny: []string{"filippo.io/age/..."},
	},
	{
		name: "one logger",
		why:  "log writes past the injected slog.Logger, its level and its keys; an http.Server takes slog.NewLogLogger",
		from: everywhere, deny: []string{"log", "io/ioutil"},
	},
	{
		name: "no cgo of our own",
		why:  "the sensor and the CLI are static and the coordinator has cgo through go-sqlite3 alone",
		from: everywhere, deny: []string{"C"}, inTests: true,
	},
}

// stagesShare are no stages: the values that stages hand on, and when those who come by
// the clock do.
var stagesShare = []string{"sensor/internal/event", "sensor/internal/pulse"}

// layers that a sensor stage may import beside those: kernel hands raw records to
// decode in the same goroutine, everything else is wired in sensor.go.
var stageMay = map[string][]string{
	"sensor/internal/kernel": {"sensor/internal/decode"},
}

func checkImports(files []file) []string {
	var problems []string
	for _, f := range files {
		for _, imported := range f.imports() {
			for _, r := range importRules {
				if r.bites(f, imported) {
					problems = append(problems, fmt.Sprintf("%s imports %s: %s\n\twhy: %s", f.path, imported, r.name, r.why))
				}
			}
			if crossesStage(f, imported) {
				problems = append(problems, fmt.Sprintf("%s imports %s: sensor stages import sensor/internal/event, never each other\n\twhy: a stage hands on values and never reaches back; sensor.go is where they meet", f.path, imported))
			}
		}
	}
	return append(problems, checkStatic(files)...)
}

func (r importRule) bites(f file, imported string) bool {
	return (r.inTests || !f.isTest()) &&
		within(f.dir(), r.from) && !within(f.dir(), r.except) &&
		within(imported, r.deny) && !within(imported, r.allow)
}

const stages = "sensor/internal/"

// stageOf is "sensor/internal/respond" for it and what is below it.
func stageOf(p string) (string, bool) {
	rest, ok := strings.CutPrefix(p, stages)
	if !ok {
		return "", false
	}
	name, _, _ := strings.Cut(rest, "/")
	return stages + name, true
}

// crossesStage leaves tests alone: one may join two stages to try the seam.
func crossesStage(f file, imported string) bool {
	if f.isTest() {
		return false
	}
	from, ok := stageOf(f.dir())
	if !ok {
		return false
	}
	to, ok := stageOf(imported)
	return ok && to != from && !slices.Contains(stagesShare, to) && !slices.Contains(stageMay[from], to)
}

// checkStatic follows the imports of the programs that must build without cgo.
func checkStatic(files []file) []string {
	graph := map[string][]string{}
	for _, f := range files {
		if f.isGo() && !f.isTest() {
			graph[f.dir()] = append(graph[f.dir()], f.imports()...)
		}
	}
	var problems []string
	for _, program := range []string{"cmd/vedette", "cmd/vedette-sensor"} {
		from := map[string]string{program: ""}
		queue := []string{program}
		for len(queue) > 0 {
			at := queue[0]
			queue = queue[1:]
			for _, next := range graph[at] {
				if _, seen := from[next]; !seen {
					from[next] = at
					queue = append(queue, next)
				}
			}
		}
		const cgo = "github.com/mattn/go-sqlite3"
		if via, found := from[cgo]; found {
			problems = append(problems, fmt.Sprintf("%s reaches %s through %s: it is built with CGO_ENABLED=0\n\twhy: a static binary runs on any distribution and in a bare container", program, cgo, via))
		}
	}
	return problems
}
