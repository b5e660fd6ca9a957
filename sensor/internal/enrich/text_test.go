package enrich

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

func TestContainerAndUnit(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, tt := range []struct{ path, container, unit string }{
		{"/system.slice/ssh.service", "", "ssh.service"},
		{"/user.slice/user-0.slice/session-3.scope", "", "session-3.scope"},
		{"/user.slice/user-1000.slice/user@1000.service/app.slice/app.service", "", "app.service"},
		{"/system.slice/docker-" + id + ".scope", id, "docker-" + id + ".scope"},
		{"/docker/" + id, id, ""},
		{"/docker/" + id + "/init", id, ""},
		{"/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", id, "cri-containerd-" + id + ".scope"},
		{"/kubepods/besteffort/pod1/" + id, id, ""},
		{"/kubepods.slice/crio-" + id + ".scope", id, "crio-" + id + ".scope"},
		{"/machine.slice/libpod-" + id + ".scope/container", id, "libpod-" + id + ".scope"},
		{"/machine.slice/libpod-conmon-" + id + ".scope", "", "libpod-conmon-" + id + ".scope"},
		{"/lxc.payload.web/system.slice/x.service", "web", "x.service"},
		{"/lxc/web", "web", ""},
		{"/", "", ""},
		{"", "", ""},
		{"/x/" + id[:63], "", ""},
	} {
		if c, u := containerOf(tt.path), unitOf(tt.path); c != tt.container || u != tt.unit {
			t.Errorf("%s: got %q, %q, want %q, %q", tt.path, c, u, tt.container, tt.unit)
		}
	}
}

func TestTraitsAndScripts(t *testing.T) {
	for _, tt := range []struct {
		image string
		id    event.ImageID
		want  string
	}{
		{"/usr/bin/ls", event.ImageID{Inode: 1, NLink: 1}, ""},
		{"/dev/shm/x", event.ImageID{Inode: 1, NLink: 1}, "world-writable-dir"},
		{"/tmp/../tmp/x", event.ImageID{Inode: 1, NLink: 1}, "world-writable-dir"},
		{"/tmpfoo/x", event.ImageID{Inode: 1, NLink: 1}, ""},
		{"/var/tmp/.x/y", event.ImageID{Inode: 1, NLink: 1}, "world-writable-dir hidden-path"},
		{"/memfd:x", event.ImageID{Inode: 1, MemoryFD: true}, "memfd"},
		{"/opt/x", event.ImageID{Inode: 1, NLink: 0}, "deleted"},
		{"/opt/x", event.ImageID{}, ""},
	} {
		if got := strings.Join(imageTraits(tt.image, tt.id, false), " "); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.image, got, tt.want)
		}
	}
	for _, tt := range []struct {
		interpreter, filename, image string
		argv                         []string
		want                         string
	}{
		{"/usr/bin/python3", "./x.py", "/usr/bin/python3.11", []string{"python3", "./x.py"}, "/usr/bin/python3 ./x.py"},
		{"", "", "/usr/bin/python3.11", []string{"python3", "-u", "x.py", "a"}, "/usr/bin/python3.11 x.py"},
		{"", "", "/usr/bin/python3.11", []string{"python3", "-c", "print()"}, " "},
		{"", "", "/usr/bin/bash", []string{"bash", "-lc", "x"}, " "},
		{"", "", "/usr/bin/bash", []string{"bash", "--norc", "x.sh"}, "/usr/bin/bash x.sh"},
		{"", "", "/usr/bin/bash", []string{"-bash"}, " "},
		{"", "", "/usr/bin/perl", []string{"perl", "-e", "x"}, " "},
		{"", "", "/usr/bin/ls", []string{"ls", "x"}, " "},
		{"", "", "/usr/bin/bash", nil, " "},
	} {
		i, s := scriptOf(tt.interpreter, tt.filename, tt.image, tt.argv)
		if got := i + " " + s; got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.argv, got, tt.want)
		}
	}
}

func TestUsers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	write := func(s string) {
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("root:x:0:0::/:/bin/sh\ntoor:x:0:0::/:/bin/sh\n#x:y:1:1\nbad:x:huge:1:\nana:x:1000:1000::/:/bin/sh\n")
	u := users{path: path}
	for uid, want := range map[uint32]string{0: "root", 1000: "ana", 1: "1", 4242: "4242"} {
		if got := u.name(uid, second); got != want {
			t.Errorf("%d: got %q, want %q", uid, got, want)
		}
	}
	write("root:x:0:0::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n")
	if got := u.name(1000, 2*second); got != "ana" {
		t.Errorf("looked again too soon: %q", got)
	}
	if got := u.name(1000, 100*second); got != "bob" {
		t.Errorf("after a change: got %q", got)
	}
	lost := users{path: path + "x"}
	if got := lost.name(0, 1); got != "root" {
		t.Errorf("without passwd: got %q", got)
	}
}

func TestHostFacts(t *testing.T) {
	facts, err := HostFacts()
	if err != nil {
		t.Fatal(err)
	}
	if facts.Name == "" || facts.Kernel == "" || facts.Arch == "" || facts.OS == "" {
		t.Errorf("got %+v", facts)
	}
}

func FuzzProcText(f *testing.F) {
	f.Add([]byte("1 (a) b) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 42 1 2\n"))
	f.Add([]byte("0::/system.slice/x.service\n12:pids:/docker/0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef\n"))
	f.Add([]byte("root:x:0:0::/:/bin/sh\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if st, ok := parseStat(raw); ok && st.startIs(st.startNanos()) != true {
			t.Error("a start is not itself")
		}
		parsePasswd(raw)
		effectiveUID(raw)
		p := cgroup2Line(raw)
		containerOf(p)
		unitOf(p)
		imageTraits(p, event.ImageID{}, false)
	})
}
