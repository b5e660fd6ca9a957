package baseline

import (
	"testing"

	"github.com/vedette-edr/vedette/sensor/internal/event"
)

// Ensure that what programs choose at random, and what packages have by the thousand,
// is one behaviour, and what matters by its name is not.
func TestFileObjects(t *testing.T) {
	for _, tt := range []struct {
		op           event.FileOp
		class        event.FileClass
		path, target string
		want         string
	}{
		{event.FileWrite, event.FileCredential, "/etc/passwd", "", "write /etc/passwd"},
		{event.FileRename, event.FileCredential, "/etc/passwd+", "/etc/passwd", "rename /etc/passwd+* → /etc/passwd"},
		{event.FileRename, event.FileCredential, "/etc/nshadow.a8Kd2f", "/etc/shadow", "rename /etc/nshadow.* → /etc/shadow"},
		{event.FileCreate, event.FilePersistence, "/etc/cron.d/backup", "", "create /etc/cron.d/backup"},
		{event.FileCreate, event.FileBinary, "/usr/lib/python3/dist-packages/a/b/c.pyc", "", "create /usr/lib/python3/dist-packages/*.pyc"},
		{event.FileRename, event.FileBinary, "/usr/bin/ls.dpkg-new", "/usr/bin/ls", "rename /usr/bin/*.* → /usr/bin/*"},
		{event.FileTruncate, event.FileLog, "/var/log/journal/0123456789abcdef/system.journal", "", "truncate /var/log/journal/*/*"},
		{event.FileSymlink, event.FileHistory, "/root/.bash_history", "/dev/null", "symlink /root/.bash_history → /dev/null"},
		{event.FileMapExec, 0, "/usr/lib/x86_64-linux-gnu/libc.so.6", "", "map-exec /usr/lib/x86_64-linux-gnu/libc.so.6"},
	} {
		got := fileObject(&event.File{Op: tt.op, Class: tt.class, Path: []byte(tt.path), Target: []byte(tt.target)})
		if got != tt.want {
			t.Errorf("%v %s %s: %q, want %q", tt.op, tt.path, tt.target, got, tt.want)
		}
	}
}
