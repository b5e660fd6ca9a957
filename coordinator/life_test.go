package coordinator_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vedette-edr/vedette/coordinator"
	"github.com/vedette-edr/vedette/coordinator/client"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

func TestStartErrors(t *testing.T) {
	t.Run("not initialised", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		_, err := coordinator.New(cfg)
		if !errors.Is(err, coordinator.ErrNotInitialised) || !strings.Contains(err.Error(), "vedette-coordinator join") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("initialised twice", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		if _, err := coordinator.Init(cfg); !errors.Is(err, coordinator.ErrInitialised) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("key readable by others", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(cfg.Data, "ca.key"), 0o640); err != nil {
			t.Fatal(err)
		}
		if _, err := coordinator.New(cfg); err == nil || !strings.Contains(err.Error(), "chmod 600") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("port in use", func(t *testing.T) {
		c := startCluster(t, 1)
		cfg := newConfig(t, "n2")
		cfg.OperatorListen = c.nodes[0].cfg.OperatorListen
		if _, err := coordinator.Init(cfg); err != nil {
			t.Fatal(err)
		}
		second, err := coordinator.New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if err := second.Run(context.Background()); err == nil || !strings.Contains(err.Error(), "another process has the port") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("state of another cluster", func(t *testing.T) {
		one, two := startCluster(t, 1), newConfig(t, "n1")
		eventually(t, "a written state", func() error {
			status, err := one.api.Status(t.Context())
			if err == nil && status.GetAppliedIndex() < 3 {
				err = errors.New("nothing yet")
			}
			return err
		})
		one.nodes[0].stop()
		if _, err := coordinator.Init(two); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"state.db", "raft"} {
			if err := os.Rename(filepath.Join(one.nodes[0].cfg.Data, name), filepath.Join(two.Data, name)); err != nil {
				t.Fatal(err)
			}
		}
		mixed, err := coordinator.New(two)
		if err != nil {
			t.Fatal(err)
		}
		if err := mixed.Run(context.Background()); !errors.Is(err, coordinator.ErrOtherCluster) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("advertise", func(t *testing.T) {
		cfg := newConfig(t, "n1")
		cfg.Listen = "0.0.0.0:7443"
		cfg.OperatorListen = "nonsense"
		_, err := coordinator.Init(cfg)
		if err == nil || !strings.Contains(err.Error(), "advertise") || !strings.Contains(err.Error(), "operator_listen") {
			t.Errorf("want both problems, got %v", err)
		}
	})
}

// Ensure a node keeps its place over a restart and after moving to another port.
func TestRestart(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	boot := newBoot()
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	session.batch(boot, 0, finding(1, &sensorv1.Finding{Title: "kept", Storyline: "1.1"}))
	session.wantAck(1)
	c.nodes[0].stop()
	cfg := c.nodes[0].cfg
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", freePort(t))
	cfg.Advertise = ""
	c.nodes[0] = start(t, cfg)
	eventually(t, "the new address", func() error {
		members, err := c.api.Members(t.Context())
		if err == nil && (len(members) != 1 || members[0].GetAddress() != cfg.Listen) {
			err = fmt.Errorf("members: %v", members)
		}
		return err
	})
	_, welcome := sensor.open(cfg.Listen, boot)
	if welcome.GetAcked() != 1 {
		t.Errorf("acked: got %d, want 1", welcome.GetAcked())
	}
}

// Ensure a watcher sees what is committed at any node, and that the API answers
// plain JSON with the names of the contract.
func TestWatch(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	boot := newBoot()
	ctx, cancel := context.WithCancel(t.Context())
	events := make(chan *operatorv1.WatchResponse, 100)
	done := make(chan error, 1)
	go func() {
		done <- c.api.Watch(ctx, "", func(e *operatorv1.WatchResponse) { events <- e }, func(string, error) {})
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("watch: %v", err)
		}
	}()
	// What happens before the watch stands is not shown: repeat until it does.
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, boot)
	sequence := uint64(0)
	want := func(what string, match func(*operatorv1.WatchResponse) bool) {
		t.Helper()
		eventually(t, what, func() error {
			session.batch(boot, sequence, finding(sequence+1, &sensorv1.Finding{Title: "seen", Severity: "high", Storyline: "1.1"}))
			sequence++
			session.wantAck(sequence)
			for {
				select {
				case e := <-events:
					if match(e) {
						return nil
					}
				case <-time.After(500 * time.Millisecond):
					return errors.New("not shown")
				}
			}
		})
	}
	want("a finding", func(e *operatorv1.WatchResponse) bool {
		return e.GetFinding().GetFinding().GetTitle() == "seen" && e.GetHost() == sensor.id && e.GetHostName() == "web-1"
	})
	want("an incident", func(e *operatorv1.WatchResponse) bool { return e.GetIncident().GetId() != "" })
	_ = session.conn.CloseWithReason(0, "")
	eventually(t, "the end of the session", func() error {
		select {
		case e := <-events:
			if e.GetHostChange().GetChange() == "silent" {
				return nil
			}
		default:
		}
		return errors.New("not shown")
	})
	status, err := c.api.Status(t.Context())
	if err != nil || status.GetHostsSilent() != 1 || !strings.Contains(strings.Join(status.GetProblems(), "\n"), "1 host is silent (web-1)") {
		t.Errorf("status: %v, %v", status, err)
	}
}

// Ensure a session renews the host's certificate, for the same host only.
func TestRenewal(t *testing.T) {
	c := startCluster(t, 1)
	sensor := c.enrol(0)
	session, _ := sensor.open(c.nodes[0].cfg.Advertise, newBoot())
	_, key, request := enrolRequest(t, c.token("sensor"))
	session.send(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Renew{Renew: &sensorv1.Renew{Csr: request.GetCsr()}}})
	m := session.next(func(m *sensorv1.CoordinatorMessage) bool { return m.GetNodes() == nil })
	leaf, err := x509.ParseCertificate(m.GetCertificate().GetChain()[0])
	if err != nil {
		t.Fatal(err)
	}
	if peer, err := link.PeerOf(leaf); err != nil || peer.ID != sensor.id || peer.Kind != link.KindHost {
		t.Errorf("peer: got %+v, %v", peer, err)
	}
	renewed := *sensor
	renewed.cert = tls.Certificate{Certificate: m.GetCertificate().GetChain(), PrivateKey: key}
	if _, welcome := renewed.open(c.nodes[0].cfg.Advertise, newBoot()); welcome.GetHostId() != sensor.id {
		t.Errorf("welcome: %v", welcome)
	}
}

// Ensure an admin can take a node out, a viewer cannot, and the audit says who did.
func TestRemoveMember(t *testing.T) {
	c := startCluster(t, 3)
	viewer, err := c.admin.NewOperator(client.NewOperator{Name: "vic", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	api, err := client.New(viewer, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	if err := api.RemoveMember(t.Context(), "n3"); !errors.Is(err, client.ErrDenied) || !strings.Contains(err.Error(), `needs role "admin"`) {
		t.Errorf("viewer: got %v", err)
	}
	if err := c.api.RemoveMember(t.Context(), "n9"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("unknown node: got %v", err)
	}
	c.nodes[2].stop()
	if err := c.api.RemoveMember(t.Context(), "n2"); err == nil || !strings.Contains(err.Error(), "bring n3 back, or remove it first") {
		t.Fatalf("the node without which nobody is a majority: got %v", err)
	}
	if err := c.api.RemoveMember(t.Context(), "n3"); err != nil {
		t.Fatalf("removing: %v", err)
	}
	members, err := c.api.Members(t.Context())
	if err != nil || len(members) != 2 {
		t.Errorf("members: %v, %v", members, err)
	}
	for e, err := range c.api.Audit(t.Context(), 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.GetAction() == "member-remove" && e.GetSubject() == "n3" && e.GetActor() == "operator:admin" {
			return
		}
	}
	t.Error("the audit does not say who removed the node")
}
