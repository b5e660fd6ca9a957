// Package account locks a local account and unlocks it as it was.
//
// A lock is written into the account's own line of /etc/shadow: the password hash
// gets a prefix that makes it match nothing, and the account expires on 2 January
// 1970, which also stops keys and whatever else asks PAM's account stage. The
// prefix holds the operation and the expiry that was there before:
//
//	alice:!vedette!op-1!20500!$y$j9T$…:20228:0:99999:7::1:
//
// so the file says by itself who locked it and how it goes back, also when every
// other record is lost; taking away one "!" by hand does not open it.
//
// Each change is made under the lock that the shadow tools take (/etc/.pwd.lock),
// of one line and no other byte, into a new file that replaces the old one.
package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

var (
	// ErrRefused: the account must stay open.
	ErrRefused = errors.New("refused")
	// ErrNotLocal: no line of /etc/passwd is its.
	ErrNotLocal = errors.New("no local account of that name: lock it in the directory that it comes from")
	// ErrLocked: by another operation.
	ErrLocked = errors.New("the account is locked already")
	// ErrBusy: another program edits accounts.
	ErrBusy = errors.New("another program holds /etc/.pwd.lock")
)

// FirstPerson is the lowest UID of a person (login.defs: UID_MIN). Of accounts
// below only log-ins are ended, not the services that run as them.
const FirstPerson = 1000

const (
	marker = "!vedette!"
	// expired is a day after 1 January 1970: 0 means "never" to some (shadow(5)).
	expired = "1"
	// fields of a line of shadow(5) and passwd(5).
	shadowFields, passwdFields  = 9, 7
	fieldPassword, fieldExpires = 1, 7
)

var (
	nameForm = regexp.MustCompile(`^[A-Za-z0-9_.][A-Za-z0-9_.@-]{0,255}\$?$`)
	number   = regexp.MustCompile(`^-?[0-9]*$`)
	idForm   = regexp.MustCompile(`^[A-Za-z0-9-]{1,64}$`)
)

// Entry is what a lock changed, and what was there before.
type Entry struct {
	Name string `json:"name"`
	UID  uint32 `json:"uid"`
	// Lines before and after; empty where a file was left alone.
	Shadow       []byte `json:"shadow,omitempty"`
	LockedShadow []byte `json:"locked_shadow,omitempty"`
	Passwd       []byte `json:"passwd,omitempty"`
	LockedPasswd []byte `json:"locked_passwd,omitempty"`
}

// Accounts are those of one host.
type Accounts struct{ root string }

// Open takes the host's file system; it changes nothing.
func Open(root string) *Accounts {
	if root == "" {
		root = "/"
	}
	return &Accounts{root}
}

// Check says what locking would change, and does nothing.
func (a *Accounts) Check(name string) (Entry, string, error) {
	dir, err := a.open()
	if err != nil {
		return Entry{}, "", err
	}
	defer dir.close()
	e, err := dir.plan("preview", name, Entry{})
	if err != nil {
		return e, "", err
	}
	text := fmt.Sprintf("lock %s (UID %d)", name, e.UID)
	switch {
	case len(e.LockedShadow) > 0:
		text += ": its password matches nothing and the account is expired, so that keys do not let it in where PAM is asked"
	default:
		text += ": its password in /etc/passwd matches nothing; it has no line in /etc/shadow, so keys may still let it in"
	}
	return e, text, nil
}

