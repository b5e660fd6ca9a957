package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/bpf"
	"github.com/vedette-edr/vedette/sensor/internal/event"
)

const (
	// refreshEvery is how often watched paths are looked up again, whatever happens.
	refreshEvery = time.Minute
	// refreshRest is the least time between two looks: one takes milliseconds.
	refreshRest = 100 * time.Millisecond
	// settling is how long each exec in a new mount namespace has its paths looked up
	// again: a container's root is put in place after its namespace is made.
	settling = 10 * time.Second
	// maxNamespaces bounds the mount namespaces beside the sensor's own; the least
	// recently executed in goes.
	maxNamespaces = 32
	// maxHomes bounds the directories that one "*" is looked up in. Names directly in
	// such a directory are watched in any number of them.
	maxHomes = 64
	// maxIDs bounds the texts that watched paths begin with.
	maxIDs = 1 << 16
)

// The kernel's numbers for watchFlags and names, from bpf/include/maps.h and file.bpf.c.
const (
	watchTree    = 1
	watchSelf    = 2
	watchNames   = 4
	watchStars   = 8
	watchRefresh = 16

	nameInDirectory = 1
	nameInChild     = 2
)

// watchKey and watchValue are struct watch_key and struct watch.
type watchKey struct {
	Inode, Name       uint64
	Device, Directory uint32 // Directory is 1 of one: on overlays a file may have its number
}

type watchValue struct {
	ID           uint32
	Class, Flags uint16
	Ops          uint32
	Critical     uint32
}

// watched is what an id stands for.
type watched struct {
	prefix string // what paths below it begin with
	class  event.FileClass
	ops    uint32
	// only: it is there to learn that a watched path came into being, and is not told.
	only bool
}

// identity is a file as the kernel names it.
type identity struct {
	inode  uint64
	device uint32
	mode   uint32
}

func (id identity) key() watchKey {
	return watchKey{Inode: id.inode, Device: id.device, Directory: boolKnob(id.mode&unix.S_IFMT == unix.S_IFDIR)}
}

// watcher keeps the kernel's table of watched identities.
type watcher struct {
	paths    []WatchPath
	key      [2]uint64
	log      *slog.Logger
	resolver *ebpf.Program
	resolved *ebpf.Map
	table    *ebpf.Map
	room     int
	own      uint32 // inode of the sensor's mount namespace

	now chan struct{}

	refreshing sync.Mutex // one look at a time; the kernel's answers lie in one place
	held       map[watchKey]watchValue

	mu     sync.Mutex
	ids    map[watched]uint32
	byID   []watched
	spaces map[uint32]*namespace
	gap    map[string]bool
}

func newWatcher(cfg Config, c *ebpf.Collection, key [2]uint64) *watcher {
	w := &watcher{
		paths: cfg.Watch, key: key, log: cfg.Logger,
		resolver: c.Programs[bpf.VedetteProgResolveFile],
		resolved: c.Maps[bpf.VedetteMapResolved],
		table:    c.Maps[bpf.VedetteMapWatched],
		now:      make(chan struct{}, 1),
		held:     map[watchKey]watchValue{},
		ids:      map[watched]uint32{},
		byID:     make([]watched, 1),
		spaces:   map[uint32]*namespace{},
		gap:      map[string]bool{},
	}
	w.room = int(w.table.MaxEntries())
	var st unix.Stat_t
	if unix.Stat("/proc/self/ns/mnt", &st) == nil {
		w.own = uint32(st.Ino) //nolint:gosec // inode numbers of namespaces have 32 bits
	}
	return w
}

// run looks up the watched paths again whenever something may have moved them.
func (w *watcher) run(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-rest.C:
		}
		select {
		case <-ctx.Done():
			return
		case <-w.now:
		case <-tick.C:
		}
		if err := w.refresh(); err != nil {
			w.log.Error("looking up watched paths", slog.Any("error", err))
		}
		rest.Reset(refreshRest)
	}
}

func (w *watcher) soon() {
	select {
	case w.now <- struct{}{}:
	default:
	}
}

// complete gives a file event its whole paths; false: it is nobody else's business.
func (w *watcher) complete(ev event.Event) bool {
	switch ev := ev.(type) {
	case *event.Exec:
		w.executed(ev)
	case *event.Exit:
		w.exited(ev)
	case *event.File:
		return w.completeFile(ev)
	}
	return true
}

