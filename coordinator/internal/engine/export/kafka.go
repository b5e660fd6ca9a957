package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
)

// dialTime bounds one attempt to reach a server, and answerTime its answer to one request.
const (
	dialTime   = 5 * time.Second
	answerTime = 10 * time.Second
)

// kafka writes to topics, idempotently within one batch; across batches and leaders the
// header vedette-id tells what came twice.
type kafka struct {
	cfg     *KafkaConfig
	client  *kgo.Client
	reached bool // a broker has answered
}

func openKafka(cfg *KafkaConfig) (Sink, error) {
	opts := []kgo.Opt{
		kgo.SeedBrokers(cfg.Brokers...), kgo.ClientID("vedette-coordinator"), kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProduceRequestTimeout(answerTime), kgo.RequestTimeoutOverhead(answerTime), kgo.RetryTimeout(answerTime),
		// What cannot be delivered comes back to the feed, which has the one back-off; the
		// records stay in the store. No RecordDeliveryTimeout: it counts from a record's own
		// time, and these may be months old.
		kgo.RecordRetries(3), kgo.AllowIdempotentProduceCancellation(), kgo.UnknownTopicRetries(1),
		kgo.MaxBufferedBytes(2 * batchBytes), kgo.ProducerBatchMaxBytes(1_000_000), kgo.ProducerLinger(5 * time.Millisecond),
		kgo.DialTimeout(dialTime), kgo.DisableClientMetrics(),
	}
	secure, err := cfg.TLS.client()
	if err != nil {
		return nil, err
	}
	if secure != nil {
		opts = append(opts, kgo.DialTLSConfig(secure))
	}
	if cfg.Mechanism != "" {
		password, err := readSecret(cfg.PasswordFile)
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.SASL(cfg.sasl(password)))
	}
	client, err := kgo.NewClient(opts...)
	if err != nil {
		return nil, fmt.Errorf("making a client of Kafka: %w", err)
	}
	return &kafka{cfg: cfg, client: client}, nil
}

func (k *KafkaConfig) sasl(password string) sasl.Mechanism {
	switch k.Mechanism {
	case "scram-sha-256":
		return scram.Auth{User: k.User, Pass: password}.AsSha256Mechanism()
	case "scram-sha-512":
		return scram.Auth{User: k.User, Pass: password}.AsSha512Mechanism()
	}
	return plain.Auth{User: k.User, Pass: password}.AsMechanism()
}

// Send implements Sink.
func (k *kafka) Send(ctx context.Context, records []Record) error {
	out := make([]*kgo.Record, len(records))
	for i, r := range records {
		out[i] = &kgo.Record{
			Topic: k.cfg.topic(r.Kind), Key: []byte(r.Key), Value: r.JSON, Timestamp: time.Unix(0, r.Time),
			Headers: []kgo.RecordHeader{{Key: "vedette-id", Value: []byte(r.ID)}, {Key: "vedette-type", Value: []byte(types[r.Kind])},
				{Key: "vedette-schema", Value: strconv.AppendInt(nil, schema, 10)}},
		}
	}
	// A broker that has a batch and does not answer must not hold the feed longer than ctx.
	stop := context.AfterFunc(ctx, k.client.Close)
	defer stop()
	if !k.reached { // what fails a connection is told here, and is lost among retries there
		if err := k.client.Ping(ctx); err != nil {
			return k.refused(ctx, out[0].Topic, err)
		}
		k.reached = true
	}
	results := k.client.ProduceSync(ctx, out...)
	at := slices.IndexFunc(results, func(r kgo.ProduceResult) bool { return r.Err != nil })
	if at < 0 {
		return nil
	}
	return k.refused(ctx, results[at].Record.Topic, results[at].Err)
}

// refused says what to do about it.
func (k *kafka) refused(ctx context.Context, topic string, err error) error {
	advice := "look whether the brokers run and a firewall lets every node reach them"
	switch {
	case errors.Is(err, kerr.UnknownTopicOrPartition):
		advice = "make the topic " + topic + ", or let the user see it"
	case errors.Is(err, kerr.SaslAuthenticationFailed), errors.Is(err, kerr.UnsupportedSaslMechanism), errors.Is(err, kerr.IllegalSaslState):
		advice = "compare mechanism, user and password_file with what the brokers know"
	case errors.Is(err, kerr.TopicAuthorizationFailed), errors.Is(err, kerr.ClusterAuthorizationFailed), errors.Is(err, kerr.TransactionalIDAuthorizationFailed):
		advice = "allow the user to write to " + topic + " (and, before Kafka 3.0, IDEMPOTENT_WRITE of the cluster)"
	case errors.Is(err, kerr.MessageTooLarge), errors.Is(err, kerr.RecordListTooLarge):
		advice = "raise max.message.bytes of " + topic + " to 1048588 or more"
	case errors.Is(err, kerr.NotEnoughReplicas), errors.Is(err, kerr.NotEnoughReplicasAfterAppend):
		advice = "start the brokers that are down: " + topic + " has fewer copies than min.insync.replicas"
	case errors.Is(err, io.EOF): // some brokers say no otherwise
		advice = "the broker hangs up: compare mechanism, user and password_file, and tls, with what it asks for"
	case ctx.Err() != nil, errors.Is(err, kgo.ErrClientClosed):
		err = errors.New("no answer in time")
	}
	if said := ofTLS(err); said != "" {
		advice = said
	}
	return &refusal{"writing to " + topic, err, advice}
}

// Close implements Sink.
func (k *kafka) Close() { k.client.Close() }
