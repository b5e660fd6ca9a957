package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// intentFile is what the demo's operators let automation do about a finding.
const intentFile = `reason: the demo's ladder
veto_seconds: 120
groups:
  - name: web
    labels: {role: web}
  - name: app
    labels: {role: app}
  - name: db
    labels: {role: db}
policy: |
  @id("db-at-once")
  permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"db")
  when { context.level <= 4 && context.confidence.greaterThanOrEqual(decimal("0.3")) };

  @id("app-on-approval")
  permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"app")
  when { context.level <= 2 };

  @id("web-unless-vetoed")
  permit (principal, action == Vedette::Action::"isolate", resource in Vedette::Group::"web")
  when { context.level <= 3 };
`

// isolation is what the story reads of "vedette isolation list -o json".
type isolation struct {
	Host        string `json:"host"`
	State       string `json:"state"`
	RequestedBy string `json:"requested_by"`
	Reason      string `json:"reason"`
}

// operation is the same of "vedette operation list -o json".
type operation struct {
	ID          string    `json:"id"`
	State       string    `json:"state"`
	Action      string    `json:"action"`
	Hosts       []string  `json:"hosts"`
	Level       int       `json:"level"`
	RequestedAt time.Time `json:"requested_at"`
	Policies    []string  `json:"policies"`
}

// permit applies the intent; what is found from here on is judged by it.
func (s *story) permit(ctx context.Context, text string) error {
	path := filepath.Join(s.lab.Dir, "intent.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return err
	}
	if out, err := s.cluster.CLI(ctx, "intent", "apply", path, "--reason", "demo", "--yes", "--wait", "--timeout", "20s"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	s.say.proved("vedette intent apply: signed by an admin, and every host holds it")
	return nil
}

// automation shows the three rungs of the ladder at work.
func (s *story) automation(ctx context.Context) error {
	for _, h := range s.world.hosts[:3] {
		probe, err := s.newProgram(ctx, h, "rung")
		if err != nil {
			return err
		}
		defer os.Remove(probe)
	}
	if err := s.actsByItself(ctx); err != nil {
		return err
	}
	if err := s.vetoed(ctx); err != nil {
		return err
	}
	return s.approved(ctx)
}

// newProgram starts a program on a host that none has run before; it does nothing.
func (s *story) newProgram(ctx context.Context, h host, what string) (string, error) {
	path := dropped + "-" + what + "-" + h.name
	if err := s.world.program(path, true); err != nil {
		return path, err
	}
	if _, err := s.lab.Run(h.ns, exec.CommandContext(ctx, path, "role", "beacon")); err == nil {
		return path, errors.New("the program should have refused its arguments")
	}
	return path, nil
}

func (s *story) actsByItself(ctx context.Context) error {
	var by isolation
	err := s.until(ctx, 15*time.Second, "db1 to isolate itself", func(ctx context.Context) (bool, error) {
		var rows []isolation
		if err := s.cluster.JSON(ctx, &rows, "isolation", "list", "--host", "db1", "--active"); err != nil {
			return false, err
		}
		at := slices.IndexFunc(rows, func(i isolation) bool { return i.State == "applied" && i.RequestedBy == "host:"+i.Host })
		if at >= 0 {
			by = rows[at]
		}
		return at >= 0, nil
	})
	if err != nil {
		return errors.Join(err, s.show(ctx, "isolation", "list", "-o", "wide"), s.show(ctx, "finding", "list"))
	}
	if err := isCut(ctx, s.world.db(), s.world.away); err != nil {
		return err
	}
	s.say.proved("level 4: db1 isolated itself, with no order from anybody: %s", by.Reason)
	return nil
}

func (s *story) vetoed(ctx context.Context) error {
	waiting, err := s.proposed(ctx, "web1", "window")
	if err != nil {
		return err
	}
	if out, err := s.cluster.CLI(ctx, "veto", waiting.ID, "--reason", "demo: customers are in the shop"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	if err := s.waits(ctx, waiting.ID, "vetoed"); err != nil {
		return err
	}
	through, err := tryOut(ctx, s.world.web(), s.world.away)
	if err != nil || !through.all() {
		return errors.Join(err, fmt.Errorf("web1 should not be cut: %s", through))
	}
	s.say.proved("level 3: vedette veto %s: web1 stays on the network (%s)", waiting.ID, waiting.Policies)
	return nil
}

func (s *story) approved(ctx context.Context) error {
	waiting, err := s.proposed(ctx, "app1", "waiting")
	if err != nil {
		return err
	}
	if out, err := s.cluster.CLI(ctx, "approve", waiting.ID, "--yes"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	if out, err := s.cluster.CLI(ctx, "isolation", "watch", waiting.ID, "--timeout", "20s"); err != nil {
		return errors.Join(err, fmt.Errorf("it printed:\n%s", out))
	}
	if err := isCut(ctx, s.world.app(), s.world.away); err != nil {
		return err
	}
	s.say.proved("level 2: vedette approve %s: app1 is isolated once a person has signed", waiting.ID)
	return nil
}

// proposed waits for what automation asks people about a host.
func (s *story) proposed(ctx context.Context, name, state string) (found operation, err error) {
	hosts, err := s.cluster.Hosts(ctx)
	if err != nil {
		return found, err
	}
	err = s.until(ctx, 15*time.Second, "automation to ask about "+name, func(ctx context.Context) (bool, error) {
		var open []operation
		if err := s.cluster.JSON(ctx, &open, "operation", "list", "--open"); err != nil {
			return false, err
		}
		at := slices.IndexFunc(open, func(o operation) bool {
			return o.State == state && o.Level > 0 && slices.Equal(o.Hosts, []string{hosts[name].ID})
		})
		if at >= 0 {
			found = open[at]
		}
		return at >= 0, nil
	})
	if err != nil {
		err = errors.Join(err, s.show(ctx, "operation", "list", "-o", "wide"), s.show(ctx, "finding", "list"))
	}
	return found, err
}

// order gives an order and returns its operation without waiting for it.
func (s *story) order(ctx context.Context, args ...string) (string, error) {
	var results []struct {
		Operation string `json:"operation"`
	}
	if err := s.cluster.JSON(ctx, &results, args...); err != nil {
		return "", err
	}
	if len(results) == 0 {
		return "", fmt.Errorf("vedette %s named no host", args[0])
	}
	return results[0].Operation, nil
}

// waits is an error unless the operation is in that state.
func (s *story) waits(ctx context.Context, id, state string) error {
	var o operation
	if err := s.cluster.JSON(ctx, &o, "operation", "show", id); err != nil {
		return err
	}
	if o.State != state {
		return fmt.Errorf("operation %s is %s, want %s", id, o.State, state)
	}
	return nil
}