// plan is the lines before and after, from both files.
func (d etc) plan(id, name string, begun Entry) (Entry, error) {
	if !nameForm.MatchString(name) {
		return Entry{}, fmt.Errorf("%w: %q is not an account's name", ErrRefused, name)
	}
	passwd, err := d.line("passwd", name)
	if err != nil {
		return Entry{}, err
	}
	if passwd == nil {
		return Entry{}, fmt.Errorf("%s: %w", name, ErrNotLocal)
	}
	fields := bytes.Split(passwd, []byte(":"))
	if len(fields) != passwdFields {
		return Entry{}, fmt.Errorf("%w: the line of %s in /etc/passwd has %d fields, not %d", ErrRefused, name, len(fields), passwdFields)
	}
	uid, err := strconv.ParseUint(string(fields[2]), 10, 32)
	if err != nil {
		return Entry{}, fmt.Errorf("%w: the UID of %s is %q", ErrRefused, name, fields[2])
	}
	e := Entry{Name: name, UID: uint32(uid)}
	if uid == 0 || name == "root" {
		return e, fmt.Errorf("%w: %s is root: locking it locks out who repairs this host; its processes can be killed and its sessions are storylines", ErrRefused, name)
	}
	if e.Shadow, err = d.line("shadow", name); err != nil {
		return e, err
	}
	if e.Shadow != nil {
		if e.Shadow, e.LockedShadow, err = lockShadow(id, e.Shadow, begun.Shadow); err != nil {
			return e, err
		}
	}
	// A hash, or nothing, in the file that everybody reads still lets in.
	if password := fields[fieldPassword]; string(password) != "x" && !bytes.HasPrefix(password, []byte("*")) {
		if locked, ok := parse(password); ok {
			if locked.id != id {
				return e, fmt.Errorf("%w by %s", ErrLocked, locked.id)
			}
			e.Passwd = replace(passwd, fieldPassword, locked.password)
			e.LockedPasswd = replace(passwd, fieldPassword, mark(id, nil, locked.password))
		} else {
			e.Passwd, e.LockedPasswd = passwd, replace(passwd, fieldPassword, mark(id, nil, password))
		}
	}
	if e.Shadow == nil && e.Passwd == nil {
		return e, fmt.Errorf("%w: %s has no password in any file and no line in /etc/shadow that could expire", ErrRefused, name)
	}
	return e, nil
}

// lockShadow is a line before and after; what id locked already stays.
// begun is the line before an earlier lock, of which only the expiry may be left.
func lockShadow(id string, line, begun []byte) (before, after []byte, err error) {
	fields := bytes.Split(line, []byte(":"))
	if len(fields) != shadowFields {
		return nil, nil, fmt.Errorf("%w: its line in /etc/shadow has %d fields, not %d", ErrRefused, len(fields), shadowFields)
	}
	if locked, ok := parse(fields[fieldPassword]); ok {
		if locked.id != id {
			return nil, nil, fmt.Errorf("%w by %s", ErrLocked, locked.id)
		}
		before = replace(replace(line, fieldPassword, locked.password), fieldExpires, locked.expires)
		after = replace(line, fieldPassword, mark(id, locked.expires, locked.password))
		return before, replace(after, fieldExpires, []byte(expired)), nil
	}
	if was := bytes.Split(begun, []byte(":")); len(was) == shadowFields && string(fields[fieldExpires]) == expired {
		fields[fieldExpires] = was[fieldExpires]
		line = replace(line, fieldExpires, was[fieldExpires])
	}
	if !number.Match(fields[fieldExpires]) {
		return nil, nil, fmt.Errorf("%w: its expiry in /etc/shadow is %q, not a number", ErrRefused, fields[fieldExpires])
	}
	after = replace(line, fieldPassword, mark(id, fields[fieldExpires], fields[fieldPassword]))
	return line, replace(after, fieldExpires, []byte(expired)), nil
}

func mark(id string, expires, password []byte) []byte {
	return fmt.Appendf(nil, "%s%s!%s!%s", marker, id, expires, password)
}

type lock struct {
	id                string
	expires, password []byte
}

// parse reads a marked password, also one whose first "!" somebody took away
// (usermod -U) or put another before (passwd -l), which then stays before the
// password.
func parse(field []byte) (lock, bool) {
	bare := bytes.TrimLeft(field, "!")
	rest, ok := bytes.CutPrefix(bare, []byte(marker[1:]))
	parts := bytes.SplitN(rest, []byte("!"), 3)
	if !ok || len(parts) != 3 || !idForm.Match(parts[0]) {
		return lock{}, false
	}
	more := max(len(field)-len(bare)-1, 0)
	return lock{string(parts[0]), parts[1], append(bytes.Repeat([]byte("!"), more), parts[2]...)}, true
}

func replace(line []byte, field int, value []byte) []byte {
	fields := bytes.Split(line, []byte(":"))
	fields[field] = value
	return bytes.Join(fields, []byte(":"))
}

// Lock does it and reads it back. save is called before anything is changed. begun
// is the entry of an earlier attempt, or of a lock that somebody changed.
func (a *Accounts) Lock(ctx context.Context, id, name string, begun Entry, save func(Entry)) (Entry, error) {
	if !idForm.MatchString(id) {
		return Entry{}, fmt.Errorf("an id is 1 to 64 of a-z, A-Z, 0-9 and -, not %q", id)
	}
	dir, err := a.open()
	if err != nil {
		return Entry{}, err
	}
	defer dir.close()
	if err := dir.acquire(ctx); err != nil {
		return Entry{}, err
	}
	e, err := dir.plan(id, name, begun)
	if err != nil {
		return e, err
	}
	save(e)
	if e.LockedShadow != nil {
		if err := dir.edit("shadow", e.Name, func([]byte) []byte { return e.LockedShadow }); err != nil {
			return e, err
		}
	}
	if e.LockedPasswd != nil {
		if err := dir.edit("passwd", e.Name, func([]byte) []byte { return e.LockedPasswd }); err != nil {
			return e, err
		}
	}
	if open, err := dir.isOpen(id, e); err != nil || open != "" {
		return e, errors.Join(err, fmt.Errorf("read back, %s", open))
	}
	return e, nil
}

