package sensor

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/vedette-edr/vedette/sensor/internal/kernel"
	"github.com/vedette-edr/vedette/sensor/internal/recorder"
)

// Config is everything a sensor can be told. The YAML file is strict: a key
// that is not here is an error that names its line.
type Config struct {
	// StateDir holds the host's identity and key, the baseline, the spool, the
	// recordings and the leases of containment. It is made 0700 and must survive reboots: without it
	// the host has to be enrolled again.
	StateDir string `yaml:"state_dir"`

	// Coordinators are nodes to try, host:port (UDP). The list that the cluster
	// itself hands out is remembered in StateDir and used as well, so that one
	// living address is enough.
	Coordinators []string `yaml:"coordinators"`

	// HostName is the name shown to operators; empty: the machine's own.
	HostName string `yaml:"host_name"`

	// Scope is what this sensor sees, enforced in the kernel: "host", "cgroup:PATH"
	// (a cgroup v2 subtree, PATH below the mount) or "netns:PATH" (a network
	// namespace, such as /run/netns/web; "netns:self" is the sensor's own).
	Scope Scope `yaml:"scope"`

	// Labels are told to the cluster with every session; responders select hosts by
	// them (vedette isolate -l role=web). Labels of the join token win.
	Labels map[string]string `yaml:"labels,omitempty"`

	// SummaryInterval is how often counts, health and losses go up: 1s to 1h.
	SummaryInterval time.Duration `yaml:"summary_interval"`

	// Baseline is how the host's normal behaviour is learnt.
	Baseline BaselineConfig `yaml:"baseline"`

	// AlertBudget is how many findings a day this host may tell of odd behaviour alone,
	// rules not counted: 0.01 to 100. How odd a storyline must be for that is measured on
	// this host, all the time.
	AlertBudget float64 `yaml:"alert_budget"`

	// KernelBaseline lets the kernel keep back, and count, what is known and untainted.
	// False: every event leaves the kernel, at several times the cost.
	KernelBaseline bool `yaml:"kernel_baseline"`
	// Watch is which files are watched.
	Watch WatchConfig `yaml:"watch"`

	// SpoolMaxBytes bounds what waits on disk for an absent coordinator. Beyond it
	// the oldest bulk records are dropped and counted. At least 1 MiB.
	SpoolMaxBytes int64 `yaml:"spool_max_bytes"`

	// Recorder keeps on this host what left the kernel, for whoever asks later.
	Recorder RecorderConfig `yaml:"recorder"`

	// RulesDir is a folder of Sigma rules read beside the built-in ones; empty: none.
	RulesDir string `yaml:"rules_dir"`

	// Isolation says whether this host may be cut off at an operator's order.
	Isolation IsolationConfig `yaml:"isolation"`

	// Budget is what the sensor may cost. Above it, it leaves things out in a declared
	// order, and says so; execs, privileges and tampering are never left out.
	Budget BudgetConfig `yaml:"budget"`

	// MemoryLimitBytes is the soft limit that the Go runtime is held to.
	MemoryLimitBytes int64 `yaml:"memory_limit_bytes"`

	// LogLevel is debug, info, warn or error. Logs go to standard error.
	LogLevel slog.Level `yaml:"log_level"`

	// where is the place of a key in the file that this was read from; nil without a file.
	where func(key string) string
}

// BaselineConfig is how learning goes.
type BaselineConfig struct {
	// Window is the length of a learning window: a behaviour becomes known by being
	// seen in enough distinct ones, not by being seen often in one.
	Window time.Duration `yaml:"window"`
	// KnownWindows is the number of distinct windows that make a behaviour known.
	KnownWindows int `yaml:"known_windows"`
	// LearnFor is how long a fresh host learns before novelty alone can be a
	// finding. Rules work from the first second.
	LearnFor time.Duration `yaml:"learn_for"`
	// TellKnownEvery is how often the counts of what is known go up: 0 (with each
	// summary) to 24h. What is new goes up with the next summary.
	TellKnownEvery time.Duration `yaml:"tell_known_every"`
}

