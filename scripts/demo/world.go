package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/vedette-edr/vedette/scripts/internal/lab"
)

const prefix = "vdemo-"

// host is one machine of the story.
type host struct {
	name   string
	ns     *lab.Namespace
	sw     *lab.Namespace // the switch, which has a port of the host's name
	v4, v6 string
}

// world is the network of the story and who lives in it.
type world struct {
	lab   *lab.Lab
	sw    *lab.Namespace
	nodes []host // coordinators
	hosts []host // web1, app1, db1, admin1
	away  host   // the attacker's machine, outside
	key   string // the administrator's ssh key
}

func (w *world) web() host   { return w.hosts[0] }
func (w *world) app() host   { return w.hosts[1] }
func (w *world) db() host    { return w.hosts[2] }
func (w *world) admin() host { return w.hosts[3] }

func build(l *lab.Lab) (*world, error) {
	w := &world{lab: l}
	var err error
	if w.sw, err = l.Switch(prefix + "sw"); err != nil {
		return nil, err
	}
	add := func(name string, last int) (host, error) {
		h := host{name: name, sw: w.sw, v4: fmt.Sprintf("10.77.0.%d", last), v6: fmt.Sprintf("fd77::%d", last)}
		if h.ns, err = l.Namespace(prefix + name); err != nil {
			return h, err
		}
		return h, lab.Attach(w.sw, h.ns, name, h.v4+"/24", h.v6+"/64")
	}
	for i := 1; i <= 3; i++ {
		h, err := add(fmt.Sprintf("c%d", i), 10+i)
		if err != nil {
			return nil, err
		}
		w.nodes = append(w.nodes, h)
	}
	for i, name := range []string{"web1", "app1", "db1", "admin1"} {
		h, err := add(name, 101+i)
		if err != nil {
			return nil, err
		}
		w.hosts = append(w.hosts, h)
		if err := onLink(h, "203.0.113.0/24"); err != nil {
			return nil, err
		}
	}
	// A documentation address stands for the world outside (RFC 5737).
	w.away = host{name: "away", sw: w.sw, v4: "203.0.113.66", v6: "fd77::66"}
	if w.away.ns, err = l.Namespace(prefix + "away"); err != nil {
		return nil, err
	}
	if err := lab.Attach(w.sw, w.away.ns, "away", w.away.v4+"/24", w.away.v6+"/64"); err != nil {
		return nil, err
	}
	if err := onLink(w.away, "10.77.0.0/24"); err != nil {
		return nil, err
	}
	return w, w.login()
}

func onLink(h host, cidr string) error {
	_, network, err := net.ParseCIDR(cidr)
	if err != nil {
		return err
	}
	return h.ns.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: network, Scope: netlink.SCOPE_LINK})
	})
}

// login makes the administrator's key and starts a real sshd on every host.
func (w *world) login() error {
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		if sshd = "/usr/sbin/sshd"; !exists(sshd) {
			return errors.New("sshd is not installed: apt-get install openssh-server")
		}
	}
	if !exists("/run/sshd") {
		if err := os.Mkdir("/run/sshd", 0o755); err != nil {
			return fmt.Errorf("making sshd's folder: %w", err)
		}
		w.lab.OnClose(func() error { return os.Remove("/run/sshd") })
	}
	w.key = filepath.Join(w.lab.Dir, "id_admin")
	hostKey := filepath.Join(w.lab.Dir, "ssh_host_key")
	for _, path := range []string{w.key, hostKey} {
		if _, err := w.lab.Run(nil, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path)); err != nil {
			return err
		}
	}
	public, err := os.ReadFile(hostKey + ".pub")
	if err != nil {
		return err
	}
	var known strings.Builder
	for _, h := range w.hosts {
		fmt.Fprintf(&known, "%s %s", h.v4, public)
	}
	if err := os.WriteFile(w.knownHosts(), []byte(known.String()), 0o600); err != nil {
		return err
	}
	for _, h := range w.hosts {
		config := filepath.Join(w.lab.Dir, "sshd_"+h.name)
		text := fmt.Sprintf(`ListenAddress %s
HostKey %s
AuthorizedKeysFile %s.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
`, h.v4, hostKey, w.key)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			return err
		}
		if _, err := w.lab.Start(h.ns, "sshd-"+h.name, exec.Command(sshd, "-D", "-e", "-f", config)); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) knownHosts() string { return filepath.Join(w.lab.Dir, "known_hosts") }

