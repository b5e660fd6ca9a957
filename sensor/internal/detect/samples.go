package detect

import (
	"net/netip"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// samples are events of each kind that rules are measured by beside the host's own: some as
// hosts have by the thousand, and one of each kind that is as long as events get.
var samples = func() []*event.Observation {
	parent := &event.Process{Image: "/usr/lib/systemd/systemd", Argv: []string{"/sbin/init"}, User: "root"}
	process := func(image string, argv ...string) *event.Process {
		return &event.Process{Image: image, Argv: argv, User: "www-data", Cwd: "/var/www", Parent: parent}
	}
	long := strings.Repeat("a -b /usr/lib/x86_64-linux-gnu/c.so $(d) | e; ", 88) // 4 KiB
	flow := func(remote string, port uint16) *event.Flow {
		return &event.Flow{Proto: 6, Dir: event.Outbound, Local: netip.MustParseAddrPort("10.0.0.1:40000"),
			Remote: netip.AddrPortFrom(netip.MustParseAddr(remote), port)}
	}
	connect := func(p *event.Process, f *event.Flow) *event.Observation {
		return &event.Observation{Process: p, Flow: f, Event: &event.FlowOpen{Proto: f.Proto, Dir: f.Dir, Local: f.Local, Remote: f.Remote}}
	}
	shell := process("/usr/bin/bash", "bash", "-c", "curl -fsS http://127.0.0.1:8080/health >/dev/null 2>&1")
	return []*event.Observation{
		{Process: process("/usr/bin/ls", "ls", "--color=auto", "-la", "/var/log"), Event: &event.Exec{}},
		{Process: shell, Event: &event.Exec{}},
		{Process: process("/usr/bin/python3.12", "python3", "-m", "http.server", "--directory", "/srv/www"), Event: &event.Exec{}},
		{Process: process("/usr/bin/gcc", "gcc", "-O2", "-Wall", "-I/usr/include", "-c", "main.c", "-o", "main.o"), Event: &event.Exec{}},
		{Process: process("/usr/bin/bash", "bash", "-c", long), Event: &event.Exec{}},
		connect(shell, flow("192.0.2.7", 443)), connect(process("/usr/sbin/sshd", "sshd: user"), flow("10.1.2.3", 22)),
		{Process: shell, Event: &event.DNS{Name: "updates.example.org"}},
		{Process: shell, Event: &event.DNS{Name: strings.Repeat("abcdefgh.", 28)}},
		{Process: shell, Event: &event.File{Op: event.FileWrite, Path: []byte("/etc/cron.d/backup")}},
		{Process: shell, Event: &event.File{Op: event.FileUnlink, Path: []byte("/var/log/app/" + strings.Repeat("old/", 250))}},
		{Process: shell, Event: &event.Privilege{Operation: event.OpSetUID, Call: "setuid"}},
	}
}()

// threadTime measures the processor time of this goroutine, which keeps its thread until it
// is done.
func threadTime() (taken func() time.Duration, done func()) {
	runtime.LockOSThread()
	now := func() time.Duration {
		var t unix.Timespec
		_ = unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t) // never fails on Linux
		return time.Duration(t.Nano())
	}
	begin := now()
	return func() time.Duration { return now() - begin }, runtime.UnlockOSThread
}