// BudgetConfig is what the sensor holds itself to.
type BudgetConfig struct {
	// CPUPercent is of one core, over ten seconds: 0.1 to 100.
	CPUPercent float64 `yaml:"cpu_percent"`
	// RSSBytes is resident memory: at least 32 MiB.
	RSSBytes int64 `yaml:"rss_bytes"`
}

// RecorderConfig is the flight recorder, which vedette-sensor recorder query reads.
type RecorderConfig struct {
	// Enabled false records nothing; what was recorded before stays.
	Enabled bool `yaml:"enabled"`
	// MaxBytes bounds the recordings on disk; the oldest go first. At least 1 MiB.
	MaxBytes int64 `yaml:"max_bytes"`
}

// WatchConfig is the set of files of which every change is told.
type WatchConfig struct {
	// Defaults are what attackers change to come back, to become somebody else or to be
	// forgotten: accounts, ssh, PAM, sudoers, cron, units, the loader's lists, profiles,
	// histories, logs, web roots, installed programs, kernel modules.
	Defaults bool `yaml:"defaults"`
	// Paths are watched besides: an absolute path of a file, or of a tree with "/" at
	// its end; one "*" may stand for a whole directory, as in /srv/*/config/.
	Paths []string `yaml:"paths"`
}

// maxWatchPaths bounds Watch.Paths: each is looked up every minute.
const maxWatchPaths = 512

// set is what the kernel's stage watches.
func (c WatchConfig) set() (set []kernel.WatchPath) {
	if c.Defaults {
		set = kernel.DefaultWatch()
	}
	for _, path := range c.Paths {
		set = append(set, kernel.WatchPath{Path: path})
	}
	return set
}

// IsolationConfig bounds what grants may do here.
type IsolationConfig struct {
	// Enabled false refuses every isolation on this host, with that reason.
	Enabled bool `yaml:"enabled"`
}

// Scope is the part of a machine that a sensor is limited to.
type Scope struct {
	Kind string // host, cgroup, netns
	Path string
}

// String is the scope as written in the config.
func (s Scope) String() string {
	if s.Path == "" {
		return s.Kind
	}
	return s.Kind + ":" + s.Path
}

// MarshalText implements encoding.TextMarshaler.
func (s Scope) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (s *Scope) UnmarshalText(text []byte) error {
	kind, path, found := strings.Cut(string(text), ":")
	switch {
	case kind == "host" && !found:
	case kind == "cgroup" && strings.HasPrefix(path, "/"):
	case kind == "netns" && path == "self":
		path = "/proc/self/ns/net"
	case kind == "netns" && strings.HasPrefix(path, "/"):
	default:
		return fmt.Errorf("scope %q: want host, cgroup:/PATH, netns:/PATH or netns:self", text)
	}
	*s = Scope{Kind: kind, Path: path}
	return nil
}

// DefaultConfig is what holds where a config says nothing.
func DefaultConfig() Config {
	return Config{
		StateDir:        "/var/lib/vedette-sensor",
		Coordinators:    []string{},
		Scope:           Scope{Kind: "host"},
		SummaryInterval: 30 * time.Second,
		Baseline: BaselineConfig{
			Window:         10 * time.Minute,
			KnownWindows:   3,
			LearnFor:       24 * time.Hour,
			TellKnownEvery: time.Hour,
		},
		AlertBudget:      0.5,
		KernelBaseline:   true,
		Watch:            WatchConfig{Defaults: true, Paths: []string{}},
		SpoolMaxBytes:    256 << 20,
		Recorder:         RecorderConfig{Enabled: true, MaxBytes: 256 << 20},
		Isolation:        IsolationConfig{Enabled: true},
		Budget:           BudgetConfig{CPUPercent: 2, RSSBytes: 60 << 20},
		MemoryLimitBytes: 48 << 20,
		LogLevel:         slog.LevelInfo,
	}
}