// sshKnown is the command line by which the administrator reaches a host: he knows whom he asks.
func (w *world) sshKnown(to host) []string {
	return []string{"ssh", "-q", "-i", w.key, "-o", "UserKnownHostsFile=" + w.knownHosts(), "-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "root@" + to.v4}
}

// ssh is the command line by which an intruder does, who trusts any.
func (w *world) ssh(to host) []string {
	return []string{"ssh", "-q", "-i", w.key, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
		"-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "root@" + to.v4}
}

func (w *world) scp() []string {
	return append(append([]string{"scp"}, w.ssh(host{})[1:10]...), "-q")
}

// program copies this program under another name, as a binary of its own.
func (w *world) program(path string, distinct bool) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return copyProgram(self, path, distinct)
}

func copyProgram(source, path string, distinct bool) error {
	from, err := os.Open(source)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	if err == nil && distinct {
		// Other bytes at the end: a hash that nobody has seen.
		_, err = io.CopyN(to, rand.Reader, 64)
	}
	return errors.Join(err, to.Close())
}

// ordinary starts the work that the hosts learn from and returns when each kind ran once.
func (w *world) ordinary(ctx context.Context) error {
	shop := filepath.Join(w.lab.Dir, "shopd")
	client := filepath.Join(w.lab.Dir, "shopper")
	if err := errors.Join(w.program(shop, false), w.program(client, false)); err != nil {
		return err
	}
	if _, err := w.lab.Start(w.web().ns, "shopd", exec.Command(shop, "role", "service", w.web().v4+":8080")); err != nil {
		return err
	}
	if _, err := w.lab.Start(w.admin().ns, "shopper", exec.Command(client, "role", "client", "http://"+w.web().v4+":8080/price?item=bread")); err != nil {
		return err
	}
	// The administrator looks at every host, over and over, as monitoring does.
	script := filepath.Join(w.lab.Dir, "rounds.sh")
	var text strings.Builder
	text.WriteString("while :; do\n")
	for _, h := range w.hosts[:3] {
		fmt.Fprintf(&text, "  %s 'uptime; df -h / | tail -1; ls /var/log | wc -l' >/dev/null\n", strings.Join(w.sshKnown(h), " "))
	}
	text.WriteString("  sleep 1\ndone\n")
	if err := os.WriteFile(script, []byte(text.String()), 0o700); err != nil {
		return err
	}
	if _, err := w.lab.Start(w.admin().ns, "rounds", exec.Command("/bin/sh", script)); err != nil {
		return err
	}
	return lab.Until(ctx, 200*time.Millisecond, "the shop to answer", func(context.Context) (bool, error) {
		out, err := w.lab.Run(w.admin().ns, exec.CommandContext(ctx, client, "role", "ask", "http://"+w.web().v4+":8080/price?item=milk"))
		return err == nil && len(bytes.TrimSpace(out)) > 0, err
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// leftovers is an error that names what the demo should have removed.
func leftovers() error {
	var problems []error
	names, _ := filepath.Glob("/run/netns/" + prefix + "*")
	for _, name := range names {
		problems = append(problems, fmt.Errorf("namespace %s is left", name))
	}
	processes, _ := filepath.Glob("/proc/[0-9]*/exe")
	own := fmt.Sprintf("/proc/%d/exe", os.Getpid())
	for _, exe := range processes {
		target, err := os.Readlink(exe)
		if err == nil && exe != own && (strings.HasPrefix(target, home+"/") || strings.HasPrefix(target, dropped)) {
			problems = append(problems, fmt.Errorf("process %s (%s) is left", filepath.Dir(exe), target))
		}
	}
	if exists(dropped) {
		problems = append(problems, fmt.Errorf("%s is left", dropped))
	}
	return errors.Join(problems...)
}
