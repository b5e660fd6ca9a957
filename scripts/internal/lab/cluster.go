package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// NodeSpec is where one coordinator node runs and listens.
type NodeSpec struct {
	ID       string
	Listen   string // UDP: sensors and peers
	Operator string // TCP: operators
	NS       *Namespace
	// Env is added to the environment of the node's daemon: "NAME=value".
	Env []string
}

// Cluster is a running set of coordinator nodes.
type Cluster struct {
	lab     *Lab
	Nodes   []NodeSpec
	Context string // the first operator's context file
	Members map[string]*Process
	// CLIFrom is the namespace that the CLI runs in.
	CLIFrom *Namespace
}

// StartCluster starts nodes; what already has state resumes it. report tells progress.
func (l *Lab) StartCluster(ctx context.Context, specs []NodeSpec, report func(string)) (*Cluster, error) {
	c := &Cluster{
		lab: l, Nodes: specs, Members: map[string]*Process{},
		CLIFrom: specs[0].NS,
	}
	c.Context = c.Founder()
	resumed := 0
	for i, spec := range specs {
		initialised := l.initialised(spec.ID)
		if initialised {
			resumed++
		}
		switch {
		case initialised:
		case i == 0:
			if err := l.setUp(ctx, spec, "init"); err != nil {
				return nil, err
			}
			// As one does: the operators' key is for no node.
			if err := moveFile(filepath.Join(l.NodeDir(spec.ID), "admin.context.yaml"), c.Founder()); err != nil {
				return nil, fmt.Errorf("taking the first admin's context off its node: %w", err)
			}
		default:
			if err := c.join(ctx, spec); err != nil {
				return nil, err
			}
		}
		if err := c.StartNode(ctx, spec); err != nil {
			return nil, err
		}
		// A fresh node can only join a cluster that answers; resumed ones need each other for a quorum.
		if !initialised || i == len(specs)-1 {
			if err := c.answers(ctx); err != nil {
				return nil, err
			}
		}
		report(fmt.Sprintf("coordinator %s listens on %s", spec.ID, spec.Listen))
	}
	if err := c.AllAlive(ctx); err != nil {
		return nil, err
	}
	return c, c.operator(ctx)
}

// moveFile moves a private file, to another file system as well.
func moveFile(from, to string) error {
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err == nil {
		err = os.Remove(from)
	}
	return err
}

// operator makes a context that names every node, so that the CLI goes on when the founder is dead.
func (c *Cluster) operator(ctx context.Context) error {
	path, err := c.NewOperator(ctx, "operator", "admin")
	if err == nil {
		c.Context = path
	}
	return err
}

// NewOperator makes an operator and returns the context file, the old one when there is one.
func (c *Cluster) NewOperator(ctx context.Context, name, role string) (string, error) {
	path := filepath.Join(c.lab.Dir, name+".context.yaml")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	args := []string{"--context-file", c.Founder(), "operator", "create", name, "--role", role, "--out", path}
	for _, n := range c.Nodes {
		args = append(args, "--node", n.Operator)
	}
	_, err := c.CLI(ctx, args...)
	return path, err
}

// Founder is the first admin's context, which alone has the operators' authority.
func (c *Cluster) Founder() string { return filepath.Join(c.lab.Dir, "admin.context.yaml") }

// NodeDir is the folder of a node.
func (l *Lab) NodeDir(id string) string { return filepath.Join(l.Dir, "coordinator-"+id) }

func (l *Lab) initialised(id string) bool {
	_, err := os.Stat(filepath.Join(l.NodeDir(id), "cluster.json"))
	return err == nil
}

// setUp runs the coordinator's own set-up command.
func (l *Lab) setUp(ctx context.Context, spec NodeSpec, verb string, more ...string) error {
	args := append([]string{verb, "--data", l.NodeDir(spec.ID), "--id", spec.ID,
		"--listen", spec.Listen, "--operator-listen", spec.Operator}, more...)
	_, err := l.Run(spec.NS, exec.CommandContext(ctx, filepath.Join(l.Bin, "vedette-coordinator"), args...))
	return err
}

func (c *Cluster) join(ctx context.Context, spec NodeSpec) error {
	token, err := c.Token(ctx, "--node")
	if err != nil {
		return err
	}
	path, err := c.lab.secretFile("join-"+spec.ID, token)
	if err != nil {
		return err
	}
	defer os.Remove(path)
	return c.lab.setUp(ctx, spec, "join", "--coordinator", c.Nodes[0].Listen, "--token-file", path)
}

