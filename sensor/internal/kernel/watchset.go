package kernel

import (
	"fmt"
	"path"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// WatchPath is a file, or a tree when it ends in "/", that is watched. One whole
// component, neither the first nor the last, may be "*": /home/*/.ssh/.
type WatchPath struct {
	Path  string
	Class event.FileClass
	// Ops are the operations that are told; none: all but changes of times.
	Ops []event.FileOp
}

// maxPattern bounds a watched path.
const maxPattern = 1024

// Validate says what is wrong with a path.
func (w WatchPath) Validate() error {
	clean := strings.TrimSuffix(w.Path, "/")
	parts := strings.Split(clean, "/")
	stars := strings.Count(w.Path, "*")
	switch {
	case !strings.HasPrefix(w.Path, "/") || clean == "" || path.Clean(clean) != clean || len(w.Path) > maxPattern:
		return fmt.Errorf("watched path %q: want an absolute, clean path of at most %d bytes, with / at its end for a tree", w.Path, maxPattern)
	case stars > 1 || stars == 1 && (!strings.Contains(clean, "/*/") || len(parts) < 4):
		return fmt.Errorf("watched path %q: one * may stand for one whole directory in the middle, as in /home/*/.ssh/", w.Path)
	}
	return nil
}

func (w WatchPath) tree() bool { return strings.HasSuffix(w.Path, "/") }

// everyOp is a bit for each operation but changes of times, which programs that copy
// files do to each of them.
const everyOp = 1<<(event.FileChange+1) - 2 - 1<<event.FileUtimes

func (w WatchPath) ops() uint32 {
	if len(w.Ops) == 0 {
		return everyOp
	}
	var mask uint32
	for _, op := range w.Ops {
		mask |= 1 << op
	}
	return mask
}

// critical classes are never sampled.
func critical(c event.FileClass) bool {
	return c == event.FileCredential || c == event.FilePersistence
}

var (
	// A package's files come and go by the thousand; what matters is which content is
	// under which name, and who may run it as whom.
	contentOps = []event.FileOp{event.FileWrite, event.FileCreate, event.FileTruncate, event.FileRename, event.FileLink,
		event.FileSymlink, event.FileChmod, event.FileSetxattr, event.FileChange}
	// Logs and histories are written all day; they are not cut, moved or removed so.
	eraseOps = []event.FileOp{event.FileTruncate, event.FileRename, event.FileUnlink, event.FileLink, event.FileSymlink, event.FileRmdir}
)

// DefaultWatch is what an attacker changes to come back, to become somebody else or to
// be forgotten.
func DefaultWatch() (set []WatchPath) {
	add := func(class event.FileClass, ops []event.FileOp, paths ...string) {
		for _, p := range paths {
			set = append(set, WatchPath{Path: p, Class: class, Ops: ops})
		}
	}
	add(event.FileCredential, nil, "/etc/passwd", "/etc/shadow", "/etc/group", "/etc/gshadow", "/etc/subuid", "/etc/subgid",
		"/etc/security/", "/etc/sudoers", "/etc/sudoers.d/", "/etc/doas.conf", "/etc/polkit-1/", "/etc/pam.d/", "/etc/pam.conf",
		"/etc/ssh/", "/root/.ssh/", "/home/*/.ssh/", "/etc/krb5.conf", "/etc/krb5.keytab", "/etc/nsswitch.conf")
	add(event.FilePersistence, nil, "/etc/ld.so.preload", "/etc/ld.so.conf", "/etc/ld.so.conf.d/",
		"/etc/crontab", "/etc/anacrontab", "/etc/cron.d/", "/etc/cron.hourly/", "/etc/cron.daily/", "/etc/cron.weekly/", "/etc/cron.monthly/",
		"/etc/at.allow", "/etc/cron.allow", "/var/spool/cron/", "/var/spool/at/",
		"/etc/systemd/", "/usr/lib/systemd/", "/usr/local/lib/systemd/", "/run/systemd/system/", "/run/systemd/generator/",
		"/etc/init.d/", "/etc/rc.local", "/etc/rc.d/", "/etc/inittab", "/etc/init/",
		"/etc/profile", "/etc/profile.d/", "/etc/bash.bashrc", "/etc/bashrc", "/etc/environment", "/etc/zsh/", "/etc/zshrc",
		"/etc/modules", "/etc/modules-load.d/", "/etc/modprobe.d/", "/etc/udev/rules.d/", "/usr/lib/udev/rules.d/", "/run/udev/rules.d/",
		"/etc/xdg/autostart/", "/etc/update-motd.d/", "/etc/apt/apt.conf.d/", "/etc/NetworkManager/dispatcher.d/", "/etc/dbus-1/",
		"/etc/hosts", "/etc/resolv.conf")
	// Whom the host trusts, what it records of itself, and what it says to who logs in.
	add(event.FileCredential, nil, "/usr/local/share/ca-certificates/", "/etc/pki/ca-trust/source/", "/etc/ca-certificates/trust-source/",
		"/etc/ca-certificates.conf", "/etc/ssl/certs/ca-certificates.crt")
	add(event.FileOther, nil, "/etc/audit/", "/etc/rsyslog.conf", "/etc/rsyslog.d/", "/etc/selinux/config", "/etc/apparmor.d/",
		"/etc/motd", "/etc/issue", "/etc/issue.net")
	for _, home := range []string{"/root/", "/home/*/"} {
		for _, name := range []string{".bashrc", ".bash_profile", ".bash_login", ".bash_logout", ".profile", ".zshrc", ".zshenv", ".zprofile",
			".zlogin", ".kshrc", ".config/autostart/", ".config/systemd/", ".config/fish/", ".pam_environment"} {
			add(event.FilePersistence, nil, home+name)
		}
		for _, name := range []string{".bash_history", ".zsh_history", ".ash_history", ".python_history", ".mysql_history", ".psql_history", ".lesshst"} {
			add(event.FileHistory, append([]event.FileOp{event.FileChmod}, eraseOps...), home+name)
		}
	}
	add(event.FileBinary, contentOps, "/usr/bin/", "/usr/sbin/", "/usr/lib/", "/usr/lib32/", "/usr/lib64/", "/usr/libexec/",
		"/usr/local/bin/", "/usr/local/sbin/", "/usr/local/lib/", "/bin/", "/sbin/", "/lib/", "/lib64/", "/opt/", "/boot/")
	add(event.FileModule, contentOps, "/usr/lib/modules/", "/lib/modules/")
	add(event.FileWeb, contentOps, "/var/www/", "/srv/www/", "/srv/http/", "/usr/share/nginx/", "/usr/local/apache2/htdocs/", "/var/lib/tomcat9/webapps/",
		"/var/lib/tomcat10/webapps/")
	add(event.FileLog, eraseOps, "/var/log/", "/run/utmp", "/var/run/utmp")
	return set
}