func (w *watcher) completeFile(ev *event.File) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	only, told := false, ev.Watch == 0 && ev.TargetWatch == 0
	whole := func(id uint32, rel []byte) []byte {
		if id == 0 || int(id) >= len(w.byID) {
			return rel
		}
		by := w.byID[id]
		if by.only {
			only = true
		} else {
			told = true
		}
		if len(rel) == 0 {
			return []byte(by.prefix)
		}
		return append(append([]byte(by.prefix), '/'), rel...)
	}
	ev.Path = whole(ev.Watch, ev.Path)
	if ev.TargetWatch != 0 {
		ev.Target = whole(ev.TargetWatch, ev.Target)
	}
	switch ev.Op {
	case event.FileCreate, event.FileRename, event.FileLink, event.FileSymlink, event.FileUnlink, event.FileMkdir, event.FileRmdir, event.FileChange:
		w.soon()
	}
	return told || !only
}

func (w *watcher) gaps() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.gap))
}

// id is the number that stands for what a path begins with; 0: there is no room.
func (w *watcher) id(entry watched) uint32 {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id, ok := w.ids[entry]; ok {
		return id
	}
	if len(w.byID) >= maxIDs {
		w.gap["too many watched paths: some are not watched"] = true
		return 0
	}
	id := uint32(len(w.byID)) //nolint:gosec // at most maxIDs
	w.ids[entry], w.byID = id, append(w.byID, entry)
	return id
}

// refresh brings the kernel's table to what the watched paths are now.
func (w *watcher) refresh() error {
	w.refreshing.Lock()
	defer w.refreshing.Unlock()
	l := look{w: w, want: map[watchKey]watchValue{}}
	if err := l.namespace("/"); err != nil {
		return fmt.Errorf("looking up watched paths: %w", err)
	}
	w.mu.Lock()
	spaces := make(map[uint32]namespace, len(w.spaces))
	for ns, s := range w.spaces {
		spaces[ns] = *s
	}
	w.mu.Unlock()
	members := members{}
	for ns, s := range spaces {
		held := members.of(ns, s)
		looked := held != 0 && l.namespace(fmt.Sprintf("/proc/%d/root", held)) == nil
		w.mu.Lock()
		switch now := w.spaces[ns]; {
		case now == nil:
		case looked:
			now.held = held
		case held == 0 && now.pid == s.pid: // all of its processes have ended, and none came after them
			delete(w.spaces, ns)
		}
		w.mu.Unlock()
		if held != 0 && !inNamespace(held, ns) { // it ended in the meantime: another may stand for it
			w.soon()
		}
	}
	return w.apply(l.want)
}

// apply changes the table without a moment in which something is missing.
func (w *watcher) apply(want map[watchKey]watchValue) error {
	var errs []error
	for key, value := range want {
		if w.held[key] == value {
			continue
		}
		if len(w.held) >= w.room {
			w.mu.Lock()
			w.gap["the table of watched files is full: some are not watched"] = true
			w.mu.Unlock()
			break
		}
		if err := w.table.Put(key, value); err != nil {
			errs = append(errs, fmt.Errorf("watching an inode: %w", err))
			continue
		}
		w.held[key] = value
	}
	for key := range w.held {
		if _, ok := want[key]; ok {
			continue
		}
		if err := w.table.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("leaving an inode: %w", err))
		}
		delete(w.held, key)
	}
	return errors.Join(errs...)
}

// look is one look at all watched paths.
type look struct {
	w    *watcher
	want map[watchKey]watchValue
	root int // of the namespace that is looked at
}

func (l *look) namespace(root string) (err error) {
	if l.root, err = unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return fmt.Errorf("opening %s: %w", root, err)
	}
	defer unix.Close(l.root)
	for _, p := range l.w.paths {
		clean := strings.TrimSuffix(p.Path, "/")
		before, after, star := strings.Cut(clean, "/*/")
		if !star {
			l.path(p, clean)
			continue
		}
		l.star(p, before, after)
	}
	return nil
}

