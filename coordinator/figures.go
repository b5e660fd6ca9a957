package coordinator

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/journal"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/proto/link"
)

// parts is what a running node is made of before anything is served.
type parts struct {
	logger    *slog.Logger
	journal   *journal.Journal
	meter     *meter.Meter
	listener  *link.Listener
	operators net.Listener
	open      net.Listener // nil: nowhere
	node      *consensus.Node
}

// listenOpen opens metrics_listen, nil when there is none.
func (c *Coordinator) listenOpen(logger *slog.Logger) (net.Listener, error) {
	if c.cfg.MetricsListen == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", c.cfg.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	if at, err := netip.ParseAddrPort(listener.Addr().String()); err == nil && !at.Addr().Unmap().IsLoopback() {
		logger.Warn("metrics are served without TLS and to whoever reaches their address: let a firewall say who may", "tcp", at.String())
	}
	return listener, nil
}

// certificateEnds is when the node's own certificate does.
func (c *Coordinator) certificateEnds() time.Time {
	certificate, err := c.identity.Certificate()
	if err != nil {
		return time.Now() // it has ended, and cannot be renewed
	}
	return certificate.Leaf.NotAfter
}

// text is the configuration as YAML. No key of it is a secret.
func (c *Config) text() string {
	raw, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Sprintf("# writing the configuration: %v\n", err)
	}
	return string(raw)
}

// causes are what a link is refused for; a new one of the link's is counted with the
// others until it is here.
var causes = []string{
	"tls:expired-certificate", "tls:foreign-ca", "tls:no-certificate", "tls:bad-certificate", "tls:unknown-alpn", "tls:other",
	"tls-peer:expired-certificate", "tls-peer:foreign-ca", "tls-peer:no-certificate", "tls-peer:bad-certificate", "tls-peer:unknown-alpn", "tls-peer:other",
	"busy", "handshake-timeout", "handshake-limit", "connection-limit", "too-many-of-host", "peer-left", "revoked", "expired",
	"not-served", "no-certificate", "bad-identity", "own-certificate", "wrong-kind", "foreign-cluster", "too-many-streams", "too-many-strangers",
	"frame-too-large", "frame-truncated", "frame-malformed", "bad-message", meter.Other,
}

var protocols = []string{link.ALPNSensor, link.ALPNEnroll, link.ALPNRaft}

func (p *parts) figures() {
	p.meter.Read(meter.Cheap, func(_ context.Context, set meter.Set) {
		stats := p.listener.Stats()
		for _, protocol := range protocols {
			set("vedette_connections_accepted_total", protocol, float64(stats.Accepted[protocol]))
		}
		for _, cause := range causes {
			set("vedette_connections_refused_total", cause, 0)
		}
		for cause, n := range stats.Refused {
			set("vedette_connections_refused_total", cause, float64(n))
		}
		set("vedette_connections", "", float64(stats.Open))
		set("vedette_handshakes", "", float64(stats.Handshaking))
		set("vedette_handshakes_retried_total", "", float64(stats.Retried))
		warnings, errors := p.journal.Counts()
		set("vedette_log_lines_total", "warn", float64(warnings))
		set("vedette_log_lines_total", "error", float64(errors))
	},
		meter.Family{Name: "vedette_connections_accepted_total", Help: "Connections on the port of sensors and nodes that reached their service.", Label: "protocol", Values: protocols},
		meter.Family{Name: "vedette_connections_refused_total", Help: "Handshakes that failed, and connections that were turned away or ended for what the peer is.", Label: "cause", Values: causes},
		meter.Family{Name: "vedette_connections", Help: "Connections that stand, of sensors and nodes."},
		meter.Family{Name: "vedette_handshakes", Help: "Handshakes under way."},
		meter.Family{Name: "vedette_handshakes_retried_total", Help: "Handshakes that were asked to prove their address first."},
		meter.Family{Name: "vedette_log_lines_total", Help: "Warnings and errors that the node logged.", Label: "level", Values: []string{"warn", "error"}},
	)
}