// StartNode starts one node's daemon on its state.
func (c *Cluster) StartNode(_ context.Context, spec NodeSpec) error {
	config := filepath.Join(c.lab.NodeDir(spec.ID), "coordinator.yaml")
	text := fmt.Sprintf("id: %s\ndata: %s\nlisten: %s\noperator_listen: %s\n", spec.ID, c.lab.NodeDir(spec.ID), spec.Listen, spec.Operator)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return fmt.Errorf("writing a node's config: %w", err)
	}
	cmd := exec.Command(filepath.Join(c.lab.Bin, "vedette-coordinator"), "--config", config)
	if len(spec.Env) > 0 {
		cmd.Env = append(os.Environ(), spec.Env...)
	}
	p, err := c.lab.Start(spec.NS, "coordinator-"+spec.ID, cmd)
	if err != nil {
		return err
	}
	c.Members[spec.ID] = p
	return nil
}

func (c *Cluster) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return Until(ctx, 100*time.Millisecond, "the cluster to answer", func(ctx context.Context) (bool, error) {
		if err := c.dead(); err != nil {
			return true, nil //nolint:nilerr // told below, with the log
		}
		var status struct {
			Leader string `json:"leader_id"`
		}
		err := c.JSON(ctx, &status, "status")
		return err == nil && status.Leader != "", err
	})
}

// AllAlive waits until every node is a member that answers.
func (c *Cluster) AllAlive(ctx context.Context) error {
	if err := c.dead(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return Until(ctx, 200*time.Millisecond, "every node to be a member", func(ctx context.Context) (bool, error) {
		if err := c.dead(); err != nil {
			return false, err
		}
		var members []struct {
			State string `json:"state"`
			Role  string `json:"role"`
		}
		if err := c.JSON(ctx, &members, "cluster", "members"); err != nil {
			return false, err
		}
		alive := 0
		for _, m := range members {
			if m.State == "alive" && m.Role != "joining" { // who joins has no vote yet
				alive++
			}
		}
		return alive == len(c.Nodes), nil
	})
}

// dead is an error with the log's end when a node has ended by itself.
func (c *Cluster) dead() error {
	var problems []error
	for id, p := range c.Members {
		select {
		case <-p.Exited():
			problems = append(problems, fmt.Errorf("coordinator %s ended:\n%s", id, p.Tail()))
		default:
		}
	}
	return errors.Join(problems...)
}

// Addresses of all nodes, for sensors.
func (c *Cluster) Addresses() []string {
	var all []string
	for _, n := range c.Nodes {
		all = append(all, n.Listen)
	}
	return all
}

// Command is the CLI with the operator's context, run by Run or by the caller.
func (c *Cluster) Command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, filepath.Join(c.lab.Bin, "vedette"), args...)
	cmd.Env = append(os.Environ(), "VEDETTE_CONTEXT_FILE="+c.Context, "NO_COLOR=1",
		"XDG_CACHE_HOME="+filepath.Join(c.lab.Dir, "cache"))
	return cmd
}

// CLI runs a command and returns what it printed on standard output.
func (c *Cluster) CLI(ctx context.Context, args ...string) ([]byte, error) {
	cmd := c.Command(ctx, args...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := c.CLIFrom.Do(cmd.Run); err != nil {
		return out.Bytes(), fmt.Errorf("vedette %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaint.String()))
	}
	return out.Bytes(), nil
}

// JSON runs a command with -o json into v.
func (c *Cluster) JSON(ctx context.Context, v any, args ...string) error {
	out, err := c.CLI(ctx, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(out, v); err != nil {
		return fmt.Errorf("reading what vedette %s printed: %w", strings.Join(args, " "), err)
	}
	return nil
}

// Token makes a join token.
func (c *Cluster) Token(ctx context.Context, flags ...string) (string, error) {
	var made struct {
		Token string `json:"token"`
	}
	err := c.JSON(ctx, &made, append([]string{"token", "create"}, flags...)...)
	return made.Token, err
}

// secretFile keeps a secret out of arguments, which every user of the machine can read.
func (l *Lab) secretFile(name, secret string) (string, error) {
	path := filepath.Join(l.Dir, name+".token")
	if err := os.WriteFile(path, []byte(secret+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("writing a token: %w", err)
	}
	return path, nil
}