// LoadConfig reads a YAML file over DefaultConfig.
func LoadConfig(path string) (Config, error) {
	cfg := DefaultConfig()
	raw, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("reading config: %w", err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return cfg, nil
	}
	decoder := yaml.NewDecoder(bytes.NewReader(raw), yaml.Strict())
	if err := decoder.Decode(&cfg); err != nil {
		return Config{}, fmt.Errorf("reading config %s: %s%s", path, whereWrong(raw), yaml.FormatError(err, false, true))
	}
	cfg.where = func(key string) string { return where(path, raw, key) }
	return cfg, nil
}

// where is the place of a key, as in baseline.window; empty when the file does not have it:
// then the value is a default or a flag's.
func where(path string, raw []byte, key string) string {
	at, err := yaml.PathString("$." + key)
	if err != nil {
		return ""
	}
	node, err := at.ReadNode(bytes.NewReader(raw))
	if err != nil || node.GetToken() == nil {
		return ""
	}
	return fmt.Sprintf("%s:%d: ", path, node.GetToken().Position.Line)
}

// whereWrong names the first top-level key whose value alone is refused: the
// YAML library gives no line for a duration, a scope or a log level.
func whereWrong(raw []byte) string {
	file, err := parser.ParseBytes(raw, 0)
	if err != nil || len(file.Docs) == 0 {
		return ""
	}
	mapping, ok := file.Docs[0].Body.(*ast.MappingNode)
	if !ok {
		return ""
	}
	for _, entry := range mapping.Values {
		var scratch Config
		if err := yaml.UnmarshalWithOptions([]byte(entry.String()), &scratch, yaml.Strict()); err != nil {
			key := entry.Key.GetToken()
			return fmt.Sprintf("line %d, %s: ", key.Position.Line, key.Value)
		}
	}
	return ""
}

// validate joins all problems, so that one run tells them all.
func (c *Config) validate() error {
	var problems []error
	// A problem's first word is the key.
	wrong := func(format string, args ...any) {
		problem := fmt.Errorf(format, args...)
		if key, _, _ := strings.Cut(format, " "); c.where != nil {
			problem = fmt.Errorf("%s%w", c.where(strings.TrimSuffix(key, ":")), problem)
		}
		problems = append(problems, problem)
	}
	if !filepath.IsAbs(c.StateDir) {
		wrong("state_dir %q: must be an absolute path", c.StateDir)
	}
	for _, address := range c.Coordinators {
		if _, _, err := net.SplitHostPort(address); err != nil {
			wrong("coordinators: %q is not host:port", address)
		}
	}
	if c.Scope.Kind == "" {
		wrong("scope: want host, cgroup:/PATH, netns:/PATH or netns:self")
	}
	if c.SummaryInterval < time.Second || c.SummaryInterval > time.Hour {
		wrong("summary_interval %s: want 1s to 1h", c.SummaryInterval)
	}
	if c.Baseline.Window < time.Second {
		wrong("baseline.window %s: want at least 1s", c.Baseline.Window)
	}
	if c.Baseline.KnownWindows < 1 {
		wrong("baseline.known_windows %d: want at least 1", c.Baseline.KnownWindows)
	}
	if c.Baseline.LearnFor < 0 {
		wrong("baseline.learn_for %s: want 0 or more", c.Baseline.LearnFor)
	}
	if !(c.AlertBudget >= 0.01 && c.AlertBudget <= 100) {
		wrong("alert_budget %g: want 0.01 to 100", c.AlertBudget)
	}
	if len(c.Watch.Paths) > maxWatchPaths {
		wrong("watch.paths: %d paths, want at most %d", len(c.Watch.Paths), maxWatchPaths)
	}
	for _, path := range c.Watch.set() {
		if err := path.Validate(); err != nil {
			wrong("watch.paths: %w", err)
		}
	}
	if c.Baseline.TellKnownEvery < 0 || c.Baseline.TellKnownEvery > 24*time.Hour {
		wrong("baseline.tell_known_every %s: want 0s to 24h", c.Baseline.TellKnownEvery)
	}
	if c.SpoolMaxBytes < 1<<20 {
		wrong("spool_max_bytes %d: want at least 1048576", c.SpoolMaxBytes)
	}
	if c.Budget.CPUPercent < 0.1 || c.Budget.CPUPercent > 100 {
		wrong("budget.cpu_percent %g: want 0.1 to 100", c.Budget.CPUPercent)
	}
	if c.Budget.RSSBytes < 32<<20 {
		wrong("budget.rss_bytes %d: want at least 33554432", c.Budget.RSSBytes)
	}
	if c.Recorder.Enabled && c.Recorder.MaxBytes < recorder.MinBytes {
		wrong("recorder.max_bytes %d: want at least %d", c.Recorder.MaxBytes, int64(recorder.MinBytes))
	}
	if c.MemoryLimitBytes < 16<<20 {
		wrong("memory_limit_bytes %d: want at least 16777216", c.MemoryLimitBytes)
	}
	return errors.Join(problems...)
}

