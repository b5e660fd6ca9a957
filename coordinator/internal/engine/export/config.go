package export

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// What is handed on.
const (
	Findings  = "findings"
	Incidents = "incidents"
	Audit     = "audit"
	Flows     = "flows" // the notes that join hosts
)

// Kinds of sinks, as figures name them.
const (
	ofKafka      = "kafka"
	ofClickHouse = "clickhouse"
)

var (
	records = []string{Findings, Incidents, Audit, Flows}
	// unless others are asked for; flow notes may be many.
	usual = []string{Findings, Incidents, Audit}
	kinds = []string{ofKafka, ofClickHouse}
)

const (
	// maxSinks bounds the sinks of a configuration.
	maxSinks   = 8
	maxBrokers = 32
)

// Sinks of a node; write the same on every node, as the leader exports.
type Sinks []SinkConfig

// SinkConfig is one place outside.
type SinkConfig struct {
	// Name is what the log calls it: under a new one everything that is held goes out again.
	Name string `yaml:"name"`
	// Records are findings, incidents, audit and flows; empty: all but flows.
	Records []string `yaml:"records,omitempty"`
	// One of these says where it is.
	Kafka      *KafkaConfig      `yaml:"kafka,omitempty"`
	ClickHouse *ClickHouseConfig `yaml:"clickhouse,omitempty"`
}

// KafkaConfig says where brokers are and as whom to write.
type KafkaConfig struct {
	// Brokers are HOST:PORT, of which one must answer.
	Brokers []string `yaml:"brokers"`
	// TopicPrefix begins the topics' names, before findings, incidents, audit and flows
	// (default "vedette.").
	TopicPrefix string `yaml:"topic_prefix,omitempty"`
	// Mechanism of SASL is plain, scram-sha-256 or scram-sha-512; empty: none. User and
	// PasswordFile go with it.
	Mechanism    string `yaml:"mechanism,omitempty"`
	User         string `yaml:"user,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
	// TLS is nil for none.
	TLS *TLSConfig `yaml:"tls,omitempty"`
}

// ClickHouseConfig says where its HTTP interface is and as whom to write.
type ClickHouseConfig struct {
	// URL is http:// or https://, with host and port alone.
	URL string `yaml:"url"`
	// Database and Table are where the rows go (default "vedette" and "records").
	Database string `yaml:"database,omitempty"`
	Table    string `yaml:"table,omitempty"`
	// User and PasswordFile go together; empty: the server's default user.
	User         string `yaml:"user,omitempty"`
	PasswordFile string `yaml:"password_file,omitempty"`
	// TLS says whom to trust where the URL is https.
	TLS *TLSConfig `yaml:"tls,omitempty"`
}

// TLSConfig of a client. Empty, it trusts whom the system trusts.
type TLSConfig struct {
	// CA is a file of PEM certificates that replace those that the system trusts.
	CA string `yaml:"ca,omitempty"`
	// Certificate and Key are files, for a sink that asks who comes (mTLS).
	Certificate string `yaml:"certificate,omitempty"`
	Key         string `yaml:"key,omitempty"`
	// ServerName replaces the host's name in the check of its certificate.
	ServerName string `yaml:"server_name,omitempty"`
}

func (s SinkConfig) kind() string {
	if s.Kafka != nil {
		return ofKafka
	}
	return ofClickHouse
}

// poll suits the kind: ClickHouse likes few and large inserts.
func (s SinkConfig) poll() time.Duration {
	if s.Kafka != nil {
		return time.Second
	}
	return 5 * time.Second
}

func (s SinkConfig) wants(record string) bool {
	if len(s.Records) == 0 {
		return slices.Contains(usual, record)
	}
	return slices.Contains(s.Records, record)
}

func (k *KafkaConfig) topic(record string) string {
	if k.TopicPrefix == "" {
		return "vedette." + record
	}
	return k.TopicPrefix + record
}

var (
	plainName  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	identifier = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,63}$`)
	// topicPrefix leaves room for the longest kind in Kafka's 249 characters.
	topicPrefix = regexp.MustCompile(`^[A-Za-z0-9._-]{0,200}$`)
	mechanisms  = []string{"plain", "scram-sha-256", "scram-sha-512"}
)

// Validate joins all that is wrong.
func (s Sinks) Validate() error { return errors.Join(s.Problems()...) }

// Problems are all that is wrong, each by its key in the file. It reads the secrets, so that
// a node does not start with one that others can read.
func (s Sinks) Problems() (problems []error) {
	say := func(key string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("export%s: %w", key, err))
		}
	}
	if len(s) > maxSinks {
		say("", fmt.Errorf("%d sinks, at most %d", len(s), maxSinks))
	}
	names := make(map[string]bool)
	for i, sink := range s[:min(len(s), maxSinks)] {
		at := fmt.Sprintf("[%d]", i)
		switch {
		case !plainName.MatchString(sink.Name):
			say(at+".name", fmt.Errorf("%q: 1 to 64 letters, digits, dots, dashes and underscores name the sink", sink.Name))
		case names[sink.Name]:
			say(at+".name", fmt.Errorf("%q is the name of two sinks", sink.Name))
		}
		names[sink.Name] = true
		for _, record := range sink.Records {
			if !slices.Contains(records, record) {
				say(at+".records", fmt.Errorf("%q is none of %s", record, strings.Join(records, ", ")))
			}
		}
		if (sink.Kafka == nil) == (sink.ClickHouse == nil) {
			say(at, errors.New("say where it is: either kafka or clickhouse"))
			continue
		}
		if sink.Kafka != nil {
			sink.Kafka.validate(at+".kafka", say)
		} else {
			sink.ClickHouse.validate(at+".clickhouse", say)
		}
	}
	return problems
}