// path watches one path, whether it is there or not.
func (l *look) path(p WatchPath, name string) {
	entry := watched{class: p.Class, ops: p.ops()}
	flags, self := uint16(0), uint16(watchSelf)
	id, found := l.identify(name)
	if p.tree() || found && id.mode&unix.S_IFMT == unix.S_IFDIR {
		flags, self = watchTree, watchTree
	}
	if found {
		entry.prefix = name
		l.add(id.key(), entry, self)
	}
	// Its name in its directory: for when it comes, goes or is replaced.
	dir, base := path.Split(name)
	dir = strings.TrimSuffix(dir, "/")
	if parent, ok := l.identify(dir); ok {
		entry.prefix = dir
		l.name(parent, base, nameInDirectory, entry, flags)
		return
	}
	// Nor is its directory there: learn of the first one that is missing.
	for dir != "" {
		dir, base = path.Split(dir)
		dir = strings.TrimSuffix(dir, "/")
		if parent, ok := l.identify(dir); ok {
			l.name(parent, base, nameInDirectory, watched{prefix: dir, ops: 1<<event.FileMkdir | 1<<event.FileRename | 1<<event.FileSymlink, only: true}, watchRefresh)
			return
		}
	}
}

// star watches a name in every child of a directory.
func (l *look) star(p WatchPath, dir, rest string) {
	parent, ok := l.identify(dir)
	if !ok {
		return
	}
	first, _, deeper := strings.Cut(rest, "/")
	if !deeper {
		flags := uint16(0)
		if p.tree() {
			flags = watchTree
		}
		l.name(parent, first, nameInChild, watched{prefix: dir, class: p.Class, ops: p.ops()}, flags)
	}
	for _, child := range l.children(dir) {
		l.path(p, dir+"/"+child+"/"+rest)
	}
}

// name watches a name in a directory, or in its children. What was there first stays:
// the narrower path comes first in the set.
func (l *look) name(dir identity, base string, where uint64, entry watched, flags uint16) {
	mark := uint16(watchNames)
	if where == nameInChild {
		mark = watchStars
	}
	key := dir.key()
	value := l.want[key]
	value.Flags |= mark
	l.want[key] = value
	key.Name = hashName(l.w.key, base, where)
	if old, ok := l.want[key]; ok && old.Flags&watchRefresh == 0 {
		return
	}
	l.add(key, entry, flags)
}

func (l *look) add(key watchKey, entry watched, flags uint16) {
	id := l.w.id(entry)
	if id == 0 {
		return
	}
	value := l.want[key]
	if value.Flags&(watchTree|watchSelf) != 0 {
		return // the first one stays
	}
	value.ID, value.Class, value.Ops, value.Flags = id, uint16(entry.class), entry.ops, value.Flags|flags
	value.Critical = boolKnob(critical(entry.class))
	l.want[key] = value
}

// identify asks the kernel which file a path is, within the namespace's root.
func (l *look) identify(name string) (id identity, ok bool) {
	if name == "" {
		name = "/"
	}
	fd, err := unix.Openat2(l.root, name, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return id, false
	}
	defer unix.Close(fd)
	if _, err := l.w.resolver.Run(&ebpf.RunOptions{Context: [1]uint64{uint64(fd)}}); err != nil { //nolint:gosec // a descriptor
		l.w.log.Error("asking which file a watched path is", slog.Any("error", err))
		return id, false
	}
	var raw struct {
		Inode        uint64
		Device, Mode uint32
	}
	if err := l.w.resolved.Lookup(uint32(0), &raw); err != nil || raw.Mode == 0 {
		return id, false
	}
	return identity{inode: raw.Inode, device: raw.Device, mode: raw.Mode}, true
}

// children are the directories in a directory, at most maxHomes of them.
func (l *look) children(dir string) (names []string) {
	fd, err := unix.Openat2(l.root, dir, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fd), dir)
	defer f.Close()
	for {
		entries, err := f.ReadDir(maxHomes)
		for _, e := range entries {
			if !e.IsDir() {
				continue
			}
			if len(names) >= maxHomes {
				l.w.mu.Lock()
				l.w.gap[fmt.Sprintf("what lies deeper than one name in %s/*/ is watched in the first %d of them", dir, maxHomes)] = true
				l.w.mu.Unlock()
				return names
			}
			names = append(names, e.Name())
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				l.w.log.Debug("listing a directory", slog.String("directory", dir), slog.Any("error", err))
			}
			return names
		}
	}
}

// SetFileSampling has one of 2^shift file events told that are not of a critical class,
// and the others counted as losses; 0: all are told.
func (s *Source) SetFileSampling(shift uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.collection == nil {
		return ErrClosed
	}
	if shift > 31 {
		shift = 31
	}
	if err := s.collection.Maps[bpf.VedetteMapBudget].Put(uint32(0), [2]uint32{shift}); err != nil {
		return fmt.Errorf("setting the sampling of files: %w", err)
	}
	return nil
}