// Print is the effective config as YAML with each field explained.
func (c Config) Print() ([]byte, error) {
	comments := yaml.CommentMap{
		"$.state_dir":                 {yaml.HeadComment(" identity, baseline, spool, recordings and leases (0700, kept over reboots)")},
		"$.coordinators":              {yaml.HeadComment(" nodes to try, host:port (UDP); the cluster's own list is remembered as well")},
		"$.host_name":                 {yaml.HeadComment(" the name shown to operators; empty: the machine's own")},
		"$.scope":                     {yaml.HeadComment(" what is seen, enforced in the kernel: host, cgroup:/PATH, netns:/PATH or netns:self")},
		"$.labels":                    {yaml.HeadComment(" told to the cluster; the join token's labels win")},
		"$.summary_interval":          {yaml.HeadComment(" how often counts, health and losses go up: 1s to 1h")},
		"$.baseline":                  {yaml.HeadComment(" how normal behaviour is learnt")},
		"$.baseline.window":           {yaml.LineComment(" length of a learning window")},
		"$.baseline.known_windows":    {yaml.LineComment(" distinct windows that make a behaviour known")},
		"$.baseline.learn_for":        {yaml.LineComment(" novelty alone is no finding before this; rules work at once")},
		"$.baseline.tell_known_every": {yaml.LineComment(" counts of what is known go up so often; 0s: with each summary")},
		"$.alert_budget":              {yaml.HeadComment(" findings a day of odd behaviour alone, rules not counted; how odd that is, is measured here")},
		"$.kernel_baseline":           {yaml.HeadComment(" count in the kernel what is known; false: every event leaves it")},
		"$.watch":                     {yaml.HeadComment(" which files are told of when they change")},
		"$.watch.defaults":            {yaml.LineComment(" accounts, ssh, cron, units, loader, profiles, histories, logs, web roots, programs")},
		"$.watch.paths":               {yaml.HeadComment(" others, each a file, or a tree with / at its end; one * for a whole directory")},
		"$.spool_max_bytes":           {yaml.HeadComment(" bound of what waits on disk for an absent coordinator; beyond it the oldest bulk is dropped and counted")},
		"$.recorder":                  {yaml.HeadComment(" the flight recorder: what left the kernel, for vedette-sensor recorder query")},
		"$.recorder.enabled":          {yaml.LineComment(" false records nothing more")},
		"$.recorder.max_bytes":        {yaml.LineComment(" bound of the recordings on disk; the oldest go first")},
		"$.rules_dir":                 {yaml.HeadComment(" a folder of Sigma rules beside the built-in ones; empty: none")},
		"$.isolation.enabled":         {yaml.LineComment(" false refuses every isolation here")},
		"$.budget":                    {yaml.HeadComment(" above it file events are sampled, which is declared; execs, privileges and tampering never")},
		"$.budget.cpu_percent":        {yaml.LineComment(" of one core, over ten seconds")},
		"$.budget.rss_bytes":          {yaml.LineComment(" resident memory")},
		"$.memory_limit_bytes":        {yaml.HeadComment(" soft limit of the Go runtime")},
		"$.log_level":                 {yaml.HeadComment(" debug, info, warn or error")},
	}
	return yaml.MarshalWithOptions(c, yaml.WithComment(comments), yaml.IndentSequence(true))
}
