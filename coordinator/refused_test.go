package coordinator_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestEnrolmentRefused(t *testing.T) {
	c := startCluster(t, 1)
	addr := c.nodes[0].cfg.Advertise
	used, _, request := enrolRequest(t, c.token("sensor"))
	if reply, err := ask(t, addr, used.CA, request); err != nil || reply.GetEnrolled() == nil {
		t.Fatalf("first use: %v, %v", reply, err)
	}
	_, _, another := enrolRequest(t, c.token("sensor"))
	for _, tt := range []struct {
		name, code, says string
		change           func(*sensorv1.EnrollRequest)
	}{
		// The same key would get its identity again (TestEnrolAgain).
		{"used", "token-used", "create another", func(r *sensorv1.EnrollRequest) { r.Csr = another.GetCsr() }},
		{"wrong secret", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenSecret = []byte("0123456789abcdef") }},
		{"wrong id", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenId = "aaaaaaaaaaaa" }},
		{"no token", "bad-token", "token create", func(r *sensorv1.EnrollRequest) { r.TokenId, r.TokenSecret = "", nil }},
		{"protocol", "unknown-protocol", "version 99, this coordinator speaks version 1", func(r *sensorv1.EnrollRequest) { r.Protocol = 99 }},
		{"no request", "bad-request", "certificate request", func(r *sensorv1.EnrollRequest) { r.Csr = []byte("no csr") }},
		{"kind", "bad-request", "sensor nor node", func(r *sensorv1.EnrollRequest) { r.Kind = 9 }},
		{"node without address", "bad-request", "HOST:PORT", func(r *sensorv1.EnrollRequest) {
			r.Kind, r.Node = sensorv1.EnrollKind_ENROLL_KIND_NODE, &sensorv1.Node{Id: "evil"}
		}},
		{"node id taken", "node-exists", "n1", func(r *sensorv1.EnrollRequest) {
			r.Kind, r.Node = sensorv1.EnrollKind_ENROLL_KIND_NODE, &sensorv1.Node{Id: "n1", Address: "10.0.0.1:1", OperatorAddress: "10.0.0.1:2"}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := &sensorv1.EnrollRequest{Protocol: request.GetProtocol(), Kind: request.GetKind(), TokenId: request.GetTokenId(),
				TokenSecret: request.GetTokenSecret(), Csr: request.GetCsr(), Facts: request.GetFacts()}
			tt.change(r)
			reply, err := ask(t, addr, used.CA, r)
			if err != nil {
				t.Fatal(err)
			}
			if got := reply.GetRefusal(); got.GetCode() != tt.code || !strings.Contains(got.GetMessage(), tt.says) {
				t.Errorf("got %v, want code %s saying %q", reply, tt.code, tt.says)
			}
		})
	}
	t.Run("sensor token for a node", func(t *testing.T) {
		cfg := newConfig(t, "n9")
		err := coordinator.Join(t.Context(), cfg, addr, c.token("sensor"))
		if !errors.Is(err, coordinator.ErrRefused) || !strings.Contains(err.Error(), "wrong-token-kind") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(filepath.Join(cfg.Data, "ca.key")); err == nil {
			t.Error("a refused join left a CA key behind")
		}
	})
	t.Run("rate limit", func(t *testing.T) {
		request.TokenSecret = []byte("guess guess gues")
		eventually(t, "the limit", func() error {
			reply, err := ask(t, addr, used.CA, request)
			if err != nil {
				return err
			}
			if reply.GetRefusal().GetCode() != "rate-limited" || reply.GetRefusal().GetRetryAfterSeconds() == 0 {
				return fmt.Errorf("got %v", reply)
			}
			return nil
		})
	})
}