// isOpen says how an account that id locked is not locked any more; "": it is.
func (d etc) isOpen(id string, e Entry) (string, error) {
	for _, file := range []struct {
		name   string
		locked []byte
	}{{"shadow", e.LockedShadow}, {"passwd", e.LockedPasswd}} {
		if file.locked == nil {
			continue
		}
		now, err := d.line(file.name, e.Name)
		if err != nil {
			return "", err
		}
		if now == nil {
			continue // the account was removed
		}
		fields := bytes.Split(now, []byte(":"))
		if !bytes.HasPrefix(fields[fieldPassword], []byte(marker+id+"!")) {
			return "the password in /etc/" + file.name + " is another", nil
		}
		if file.name == "shadow" && (len(fields) != shadowFields || string(fields[fieldExpires]) != expired) {
			return "the account does not expire any more", nil
		}
	}
	return "", nil
}

// IsOpen is for who looks after a lock.
func (a *Accounts) IsOpen(id string, e Entry) (string, error) {
	dir, err := a.open()
	if err != nil {
		return "", err
	}
	defer dir.close()
	return dir.isOpen(id, e)
}

// Unlock restores the lines. One that was changed meanwhile keeps the change:
// only what is still the lock's goes back. It says what it left.
func (a *Accounts) Unlock(ctx context.Context, id string, e Entry) (string, error) {
	dir, err := a.open()
	if err != nil {
		return "", err
	}
	defer dir.close()
	if err := dir.acquire(ctx); err != nil {
		return "", err
	}
	var notes []string
	for _, file := range []struct {
		name           string
		before, locked []byte
		shadow         bool
	}{{"shadow", e.Shadow, e.LockedShadow, true}, {"passwd", e.Passwd, e.LockedPasswd, false}} {
		if file.locked == nil {
			continue
		}
		now, err := dir.line(file.name, e.Name)
		if err != nil {
			return "", err
		}
		if now == nil {
			notes = append(notes, "the account has no line in /etc/"+file.name+" any more")
			continue
		}
		after, note := restored(id, now, file.before, file.locked, file.shadow)
		if note != "" {
			notes = append(notes, note)
		}
		if bytes.Equal(after, now) {
			continue
		}
		if err := dir.edit(file.name, e.Name, func([]byte) []byte { return after }); err != nil {
			return "", err
		}
	}
	return strings.Join(notes, "; "), nil
}

func restored(id string, now, before, locked []byte, shadow bool) (after []byte, note string) {
	if bytes.Equal(now, locked) {
		return before, ""
	}
	if bytes.Equal(now, before) {
		return now, ""
	}
	fields, was := bytes.Split(now, []byte(":")), bytes.Split(before, []byte(":"))
	after = now
	note = "the line was changed meanwhile: what is not of the lock stays"
	if held, ok := parse(fields[fieldPassword]); ok && held.id == id {
		after = replace(after, fieldPassword, held.password)
	} else {
		note = "the password was changed meanwhile and stays"
	}
	if shadow && len(fields) == shadowFields && len(was) == shadowFields && string(fields[fieldExpires]) == expired {
		after = replace(after, fieldExpires, was[fieldExpires])
	}
	return after, note
}

// Locked are the locks that the files themselves show, by operation.
func (a *Accounts) Locked() (map[string]Entry, error) {
	dir, err := a.open()
	if err != nil {
		return nil, err
	}
	defer dir.close()
	found := map[string]Entry{}
	for _, file := range []string{"shadow", "passwd"} {
		raw, err := dir.read(file)
		if err != nil {
			return nil, err
		}
		for line := range bytes.Lines(raw) {
			fields := bytes.Split(bytes.TrimSuffix(line, []byte("\n")), []byte(":"))
			if len(fields) < 2 {
				continue
			}
			held, ok := parse(fields[fieldPassword])
			if !ok {
				continue
			}
			if e, err := dir.plan(held.id, string(fields[0]), Entry{}); err == nil {
				found[held.id] = e
			}
		}
	}
	return found, nil
}
