package export

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/goccy/go-yaml"
)

// Ensure each mistake is told by its key, none of them with a secret in it, and that
// passwords do not travel in the clear.
func TestValidate(t *testing.T) {
	secret := secretFile(t, "s3cret-9f2", 0o600)
	open := secretFile(t, "s3cret-9f2", 0o640)
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	_, certificate, key := selfSigned(t)
	kafka := func(k KafkaConfig) Sinks { return Sinks{{Name: "lake", Kafka: &k}} }
	house := func(c ClickHouseConfig) Sinks { return Sinks{{Name: "lake", ClickHouse: &c}} }
	far, near := []string{"k1.example.org:9093"}, []string{"127.0.0.1:9092", "localhost:9092", "[::1]:9092"}
	for says, sinks := range map[string]Sinks{
		"":                        kafka(KafkaConfig{Brokers: near, Mechanism: "plain", User: "ann", PasswordFile: secret}),
		"export[0].name: \"\"":    {{Kafka: &KafkaConfig{Brokers: far}}},
		"two sinks":               {{Name: "a", Kafka: &KafkaConfig{Brokers: far}}, {Name: "a", Kafka: &KafkaConfig{Brokers: far}}},
		"either kafka or":         {{Name: "a"}},
		"none of findings":        {{Name: "a", Records: []string{"summaries"}, Kafka: &KafkaConfig{Brokers: far}}},
		"kafka.brokers: name":     kafka(KafkaConfig{}),
		"is not HOST:PORT":        kafka(KafkaConfig{Brokers: []string{"k1"}}),
		"kafka.topic_prefix":      kafka(KafkaConfig{Brokers: far, TopicPrefix: "a b"}),
		"none of plain":           kafka(KafkaConfig{Brokers: far, Mechanism: "gssapi"}),
		"a user without one":      kafka(KafkaConfig{Brokers: far, User: "ann"}),
		"kafka.user: the":         kafka(KafkaConfig{Brokers: far, Mechanism: "scram-sha-512", PasswordFile: secret}),
		"kafka.password_file":     kafka(KafkaConfig{Brokers: far, Mechanism: "scram-sha-512", User: "ann"}),
		"chmod 600":               kafka(KafkaConfig{Brokers: near, Mechanism: "plain", User: "ann", PasswordFile: open}),
		"is no file":              kafka(KafkaConfig{Brokers: near, Mechanism: "plain", User: "ann", PasswordFile: pipe}),
		"sends the password":      kafka(KafkaConfig{Brokers: far, Mechanism: "plain", User: "ann", PasswordFile: secret}),
		"go together":             kafka(KafkaConfig{Brokers: far, TLS: &TLSConfig{Certificate: certificate}}),
		"no certificate in PEM":   kafka(KafkaConfig{Brokers: far, TLS: &TLSConfig{CA: secret}}),
		"tls.ca: \"ca.pem\"":      kafka(KafkaConfig{Brokers: far, TLS: &TLSConfig{CA: "ca.pem"}}),
		"reading certificate and": kafka(KafkaConfig{Brokers: far, TLS: &TLSConfig{Certificate: certificate, Key: secret}}),
		"'user' and":              house(ClickHouseConfig{URL: "https://ann:s3cret-9f2@ch:8443"}),
		"cannot be read as a URL": house(ClickHouseConfig{URL: "https://ann:s3cret-9f2@ch:port"}),
		"like https":              house(ClickHouseConfig{URL: "ch:8443"}),
		"alone":                   house(ClickHouseConfig{URL: "https://ch:8443/?query=DROP"}),
		"http sends":              house(ClickHouseConfig{URL: "http://ch:8123", User: "ann", PasswordFile: secret}),
		"the url is http":         house(ClickHouseConfig{URL: "http://ch:8123", TLS: &TLSConfig{}}),
		"clickhouse.table":        house(ClickHouseConfig{URL: "https://ch:8443", Table: "records; DROP"}),
		"whose password":          house(ClickHouseConfig{URL: "https://ch:8443", PasswordFile: secret}),
		"printable ASCII":         house(ClickHouseConfig{URL: "https://ch:8443", User: "a\nX-Evil: 1"}),
		"9 sinks, at most 8":      make(Sinks, 9),
		"absolute path of a file": house(ClickHouseConfig{URL: "https://ch:8443", User: "ann", PasswordFile: "secret"}),
		"no such file":            house(ClickHouseConfig{URL: "https://ch:8443", User: "ann", PasswordFile: "/nonexistent"}),
	} {
		err := sinks.Validate()
		if says == "" {
			if err != nil {
				t.Errorf("what is right: %v", err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), says) || !strings.HasPrefix(err.Error(), "export") {
			t.Errorf("got %v, want %q", err, says)
			continue
		}
		if strings.Contains(err.Error(), "s3cret-9f2") {
			t.Errorf("a secret is in %v", err)
		}
	}
	if err := kafka(KafkaConfig{Brokers: far, TLS: &TLSConfig{CA: certificate, Certificate: certificate, Key: key}}).Validate(); err != nil {
		t.Errorf("mTLS: %v", err)
	}
	if err := os.Chown(secret, 12345, 12345); err == nil {
		if err := checkSecret(secret); err == nil || !strings.Contains(err.Error(), "another user") {
			t.Errorf("a secret of another user: %v", err)
		}
	}
}

// Ensure what --print-config writes is read as the same.
func TestPrinted(t *testing.T) {
	want := Sinks{
		{Name: "lake", Records: []string{Findings, Flows}, Kafka: &KafkaConfig{Brokers: []string{"a:1", "[::1]:2"}, TopicPrefix: "x.", Mechanism: "plain", User: `a"b`, PasswordFile: "/f", TLS: &TLSConfig{}}},
		{Name: "t", ClickHouse: &ClickHouseConfig{URL: "https://ch:8443", Database: "d", Table: "t", User: "u", PasswordFile: "/p", TLS: &TLSConfig{CA: "/c", Certificate: "/d", Key: "/k", ServerName: "s"}}},
	}
	var got Sinks
	if err := yaml.UnmarshalWithOptions([]byte(want.String()), &got, yaml.Strict()); err != nil || got.String() != want.String() || got[0].Kafka.TLS == nil {
		t.Errorf("%s read as %s, %v", want, got, err)
	}
	if got := Sinks(nil).String(); got != "[]" {
		t.Errorf("none is %s", got)
	}
}