func TestSessionRefused(t *testing.T) {
	c := startCluster(t, 1)
	addr := c.nodes[0].cfg.Advertise
	sensor := c.enrol(0)
	hello := func(change func(*sensorv1.Hello)) *sensorv1.SensorMessage {
		h := &sensorv1.Hello{Protocol: frame.ProtocolVersion, Boot: newBoot()}
		change(h)
		return &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: h}}
	}
	for _, tt := range []struct {
		name, code, says string
		first            *sensorv1.SensorMessage
	}{
		{"protocol", "unknown-protocol", "version 2, this coordinator speaks version 1", hello(func(h *sensorv1.Hello) { h.Protocol = 2 })},
		{"boot", "bad-hello", "3 bytes", hello(func(h *sensorv1.Hello) { h.Boot = []byte("abc") })},
		{"no hello", "hello-expected", "hello", &sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			session, err := sensor.dial(addr)
			if err != nil {
				t.Fatal(err)
			}
			defer session.hangUp() // a host has few connections
			session.t = t
			session.send(tt.first)
			if got := session.read().GetRefusal(); got.GetCode() != tt.code || !strings.Contains(got.GetMessage(), tt.says) {
				t.Errorf("got %v, want code %s saying %q", got, tt.code, tt.says)
			}
		})
	}
	t.Run("host of the same CA that the cluster does not know", func(t *testing.T) {
		stranger := *sensor
		stranger.t, stranger.cert = t, signStranger(t, c)
		session, err := stranger.dial(addr)
		if err != nil {
			t.Fatal(err)
		}
		defer session.hangUp()
		session.send(hello(func(*sensorv1.Hello) {}))
		if got := session.read().GetRefusal(); got.GetCode() != "unknown-host" || !strings.Contains(got.GetMessage(), "enrol again") {
			t.Errorf("got %v", got)
		}
	})
	t.Run("certificate of another authority", func(t *testing.T) {
		foreign := *sensor
		foreign.t, foreign.cert = t, signForeign(t, c.admin.ClusterID)
		session, err := foreign.dial(addr)
		if err == nil {
			_ = frame.Write(session.stream, hello(func(*sensorv1.Hello) {}))
			err = frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		}
		if !errors.Is(err, link.ErrForeignCA) && !errors.Is(err, link.ErrCertificateRefused) {
			t.Errorf("got %v, want a refused certificate", err)
		}
	})
	t.Run("oversized frame", func(t *testing.T) {
		session, _ := sensor.open(addr, newBoot())
		header := binary.BigEndian.AppendUint32(nil, frame.MaxFrame+1)
		if _, err := session.stream.Write(header); err != nil {
			t.Fatal(err)
		}
		var closed *link.ClosedError
		err := frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		if !errors.As(err, &closed) || closed.Code != link.CodeBadFrame || !strings.Contains(closed.Reason, "too large") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("sequences that do not rise", func(t *testing.T) {
		boot := newBoot()
		session, _ := sensor.open(addr, boot)
		session.batch(boot, 0, finding(2, &sensorv1.Finding{}), finding(2, &sensorv1.Finding{}))
		var closed *link.ClosedError
		err := frame.Read(session.stream, &sensorv1.CoordinatorMessage{})
		if !errors.As(err, &closed) || closed.Code != link.CodeProtocol {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a finding about the sensor itself", func(t *testing.T) {
		eventually(t, "the finding", func() error {
			var told []string
			for row, err := range c.api.Findings(t.Context(), &operatorv1.ListFindingsRequest{}) {
				if err != nil {
					return err
				}
				if f := row.GetFinding(); f.GetKind() == "suspect-sensor" {
					told = append(told, row.GetHost()+" "+f.GetRuleId()+" "+f.GetSeverity())
				}
			}
			if want := []string{sensor.id + " malformed high"}; !slices.Equal(told, want) {
				return fmt.Errorf("told %q, want %q", told, want)
			}
			return nil
		})
	})
	t.Run("a second session takes over", func(t *testing.T) {
		boot := newBoot()
		first, _ := sensor.open(addr, boot)
		second, _ := sensor.open(addr, boot)
		var closed *link.ClosedError
		for err := error(nil); err == nil; {
			if err = frame.Read(first.stream, &sensorv1.CoordinatorMessage{}); err != nil && (!errors.As(err, &closed) || closed.Code != link.CodeSuperseded) {
				t.Errorf("first session: got %v", err)
			}
		}
		second.batch(boot, 0, finding(1, &sensorv1.Finding{Storyline: "1.1"}))
		second.wantAck(1)
	})
}
