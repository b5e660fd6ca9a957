package export

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func pemFile(t *testing.T, der []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// selfSigned is a certificate for the loopback, and files of it and of its key.
func selfSigned(t *testing.T) (pair tls.Certificate, certificate, key string) {
	t.Helper()
	secret := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der := must(x509.CreateCertificate(rand.Reader, template, template, secret.Public(), secret))
	raw := must(x509.MarshalPKCS8PrivateKey(secret))
	key = secretFile(t, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})), 0o600)
	certificate = pemFile(t, der)
	return must(tls.LoadX509KeyPair(certificate, key)), certificate, key
}

func fake(t *testing.T, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, "vedette.findings", "vedette.incidents", "vedette.audit")}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// consume reads n records of topics.
func consume(t *testing.T, brokers []string, n int, topics ...string) (out []*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(brokers...), kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for len(out) < n {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			t.Fatalf("%d of %d records: %v", len(out), n, err)
		}
		out = append(out, fetches.Records()...)
	}
	return out
}

func checkRecords(t *testing.T, sent []Record, got []*kgo.Record) {
	t.Helper()
	byID := make(map[string]*kgo.Record)
	partitions := make(map[string]int32)
	for _, r := range got {
		headers := make(map[string]string)
		for _, h := range r.Headers {
			headers[h.Key] = string(h.Value)
		}
		byID[headers["vedette-id"]] = r
		at := r.Topic + string(r.Key)
		if was, ok := partitions[at]; ok && was != r.Partition {
			t.Errorf("key %s is in partitions %d and %d", r.Key, was, r.Partition)
		}
		partitions[at] = r.Partition
		if headers["vedette-schema"] != "1" || headers["vedette-type"] == "" {
			t.Errorf("headers %v", headers)
		}
	}
	for _, r := range sent {
		have := byID[r.ID]
		if have == nil {
			t.Errorf("%s did not come", r.ID)
			continue
		}
		if string(have.Value) != string(r.JSON) || string(have.Key) != r.Key || have.Topic != "vedette."+r.Kind || have.Timestamp.UnixMilli() != r.Time/1e6 {
			t.Errorf("%s came as %s %s %v: %s", r.ID, have.Topic, have.Key, have.Timestamp, have.Value)
		}
	}
}

// Ensure each record comes to its topic, with key, headers and time.
func TestProduce(t *testing.T) {
	c := fake(t)
	sent := someRecords(t, 600)
	sink := mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs()}})
	if err := sink.Send(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	checkRecords(t, sent, consume(t, c.ListenAddrs(), len(sent), "vedette.findings", "vedette.incidents"))
}

// Ensure brokers that ask who comes, over TLS with certificates on both sides, are
// written to by each mechanism.
func TestProduceSecured(t *testing.T) {
	const password = "s3cret-9f2"
	pair, certificate, key := selfSigned(t)
	pool := x509.NewCertPool()
	pool.AddCert(pair.Leaf)
	server := &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
	c := fake(t, kfake.EnableSASL(), kfake.TLS(server), kfake.Superuser("PLAIN", "ann", password), kfake.Superuser("SCRAM-SHA-256", "ann", password), kfake.Superuser("SCRAM-SHA-512", "ann", password))
	secret := secretFile(t, password, 0o600)
	both := &TLSConfig{CA: certificate, Certificate: certificate, Key: key}
	for _, mechanism := range mechanisms {
		sink := mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs(), Mechanism: mechanism, User: "ann", PasswordFile: secret, TLS: both}})
		if err := sink.Send(t.Context(), someRecords(t, 1)); err != nil {
			t.Errorf("%s: %v", mechanism, err)
		}
		sink = mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs(), Mechanism: mechanism, User: "ann", PasswordFile: secretFile(t, "wrong-77", 0o600), TLS: both}})
		refusedWith(t, sink, "compare mechanism, user and password_file", "wrong-77")
	}
	sink := mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs(), Mechanism: "plain", User: "ann", PasswordFile: secret, TLS: &TLSConfig{}}})
	refusedWith(t, sink, "tls.ca", password)
	sink = mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs(), Mechanism: "plain", User: "ann", PasswordFile: secret, TLS: &TLSConfig{CA: certificate}}})
	refusedWith(t, sink, "tls.certificate", password)
}

func refusedWith(t *testing.T, sink Sink, advice, secret string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := sink.Send(ctx, someRecords(t, 1))
	refused, ok := err.(*refusal)
	if !ok || !strings.Contains(refused.advice, advice) {
		t.Errorf("got %v (%+v), want the advice %q", err, refused, advice)
		return
	}
	if strings.Contains(err.Error()+refused.advice, secret) {
		t.Errorf("a secret is in %v", err)
	}
}

