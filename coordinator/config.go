package coordinator

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/vedette-edr/vedette/coordinator/internal/engine/export"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/notify"
	"github.com/vedette-edr/vedette/coordinator/internal/engine/retention"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
)

// Where a node listens when nothing else is said.
const (
	DefaultListen         = "127.0.0.1:7443"
	DefaultOperatorListen = "127.0.0.1:7444"
	DefaultData           = "/var/lib/vedette-coordinator"
)

// Config of a node. What is empty is taken from the data directory, where
// 'init' or 'join' wrote what the node was made with.
type Config struct {
	// ID names the node in the cluster and must be the one that its data
	// directory was made for. Needed only as a check.
	ID string `yaml:"id"`
	// Data is the directory of the node's identity, log and state. It belongs to
	// one node for ever: copying it makes a second node with the same vote.
	Data string `yaml:"data"`
	// Listen is the UDP address, HOST:PORT, for sensors and the other nodes.
	Listen string `yaml:"listen"`
	// OperatorListen is the TCP address, HOST:PORT, for operators.
	OperatorListen string `yaml:"operator_listen"`
	// Advertise is Listen as sensors and the other nodes reach it. Needed when
	// Listen names no single address (0.0.0.0) or is behind address translation.
	Advertise string `yaml:"advertise"`
	// OperatorAdvertise is OperatorListen as operators reach it.
	OperatorAdvertise string `yaml:"operator_advertise"`
	// MetricsListen is the TCP address, HOST:PORT, where /metrics, /healthz and /readyz
	// are served without TLS and to whoever reaches it; empty, the default: nowhere. On
	// OperatorListen operators have them always. Keep it to the loopback or to a network
	// of machines that may know how many hosts there are and in what state.
	MetricsListen string `yaml:"metrics_listen"`
	// LogLevel is debug, info, warn or error.
	LogLevel string `yaml:"log_level"`
	// LogFormat is text or json, a line for each message either way.
	LogFormat string `yaml:"log_format"`
	// SilentAfter is when a host without a batch is shown as silent: three of the
	// sensors' summary intervals.
	SilentAfter time.Duration `yaml:"silent_after"`
	// StableFor is how long a node that joins must have been well and up to the log's end
	// before it votes.
	StableFor time.Duration `yaml:"stable_for"`
	// DeadAfter is how long a node does not answer the leader before it is removed, if three
	// others stay and a majority of those answers; negative: never.
	DeadAfter time.Duration `yaml:"dead_after"`
	// Notify is the program that is run when something waits for a person, automation
	// has acted or an incident opens. Set it on every node: the leader runs it.
	Notify NotifyConfig `yaml:"notify"`
	// Retention is how long the state keeps things; the leader's counts, so write the same on every node.
	Retention retention.Keep `yaml:"retention"`
	// Export are the places outside that get findings, incidents and the audit; the leader
	// exports, so write the same on every node.
	Export export.Sinks `yaml:"export"`

	// Where is the place of a key in the file that this was read from, to begin a problem
	// with; empty for a key that the file does not have. May be nil.
	Where func(key string) string `yaml:"-"`
	// Logger takes the node's log; nil discards it.
	Logger *slog.Logger `yaml:"-"`
	// Version is told to sensors and operators.
	Version string `yaml:"-"`
}

// NotifyConfig of a node. The zero value tells nobody.
type NotifyConfig struct {
	// Program is the absolute path of an executable that root alone can change. It gets one
	// event as a JSON object on stdin, no arguments and none of the node's environment.
	Program string `yaml:"program"`
	// Events are waiting, window, local, acted and incident; empty: all.
	Events []string `yaml:"events"`
}

// String is the value as YAML writes it in one line.
func (n NotifyConfig) String() string {
	if n.Program == "" && len(n.Events) == 0 {
		return "{}"
	}
	text := fmt.Sprintf("{program: %q", n.Program)
	if len(n.Events) > 0 {
		text += ", events: [" + strings.Join(n.Events, ", ") + "]"
	}
	return text + "}"
}

func (n NotifyConfig) validate() error {
	if n.Program == "" {
		if len(n.Events) > 0 {
			return errors.New("notify: events without a program: name one, or leave notify out")
		}
		return nil
	}
	if err := errors.Join(notify.CheckProgram(n.Program), notify.CheckEvents(n.Events)); err != nil {
		return fmt.Errorf("notify: %w", err)
	}
	return nil
}

// DefaultConfig is a node of the default data directory.
func DefaultConfig() Config {
	return Config{Data: DefaultData, LogLevel: "info", LogFormat: "text", SilentAfter: 90 * time.Second, StableFor: 10 * time.Second, DeadAfter: time.Hour, Retention: retention.DefaultKeep(), Version: "dev"}
}