func (k *KafkaConfig) validate(at string, say func(string, error)) {
	if n := len(k.Brokers); n == 0 || n > maxBrokers {
		say(at+".brokers", fmt.Errorf("name 1 to %d brokers, HOST:PORT each", maxBrokers))
	}
	private := true
	for _, broker := range k.Brokers {
		host, port, err := net.SplitHostPort(broker)
		if err != nil || host == "" || port == "" {
			say(at+".brokers", fmt.Errorf("%q is not HOST:PORT", broker))
		}
		private = private && loopback(host)
	}
	if !topicPrefix.MatchString(k.TopicPrefix) {
		say(at+".topic_prefix", fmt.Errorf("%q: at most 200 letters, digits, dots, dashes and underscores", k.TopicPrefix))
	}
	switch {
	case k.Mechanism == "":
		if k.User != "" || k.PasswordFile != "" {
			say(at+".mechanism", fmt.Errorf("a user without one: say which of %s", strings.Join(mechanisms, ", ")))
		}
	case !slices.Contains(mechanisms, k.Mechanism):
		say(at+".mechanism", fmt.Errorf("%q is none of %s", k.Mechanism, strings.Join(mechanisms, ", ")))
	default:
		if k.User == "" {
			say(at+".user", errors.New("the mechanism needs one"))
		}
		say(at+".password_file", checkSecret(k.PasswordFile))
		if k.Mechanism == "plain" && k.TLS == nil && !private {
			say(at+".tls", errors.New("mechanism plain sends the password itself: add 'tls: {}', or use scram-sha-512"))
		}
	}
	k.TLS.validate(at+".tls", say)
}

func (c *ClickHouseConfig) validate(at string, say func(string, error)) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		say(at+".url", errors.New("it cannot be read as a URL")) // the error would show a password in it
	case u.User != nil:
		say(at+".url", errors.New("take user and password out of it: 'user' and 'password_file' are for them"))
	case u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		say(at+".url", errors.New("it is not like https://HOST:8443"))
	case u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/":
		say(at+".url", errors.New("host and port alone: 'database' and 'table' say the rest"))
	case u.Scheme == "http" && c.PasswordFile != "" && !loopback(u.Hostname()):
		say(at+".url", errors.New("http sends the password as it is: use https"))
	case u.Scheme == "http" && c.TLS != nil:
		say(at+".tls", errors.New("the url is http"))
	}
	for key, value := range map[string]string{".database": c.Database, ".table": c.Table} {
		if value != "" && !identifier.MatchString(value) {
			say(at+key, fmt.Errorf("%q: letters, digits and underscores", value))
		}
	}
	if strings.ContainsFunc(c.User, func(r rune) bool { return r < ' ' || r > '~' }) {
		say(at+".user", errors.New("a header takes printable ASCII alone"))
	}
	switch {
	case c.PasswordFile != "" && c.User == "":
		say(at+".user", errors.New("whose password is it?"))
	case c.PasswordFile != "":
		say(at+".password_file", checkSecret(c.PasswordFile))
	}
	c.TLS.validate(at+".tls", say)
}

func (t *TLSConfig) validate(at string, say func(string, error)) {
	if t == nil {
		return
	}
	if (t.Certificate == "") != (t.Key == "") {
		say(at, errors.New("certificate and key go together"))
		return
	}
	for key, path := range map[string]string{".ca": t.CA, ".certificate": t.Certificate} {
		if path != "" && !filepath.IsAbs(path) {
			say(at+key, fmt.Errorf("%q: give an absolute path", path))
		}
	}
	if t.Key != "" {
		if err := checkSecret(t.Key); err != nil {
			say(at+".key", err)
			return
		}
	}
	if _, err := t.client(); err != nil {
		say(at, err)
	}
}

func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}

// String is the value as YAML writes it in one line.
func (s Sinks) String() string {
	each := make([]string, len(s))
	for i, sink := range s {
		parts := []string{pair("name", sink.Name)}
		if len(sink.Records) > 0 {
			parts = append(parts, "records: ["+strings.Join(sink.Records, ", ")+"]")
		}
		if k := sink.Kafka; k != nil {
			brokers := make([]string, len(k.Brokers))
			for i, b := range k.Brokers {
				brokers[i] = fmt.Sprintf("%q", b)
			}
			inner := append([]string{"brokers: [" + strings.Join(brokers, ", ") + "]"}, pairs("topic_prefix", k.TopicPrefix, "mechanism", k.Mechanism, "user", k.User, "password_file", k.PasswordFile)...)
			parts = append(parts, "kafka: "+braced(append(inner, k.TLS.pairs()...)))
		}
		if c := sink.ClickHouse; c != nil {
			inner := pairs("url", c.URL, "database", c.Database, "table", c.Table, "user", c.User, "password_file", c.PasswordFile)
			parts = append(parts, "clickhouse: "+braced(append(inner, c.TLS.pairs()...)))
		}
		each[i] = braced(parts)
	}
	return "[" + strings.Join(each, ", ") + "]"
}

func (t *TLSConfig) pairs() []string {
	if t == nil {
		return nil
	}
	return []string{"tls: " + braced(pairs("ca", t.CA, "certificate", t.Certificate, "key", t.Key, "server_name", t.ServerName))}
}

func pair(key, value string) string { return fmt.Sprintf("%s: %q", key, value) }

func pairs(all ...string) (out []string) {
	for i := 0; i+1 < len(all); i += 2 {
		if all[i+1] != "" {
			out = append(out, pair(all[i], all[i+1]))
		}
	}
	return out
}

func braced(parts []string) string { return "{" + strings.Join(parts, ", ") + "}" }
