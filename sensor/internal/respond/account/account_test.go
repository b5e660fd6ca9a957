package account

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const (
	passwd = "root:x:0:0:root:/root:/bin/bash\ntoor:x:0:0::/root:/bin/sh\nalice:x:1001:1001:A,,,:/home/alice:/bin/bash\n" +
		"weak:$1$abc:1002:1002::/home/weak:/bin/sh\nopen::1003:1003::/:/bin/sh\nal:x:1004:1004::/:/bin/sh\nnone:x:1005:1005::/:/bin/sh\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"
	shadow = "root:*:20228:0:99999:7:::\nalice:$y$j9T$a!b$c:20228:0:99999:7:14:20500:\n# a comment: kept\n\nal:!:20228::::::\nwww-data:*:20228:0:99999:7:::\nodd:x:1\n"
)

func host(t *testing.T) (*Accounts, string) {
	t.Helper()
	root := t.TempDir()
	etc := filepath.Join(root, "etc")
	err := errors.Join(os.Mkdir(etc, 0o755), os.WriteFile(filepath.Join(etc, "passwd"), []byte(passwd), 0o644),
		os.WriteFile(filepath.Join(etc, "shadow"), []byte(shadow), 0o640))
	if os.Geteuid() == 0 {
		err = errors.Join(err, os.Chown(filepath.Join(etc, "shadow"), 0, 42), unix.Setxattr(filepath.Join(etc, "shadow"), "trusted.label", []byte("l"), 0))
	}
	if err != nil {
		t.Fatal(err)
	}
	return Open(root), etc
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Ensure a lock changes its own line alone and an undo restores every byte.
func TestLockAndUnlock(t *testing.T) {
	for _, name := range []string{"alice", "al", "weak", "open", "www-data"} {
		t.Run(name, func(t *testing.T) {
			a, etc := host(t)
			var saved Entry
			e, err := a.Lock(t.Context(), "op-1", name, Entry{}, func(e Entry) {
				saved = e
				if read(t, etc+"/shadow")+read(t, etc+"/passwd") != shadow+passwd {
					t.Error("changed before it was saved")
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			changed := 0
			for _, file := range []struct{ name, before string }{{"shadow", shadow}, {"passwd", passwd}} {
				now := strings.Split(read(t, etc+"/"+file.name), "\n")
				for i, line := range strings.Split(file.before, "\n") {
					if now[i] == line {
						continue
					}
					changed++
					if fields := strings.Split(now[i], ":"); fields[0] != name || !strings.HasPrefix(fields[1], "!vedette!op-1!") {
						t.Errorf("got line %q", now[i])
					}
				}
			}
			if changed != 1 {
				t.Errorf("%d lines changed, want 1", changed)
			}
			if name == "alice" && !strings.Contains(read(t, etc+"/shadow"), "alice:!vedette!op-1!20500!$y$j9T$a!b$c:20228:0:99999:7:14:1:\n") {
				t.Errorf("got %s", read(t, etc+"/shadow"))
			}
			if os.Geteuid() == 0 {
				var st unix.Stat_t
				value := make([]byte, 8)
				_, xerr := unix.Getxattr(etc+"/shadow", "trusted.label", value)
				if err := errors.Join(unix.Stat(etc+"/shadow", &st), xerr); err != nil || st.Mode&0o7777 != 0o640 || st.Gid != 42 {
					t.Errorf("mode %o, group %d, %v", st.Mode, st.Gid, err)
				}
			}
			found, err := a.Locked()
			if err != nil || found["op-1"].Name != name || found["op-1"].UID != e.UID {
				t.Errorf("found without a record: %v, %v", found, err)
			}
			if again, err := a.Lock(t.Context(), "op-1", name, Entry{}, func(Entry) {}); err != nil || !bytes.Equal(again.Shadow, saved.Shadow) || !bytes.Equal(again.Passwd, saved.Passwd) {
				t.Errorf("again: got %v, %v", again, err)
			}
			if _, err := a.Lock(t.Context(), "op-2", name, Entry{}, func(Entry) {}); !errors.Is(err, ErrLocked) {
				t.Errorf("by another: got %v", err)
			}
			// By the record, and by what the file itself says.
			for _, e := range []Entry{saved, found["op-1"]} {
				if note, err := a.Unlock(t.Context(), "op-1", e); err != nil || note != "" {
					t.Errorf("unlock: got %q, %v", note, err)
				}
				if read(t, etc+"/shadow")+read(t, etc+"/passwd") != shadow+passwd {
					t.Errorf("not restored:\n%s%s", read(t, etc+"/shadow"), read(t, etc+"/passwd"))
				}
				if _, err := a.Lock(t.Context(), "op-1", name, Entry{}, func(Entry) {}); err != nil {
					t.Fatal(err)
				}
			}
			if left, _ := filepath.Glob(etc + "/*.vedette"); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// Ensure what an administrator changes during the lock outlives it.
func TestChangedMeanwhile(t *testing.T) {
	for _, tt := range []struct{ name, from, to, want, note string }{
		{"a new password", "!vedette!op-1!20500!$y$j9T$a!b$c", "$y$new", "alice:$y$new:20228:0:99999:7:14:20500:\n", "password was changed"},
		{"usermod -U", "alice:!vedette", "alice:vedette", "alice:$y$j9T$a!b$c:20228:0:99999:7:14:20500:\n", "changed meanwhile"},
		{"passwd -l", "alice:!vedette", "alice:!!vedette", "alice:!$y$j9T$a!b$c:20228:0:99999:7:14:20500:\n", "changed meanwhile"},
		{"a new expiry", ":14:1:", ":14:30000:", "alice:$y$j9T$a!b$c:20228:0:99999:7:14:30000:\n", "changed meanwhile"},
		{"another line", "root:*", "root:!", "alice:$y$j9T$a!b$c:20228:0:99999:7:14:20500:\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, etc := host(t)
			e, err := a.Lock(t.Context(), "op-1", "alice", Entry{}, func(Entry) {})
			if err != nil {
				t.Fatal(err)
			}
			locked := read(t, etc+"/shadow")
			changed := strings.Replace(locked, tt.from, tt.to, 1)
			if changed == locked {
				t.Fatalf("%q is not in %s", tt.from, locked)
			}
			if err := os.WriteFile(etc+"/shadow", []byte(changed), 0o640); err != nil {
				t.Fatal(err)
			}
			open, err := a.IsOpen("op-1", e)
			if (open != "") != (tt.name != "another line") || err != nil {
				t.Errorf("is it open: got %q, %v", open, err)
			}
			if again, err := a.Lock(t.Context(), "op-1", "alice", e, func(Entry) {}); err != nil {
				t.Errorf("locking again: got %v", err)
			} else if open, err := a.IsOpen("op-1", again); open != "" || err != nil {
				t.Errorf("locked again: got %q, %v", open, err)
			} else if _, err := a.Unlock(t.Context(), "op-1", again); err != nil {
				t.Error(err)
			}
			if got := read(t, etc+"/shadow"); !strings.Contains(got, strings.Replace(tt.want, ":30000:", ":20500:", 1)) {
				t.Errorf("locked again and unlocked: got %s", got)
			}
			if err := os.WriteFile(etc+"/shadow", []byte(changed), 0o640); err != nil {
				t.Fatal(err)
			}
			note, err := a.Unlock(t.Context(), "op-1", e)
			if err != nil || !strings.Contains(note, tt.note) || !strings.Contains(read(t, etc+"/shadow"), tt.want) {
				t.Errorf("got %q, %v, %s", note, err, read(t, etc+"/shadow"))
			}
		})
	}
	a, etc := host(t)
	e, err := a.Lock(t.Context(), "op-1", "alice", Entry{}, func(Entry) {})
	if err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile(etc+"/shadow", []byte("root:*:1:::::::\n"), 0o640)
	if note, err := a.Unlock(t.Context(), "op-1", e); err != nil || !strings.Contains(note, "no line") {
		t.Errorf("a removed account: got %q, %v", note, err)
	}
}

func TestRefused(t *testing.T) {
	a, etc := host(t)
	for name, want := range map[string]string{
		"root": "is root", "toor": "is root", "nobody-here": "no local account", "none": "no password",
		"": "not an account's name", "a:b": "not an account's name", "alice\n": "not an account's name",
	} {
		if _, _, err := a.Check(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("check %q: got %v, want %q", name, err, want)
		}
		if _, err := a.Lock(t.Context(), "op-1", name, Entry{}, func(Entry) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("lock %q: got %v, want %q", name, err, want)
		}
	}
	if _, err := a.Lock(t.Context(), "op:1", "alice", Entry{}, func(Entry) {}); err == nil {
		t.Error("an id with a colon was taken")
	}
	_ = os.Rename(etc+"/shadow", etc+"/elsewhere")
	_ = os.Symlink("elsewhere", etc+"/shadow")
	if _, _, err := a.Check("alice"); !errors.Is(err, ErrRefused) {
		t.Errorf("a link: got %v", err)
	}
	if read(t, etc+"/elsewhere")+read(t, etc+"/passwd") != shadow+passwd {
		t.Error("a refusal changed something")
	}
}

// Ensure who edits accounts is waited for, and not for ever.
func TestBusy(t *testing.T) {
	a, etc := host(t)
	f, err := os.OpenFile(etc+"/.pwd.lock", os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	// The traditional kind of lock, as lckpwdf(3) takes it.
	if err := unix.FcntlFlock(f.Fd(), unix.F_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 120*time.Millisecond)
	defer cancel()
	if _, err := a.Lock(ctx, "op-1", "alice", Entry{}, func(Entry) {}); !errors.Is(err, ErrBusy) {
		t.Errorf("got %v, want %v", err, ErrBusy)
	}
	time.AfterFunc(80*time.Millisecond, func() { _ = f.Close() })
	if _, err := a.Lock(t.Context(), "op-1", "alice", Entry{}, func(Entry) {}); err != nil {
		t.Errorf("after it let go: got %v", err)
	}
}

// Ensure the owner of a process is found by its UID.
func TestOwned(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: needs root to run a process as another user")
	}
	const nobodys = 64996
	cmd := exec.Command("sh", "-c", "echo ready; read x")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobodys, Gid: nobodys}}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close(); _ = cmd.Wait() }()
	_, _ = out.Read(make([]byte, 6))
	if got := Owned("/proc", nobodys); !slices.Equal(got, []int{cmd.Process.Pid}) {
		t.Errorf("got %v, want %d", got, cmd.Process.Pid)
	}
	if got := Owned("/proc", 64995); len(got) != 0 {
		t.Errorf("nobody's: got %v", got)
	}
}

func FuzzLock(f *testing.F) {
	f.Add("alice", []byte(shadow))
	f.Add("al", []byte("al:!vedette!op-1!!x:1:::::1:\n"))
	f.Fuzz(func(t *testing.T, name string, raw []byte) {
		begin, end := find(raw, name)
		if begin < 0 {
			return
		}
		line := raw[begin:end]
		before, after, err := lockShadow("op-1", line, nil)
		if err != nil || bytes.Contains(line, []byte(marker[1:])) {
			return
		}
		if back, _ := restored("op-1", after, before, after, true); !bytes.Equal(back, line) {
			t.Errorf("%q became %q", line, back)
		}
		again, _, err := lockShadow("op-1", after, nil)
		if err != nil || !bytes.Equal(again, line) {
			t.Errorf("the lock of %q says that it was %q, %v", line, again, err)
		}
	})
}