// Ensure what a broker refuses is told with what to do, and that one which takes records and
// never answers holds nobody for longer than the time that is given.
func TestProduceFails(t *testing.T) {
	c, err := kfake.NewCluster(kfake.NumBrokers(1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	refusedWith(t, mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs()}}), "make the topic vedette.", "none-to-leak")

	for _, tt := range []struct {
		err    *kerr.Error
		advice string
	}{{kerr.MessageTooLarge, "max.message.bytes"}, {kerr.TopicAuthorizationFailed, "allow the user to write"}, {kerr.NotEnoughReplicas, "min.insync.replicas"}} {
		c := fake(t)
		c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
			c.KeepControl()
			return refusing(req.(*kmsg.ProduceRequest), tt.err.Code), nil, true
		})
		refusedWith(t, mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: c.ListenAddrs()}}), tt.advice, "none-to-leak")
	}

	silent := fake(t)
	silent.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		silent.KeepControl()
		silent.SleepControl(func() { <-t.Context().Done() })
		return nil, nil, false
	})
	sink := mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: silent.ListenAddrs()}})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := sink.Send(ctx, someRecords(t, 1)); err == nil || !strings.Contains(err.Error(), "no answer in time") || time.Since(began) > 10*time.Second {
		t.Errorf("a broker that does not answer: %v after %s", err, time.Since(began))
	}
}

func refusing(req *kmsg.ProduceRequest, code int16) *kmsg.ProduceResponse {
	res := req.ResponseKind().(*kmsg.ProduceResponse)
	for _, topic := range req.Topics {
		out := kmsg.NewProduceResponseTopic()
		out.Topic, out.TopicID = topic.Topic, topic.TopicID
		for _, p := range topic.Partitions {
			part := kmsg.NewProduceResponseTopicPartition()
			part.Partition, part.ErrorCode = p.Partition, code
			out.Partitions = append(out.Partitions, part)
		}
		res.Topics = append(res.Topics, out)
	}
	return res
}

// Ensure an engine whose broker fails at times brings every record at least once and under
// the same id.
func TestProduceWithFaults(t *testing.T) {
	l := newLog(t)
	l.finds(700, epoch)
	c := fake(t)
	requests := 0
	c.ControlKey(int16(kmsg.Produce), func(req kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if requests++; requests != 2 && requests != 3 && requests != 5 {
			return nil, nil, false
		}
		return refusing(req.(*kmsg.ProduceRequest), kerr.TopicAuthorizationFailed.Code), nil, true
	})
	e := newEngine(t, l, nil, func(cfg *Config) {
		cfg.open = open
		cfg.Sinks = Sinks{{Name: "lake", Records: []string{Findings}, Kafka: &KafkaConfig{Brokers: c.ListenAddrs()}}}
	})
	failures := 0
	for more := true; more && failures < 100; {
		var err error
		if more, err = e.feeds[0].step(t.Context()); err != nil {
			failures++
			e.feeds[0].closeSink()
			more = true
		}
	}
	e.feeds[0].closeSink()
	if failures == 0 {
		t.Error("nothing failed")
	}
	seen := make(map[string]bool)
	for _, r := range consume(t, c.ListenAddrs(), 700, "vedette.findings") {
		seen[string(r.Headers[0].Value)] = true
	}
	if len(seen) != 700 {
		t.Errorf("%d findings came, want 700; %d failures", len(seen), failures)
	}
}

// Ensure a real broker takes what is sent. VEDETTE_KAFKA is HOST:PORT on the loopback of a broker
// without authentication, on which the topics vedette.findings and vedette.incidents exist, new and empty.
func TestKafka(t *testing.T) {
	broker := os.Getenv("VEDETTE_KAFKA")
	if broker == "" {
		t.Skip("SKIP: needs a Kafka broker (VEDETTE_KAFKA=127.0.0.1:9092)")
	}
	if host, _, err := net.SplitHostPort(broker); err != nil || !loopback(host) {
		t.Fatalf("VEDETTE_KAFKA: %v, or not on the loopback", err)
	}
	sent := someRecords(t, 600)
	for i := range sent {
		sent[i].ID = fmt.Sprintf("%s/%d", sent[i].ID, time.Now().UnixNano())
	}
	sink := mustOpen(t, SinkConfig{Kafka: &KafkaConfig{Brokers: []string{broker}}})
	if err := sink.Send(t.Context(), sent); err != nil {
		t.Fatal(err)
	}
	checkRecords(t, sent, consume(t, []string{broker}, len(sent), "vedette.findings", "vedette.incidents"))
}
