package detect

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure the built-in rules for files match what they are for and leave ordinary work alone.
func TestBuiltinFiles(t *testing.T) {
	remote := func(p *event.Process) { p.Origin = &event.Flow{Remote: netip.MustParseAddrPort("10.0.0.9:5555")} }
	const cred, persist, bin, web, hist, log, module = event.FileCredential, event.FilePersistence, event.FileBinary, event.FileWeb, event.FileHistory, event.FileLog, event.FileModule
	for _, tt := range []struct {
		parent, image string
		change        func(*event.Process)
		op            event.FileOp
		class         event.FileClass
		path, target  string
		mode          uint32
		want          string // part of a title; empty: no finding
	}{
		{"/usr/bin/bash", "/usr/bin/tee", nil, event.FileCreate, persist, "/etc/ld.so.preload", "", 0, "preload"},
		{"/usr/bin/bash", "/usr/bin/mv", nil, event.FileRename, persist, "tmp/x", "/etc/ld.so.preload", 0, "preload"},
		{"/usr/sbin/sshd", "/usr/bin/bash", remote, event.FileWrite, cred, "/root/.ssh/authorized_keys", "", 0, "Login keys"},
		{"/usr/bin/bash", "/usr/bin/vim", remote, event.FileWrite, cred, "/root/.ssh/authorized_keys", "", 0, ""},
		{"/usr/sbin/nginx", "/usr/bin/dash", nil, event.FileCreate, persist, "/etc/cron.d/x", "", 0, "network service"},
		{"/usr/bin/bash", "/usr/bin/cp", remote, event.FileCreate, persist, "/etc/systemd/system/x.service", "", 0, "remote session"},
		{"/usr/bin/bash", "/usr/bin/cp", remote, event.FileWrite, cred, "/etc/sudoers.d/x", "", 0, "remote session"},
		{"/usr/bin/bash", "/usr/bin/cp", nil, event.FileCreate, persist, "/etc/systemd/system/x.service", "", 0, "Service unit changed"},
		{"/usr/bin/bash", "/usr/bin/systemctl", nil, event.FileSymlink, persist, "/etc/systemd/system/multi-user.target.wants/x.service", "", 0, ""},
		{"/usr/bin/bash", "/usr/bin/python3.11", remote, event.FileWrite, cred, "/etc/shadow", "", 0, "Account file"},
		{"/usr/bin/bash", "/usr/sbin/usermod", remote, event.FileRename, cred, "/etc/shadow+", "/etc/shadow", 0, ""},
		{"/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.2", nil, event.FileCreate, web, "/var/www/html/up/x.php", "", 0, "web root"},
		{"/usr/sbin/php-fpm8.2", "/usr/sbin/php-fpm8.2", nil, event.FileCreate, web, "/var/www/html/up/x.jpg", "", 0, ""},
		{"/usr/bin/bash", "/usr/bin/ln", remote, event.FileSymlink, hist, "/root/.bash_history", "/dev/null", 0, "history"},
		{"/usr/bin/bash", "/usr/bin/rm", remote, event.FileUnlink, hist, "/root/.bash_history", "", 0, "history removed"},
		{"/usr/sbin/sshd", "/usr/bin/bash", remote, event.FileTruncate, hist, "/root/.bash_history", "", 0, ""},
		{"/usr/bin/bash", "/usr/bin/truncate", remote, event.FileTruncate, log, "/var/log/auth.log", "", 0, "log emptied"},
		{"/usr/bin/bash", "/usr/bin/shred", remote, event.FileUnlink, log, "/var/log/wtmp", "", 0, "log removed"},
		{"/usr/sbin/cron", "/usr/sbin/logrotate", nil, event.FileRename, log, "/var/log/auth.log", "/var/log/auth.log.1", 0, ""},
		{"/usr/bin/bash", "/usr/bin/chmod", remote, event.FileChmod, bin, "/usr/bin/find", "", 0o104755, "rights of its owner"},
		{"/usr/bin/bash", "/usr/bin/chmod", remote, event.FileChmod, bin, "/usr/bin/find", "", 0o100755, ""},
		{"/usr/bin/bash", "/usr/bin/cp", remote, event.FileTruncate, bin, "/usr/bin/ls", "", 0, "Installed program"},
		{"/usr/bin/bash", "/usr/bin/cp", remote, event.FileCreate, bin, "/usr/lib/x86_64-linux-gnu/security/pam_x.so", "", 0, "Installed program"},
		{"/usr/bin/bash", "/usr/bin/cp", nil, event.FileCreate, module, "/usr/lib/modules/6.1/extra/x.ko", "", 0, "module file"},
		{"/usr/bin/bash", "/usr/bin/id", nil, event.FileMapExec, 0, "/tmp/evil.so", "", 0, "Library loaded"},
		{"/usr/bin/bash", "/usr/bin/id", nil, event.FileMapExec, 0, "/usr/lib/x86_64-linux-gnu/libc.so.6", "", 0, ""},
		// A package upgrade.
		{"/usr/bin/apt-get", "/usr/bin/dpkg", remote, event.FileRename, bin, "/usr/bin/ls.dpkg-new", "/usr/bin/ls", 0, ""},
		{"/usr/bin/apt-get", "/usr/bin/dpkg", remote, event.FileChmod, bin, "/usr/bin/su.dpkg-new", "", 0o104755, ""},
		{"/usr/bin/dpkg", "/usr/bin/dash", remote, event.FileCreate, persist, "/etc/systemd/system/multi-user.target.wants/x.service", "", 0, ""},
		{"/usr/bin/dpkg", "/usr/sbin/useradd", remote, event.FileRename, cred, "/etc/passwd+", "/etc/passwd", 0, ""},
		{"/usr/bin/dnf", "/usr/bin/rpm", remote, event.FileRename, bin, "/usr/bin/ls;6565fe12", "/usr/bin/ls", 0, ""},
		{"/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd-sysusers", nil, event.FileRename, cred, "/etc/.#passwdXX", "/etc/passwd", 0, ""},
		{"/tmp/dpkg", "/usr/bin/cp", remote, event.FileWrite, bin, "/usr/bin/ls", "", 0, "Installed program"},
	} {
		h, e := newHost(), engine(t)
		p := h.process(h.process(nil, tt.parent), tt.image, tt.image)
		if tt.change != nil {
			tt.change(p)
		}
		o := &event.Observation{
			Event: &event.File{Header: event.Header{Process: p.Key}, Op: tt.op, Class: tt.class, Path: []byte(tt.path), Target: []byte(tt.target), Mode: tt.mode, NLink: 1},
			Time:  h.tick(), Process: p,
		}
		findings, _ := e.Evaluate(o, learning)
		var titles []string
		found := tt.want == "" && len(findings) == 0
		for _, f := range findings {
			titles = append(titles, f.Title)
			found = found || tt.want != "" && strings.Contains(f.Title, tt.want)
			if len(f.Techniques) == 0 || !strings.Contains(f.Reason, tt.image) || strings.Contains(f.Reason, "acted") {
				t.Errorf("incomplete finding %+v", f)
			}
		}
		if !found {
			t.Errorf("%s of %s: %v of %s %s: got %q, want %q", tt.image, tt.parent, tt.op, tt.path, tt.target, titles, tt.want)
		}
	}
}