// populate fills in what the data directory says.
func (c *Config) populate(m identity.Membership) {
	for _, f := range []struct {
		field    *string
		fallback string
	}{
		{&c.ID, m.NodeID}, {&c.Listen, m.Listen}, {&c.OperatorListen, m.OperatorListen}, {&c.LogLevel, "info"}, {&c.LogFormat, "text"},
		{&c.Version, "dev"},
	} {
		if *f.field == "" {
			*f.field = f.fallback
		}
	}
	// An address that was advertised for another listener must not outlive it.
	if c.Advertise == "" {
		c.Advertise = c.Listen
		if c.Listen == m.Listen {
			c.Advertise = m.Address
		}
	}
	if c.OperatorAdvertise == "" {
		c.OperatorAdvertise = c.OperatorListen
		if c.OperatorListen == m.OperatorListen {
			c.OperatorAdvertise = m.OperatorAddress
		}
	}
	if c.SilentAfter == 0 {
		c.SilentAfter = 90 * time.Second
	}
	if c.StableFor == 0 {
		c.StableFor = 10 * time.Second
	}
	if c.DeadAfter == 0 {
		c.DeadAfter = time.Hour
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}

// validate joins everything that is wrong.
func (c *Config) validate() error {
	var problems []error
	if c.Data == "" {
		problems = append(problems, errors.New("data: name the node's directory"))
	}
	if c.ID != "" {
		if err := identity.CheckName("id", c.ID); err != nil {
			problems = append(problems, err)
		}
	}
	for _, a := range []struct{ key, value string }{{"listen", c.Listen}, {"operator_listen", c.OperatorListen}} {
		if err := checkListen(a.value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", a.key, err))
		}
	}
	for _, a := range []struct{ key, value string }{{"advertise", c.Advertise}, {"operator_advertise", c.OperatorAdvertise}} {
		if err := checkAdvertise(a.value); err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", a.key, err))
		}
	}
	if c.MetricsListen != "" {
		if err := checkListen(c.MetricsListen); err != nil {
			problems = append(problems, fmt.Errorf("metrics_listen: %w", err))
		}
	}
	if _, err := NewLogger(io.Discard, c.LogFormat, c.LogLevel); err != nil {
		problems = append(problems, err)
	}
	if c.SilentAfter < time.Second || c.SilentAfter > 24*time.Hour {
		problems = append(problems, fmt.Errorf("silent_after: %s is not within 1s and 24h", c.SilentAfter))
	}
	if c.StableFor < time.Second || c.StableFor > time.Hour {
		problems = append(problems, fmt.Errorf("stable_for: %s is not within 1s and 1h", c.StableFor))
	}
	if c.DeadAfter >= 0 && c.DeadAfter < time.Minute {
		problems = append(problems, fmt.Errorf("dead_after: %s: 1m at least, or negative for never: a node that restarts is not dead", c.DeadAfter))
	}
	if err := errors.Join(c.Notify.validate(), c.Retention.Validate()); err != nil {
		problems = append(problems, err)
	}
	problems = append(problems, c.Export.Problems()...)
	if len(problems) > 0 {
		return fmt.Errorf("configuration: %w", errors.Join(c.placed(problems)...))
	}
	return nil
}

// placed begins each problem with its place: its first word is the key.
func (c *Config) placed(problems []error) []error {
	if c.Where == nil {
		return problems
	}
	for i, problem := range problems {
		key, _, _ := strings.Cut(problem.Error(), ":")
		problems[i] = fmt.Errorf("%s%w", c.Where(key), problem)
	}
	return problems
}

// Level reads a log_level.
func Level(text string) (slog.Level, error) {
	switch text {
	case "debug":
		return slog.LevelDebug, nil
	case "info", "":
		return slog.LevelInfo, nil
	case "warn":
		return slog.LevelWarn, nil
	case "error":
		return slog.LevelError, nil
	}
	return 0, fmt.Errorf("log_level: %q is none of debug, info, warn, error", text)
}

// NewLogger writes to w as log_format and log_level say.
func NewLogger(w io.Writer, format, level string) (*slog.Logger, error) {
	least, err := Level(level)
	if err != nil {
		return nil, err
	}
	options := &slog.HandlerOptions{Level: least}
	switch format {
	case "text", "":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, fmt.Errorf("log_format: %q is none of text, json", format)
}

func checkListen(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("%q is not HOST:PORT", addr)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return fmt.Errorf("%q has no port from 1 to 65535", addr)
	}
	return nil
}

func checkAdvertise(addr string) error {
	if err := checkListen(addr); err != nil {
		return err
	}
	host, _, _ := net.SplitHostPort(addr)
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		return fmt.Errorf("%q names no address that others can reach: set it to this node's own", addr)
	}
	return nil
}
