package isolation

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"

	vnl "github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/sensor/internal/respond/isolation/netnstest"
)

// hostVariable makes this program a host that boots, in vmtest's guest, where it is all
// that process 1 starts. It does what a host does, in the order of the packaged unit: the
// sensor's keeper first, the network when that says that it is ready. And it is the
// intruder, who sends from before either. TestReboots tells it what to do, by the port.
const hostVariable = "VEDETTE_TEST_BOOTED"

// keeperResume makes a keeper with both layers fail where nothing is left to be kept.
const keeperResume = "VEDETTE_TEST_KEEPER_RESUME"

// keeperSays makes one send to its nodes: a payload for each, by comma.
const keeperSays = "VEDETTE_TEST_KEEPER_SAYS"

// word is a line on the port: the host says, or is told.
type word struct {
	Say   string `json:"say"`
	ID    string `json:"id,omitempty"`    // of this boot, by the kernel
	Error string `json:"error,omitempty"` // of "failed"
	// Of "boot": whether an isolation is to be in force, and the adapter's driver comes
	// only when the sensor has said that it is ready.
	Kept bool `json:"kept,omitempty"`
	Late bool `json:"late,omitempty"`
	// Of "boot" and "flood".
	Phase uint32 `json:"phase,omitempty"`
	// Of "up": seconds since the kernel began, when this program, the isolation and the
	// network were there.
	Began   float64 `json:"began,omitempty"`
	Cut     float64 `json:"cut,omitempty"`
	Network float64 `json:"network,omitempty"`
	// Of "counted".
	Sent    []uint64          `json:"sent,omitempty"` // by path
	Arrived []uint64          `json:"arrived,omitempty"`
	Failed  map[string]string `json:"failed,omitempty"`
}

// booted is such a host.
type booted struct {
	Port    string   `json:"port"`
	Keeper  string   `json:"keeper"`
	State   string   `json:"state"`
	Adapter []string `json:"adapter"`

	lab    *lab
	flood  *flood
	calm   atomic.Bool // while programs are loaded: senders that never rest take minutes of it
	keeper *exec.Cmd
	input  io.Closer // the keeper's
}

const (
	// adapterName is what the kernel calls it, before it is renamed as udev does.
	adapterName = "eth0"
	// adapterIndex is the first number after loopback's: who knows it can send to it, by
	// packet sockets, from before it is there.
	adapterIndex = 2
	// bootFor is how long a phase of a boot is, from when its network is up.
	bootFor = 2 * time.Second
	// calmEvery is how often a calm intruder sends on all paths.
	calmEvery = 50 * time.Millisecond
	// settle is how long what was sent before may be on its way.
	settle = 200 * time.Millisecond
)

func bootHost(text string) error {
	h := &booted{}
	if err := json.Unmarshal([]byte(text), h); err != nil {
		return err
	}
	// It isolates the machine that it runs on, and reboots it.
	if command, err := os.ReadFile("/proc/1/cmdline"); err != nil || os.Getppid() != 1 || string(command) != "/init\x00" {
		return fmt.Errorf("only process 1 of the guest may start this: %q, %w", command, err)
	}
	port, err := openPort(h.Port)
	if err != nil {
		return err
	}
	say := json.NewEncoder(port)
	if err := h.obey(bufio.NewScanner(port), say); err != nil {
		return errors.Join(err, say.Encode(word{Say: "failed", Error: err.Error()}), unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1))
	}
	return nil
}

// openPort opens a serial port that changes nothing of what goes over it.
func openPort(path string) (*os.File, error) {
	port, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	mode, err := unix.IoctlGetTermios(int(port.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	mode.Iflag, mode.Oflag, mode.Lflag = 0, 0, 0
	return port, unix.IoctlSetTermios(int(port.Fd()), unix.TCSETS, mode)
}

func (h *booted) obey(orders *bufio.Scanner, say *json.Encoder) error {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	if err := say.Encode(word{Say: "booted", ID: strings.TrimSpace(string(id))}); err != nil {
		return err
	}
	for orders.Scan() {
		var order word
		if err := json.Unmarshal(orders.Bytes(), &order); err != nil {
			return fmt.Errorf("%w: %q", err, orders.Text())
		}
		done, err := h.do(order)
		if err != nil {
			return fmt.Errorf("%s: %w", order.Say, err)
		}
		if err := say.Encode(done); err != nil {
			return err
		}
	}
	return orders.Err()
}

func (h *booted) do(order word) (word, error) {
	switch order.Say {
	case "boot":
		return h.boot(order)
	case "flood":
		return h.during(order.Phase), nil
	case "isolate":
		h.calm.Store(true)
		defer h.calm.Store(false)
		if err := h.keep(phaseApply); err != nil {
			return word{}, err
		}
		wait(settle)
		return word{Say: "isolated"}, nil
	case "release":
		if err := errors.Join(h.input.Close(), h.keeper.Wait()); err != nil {
			return word{}, err
		}
		return word{Say: "released"}, nil
	case "reboot":
		return word{}, h.reboot()
	}
	return word{}, errors.New("unknown order")
}

// boot is the order of a host's units, with the intruder before them all.
func (h *booted) boot(order word) (word, error) {
	up := word{Say: "up", Began: sinceBoot()}
	if err := h.intrude(order.Phase); err != nil {
		return up, err
	}
	if !order.Late {
		if err := h.plugIn(); err != nil {
			return up, err
		}
	}
	if order.Kept {
		if err := h.keep(order.Phase, keeperResume+"=1"); err != nil {
			return up, err
		}
		up.Cut = sinceBoot()
	}
	h.calm.Store(false)
	if order.Late {
		if err := h.plugIn(); err != nil {
			return up, err
		}
	}
	if err := h.networkUp(); err != nil {
		return up, err
	}
	up.Network = sinceBoot()
	return up, nil
}

// intrude opens what an intruder has, and begins to send.
func (h *booted) intrude(phase uint32) (err error) {
	h.lab = bootLab()
	h.lab.index = adapterIndex
	if h.lab.sender, err = netnstest.OpenRaw(false); err != nil {
		return err
	}
	if h.lab.bypassing, err = netnstest.OpenRaw(true); err != nil {
		return err
	}
	var inward []inwardFrame
	h.flood, inward = bootFlood(h.lab)
	h.flood.enter(phase)
	if err := h.listen(); err != nil {
		return err
	}
	var halves [2][]int // one for each processor
	for i, p := range h.flood.paths[:len(h.flood.paths)-len(inward)] {
		if p.path.send != nil {
			halves[i%2] = append(halves[i%2], i)
		}
	}
	h.calm.Store(true)
	go h.send(halves[0])
	go h.send(halves[1])
	return nil
}

// listen opens what could get something, before anybody could refuse it.
func (h *booted) listen() error {
	for _, l := range []struct{ network, address string }{
		{"udp4", fmt.Sprint(":", inwardPort)}, {"udp6", fmt.Sprint(":", inwardPort)}, {"ip4:1", "0.0.0.0"}, {"ip6:58", "::"}, {"ip4:253", "0.0.0.0"},
	} {
		conn, err := net.ListenPacket(l.network, l.address)
		if err != nil {
			return err
		}
		place := "the socket " + l.network
		go h.receive(place, func(buffer []byte) (int, error) {
			n, _, err := conn.ReadFrom(buffer)
			return n, err
		})
	}
	sniffer, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, int(netnstest.BigEndian16(sniffedType)))
	if err != nil {
		return err
	}
	go h.receive("a sniffer", func(buffer []byte) (int, error) { return unix.Read(sniffer, buffer) })
	return nil
}

func (h *booted) receive(place string, read func([]byte) (int, error)) {
	buffer := make([]byte, 1<<16)
	for {
		switch n, err := read(buffer); {
		case err == nil:
			h.flood.count(place, buffer[:n])
		case errors.Is(err, net.ErrClosed):
			return
		}
	}
}

// send never ends: an intruder who is there sends until the machine is gone.
func (h *booted) send(paths []int) {
	tick := time.NewTicker(calmEvery)
	defer tick.Stop()
	for {
		for _, i := range paths {
			f, phase := h.flood.paths[i], h.flood.phase.Load()
			switch err := f.path.send(markerOf(phase, i)); {
			case err == nil || tolerable(err) && !notThere(err):
				f.sent[phase].Add(1)
			case !tolerable(err):
				f.failed.CompareAndSwap(nil, &err)
			}
		}
		if h.calm.Load() {
			<-tick.C
		}
	}
}

// notThere is what is said to who sends before there is a network: nothing was sent that
// could have passed.
func notThere(err error) bool {
	for _, errno := range []error{unix.ENETDOWN, unix.ENODEV, unix.ENXIO, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EADDRNOTAVAIL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// plugIn loads the adapter's driver and renames what comes, as udev does.
func (h *booted) plugIn() error {
	for _, path := range h.Adapter {
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(file.Fd()), "", 0)
		_ = file.Close()
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("loading %s: %w", path, err)
		}
	}
	link, err := vnl.LinkByName(adapterName)
	if err != nil {
		return err
	}
	if link.Attrs().Index != adapterIndex {
		return fmt.Errorf("%s has number %d: nobody sent on it", adapterName, link.Attrs().Index)
	}
	return vnl.LinkSetName(link, netnstest.HostDevice)
}

// networkUp is what a network's manager does.
func (h *booted) networkUp() error {
	link, err := vnl.LinkByName(netnstest.HostDevice)
	if err != nil {
		return err
	}
	if err := vnl.LinkSetUp(link); err != nil {
		return err
	}
	for _, text := range []string{netnstest.HostIP4 + "/24", netnstest.HostIP6 + "/64"} {
		address, err := vnl.ParseAddr(text)
		if err != nil {
			return err
		}
		if address.IP.To4() == nil {
			address.Flags = unix.IFA_F_NODAD
		}
		if err := vnl.AddrAdd(link, address); err != nil {
			return fmt.Errorf("adding %s: %w", text, err)
		}
	}
	for _, world := range []struct{ via, to string }{{netnstest.PeerIP4, "0.0.0.0/0"}, {netnstest.PeerIP6, "::/0"}} {
		_, to, err := net.ParseCIDR(world.to)
		if err != nil {
			return err
		}
		if err := vnl.RouteAdd(&vnl.Route{Dst: to, Gw: net.ParseIP(world.via), LinkIndex: adapterIndex}); err != nil {
			return fmt.Errorf("adding a route to %s: %w", world.to, err)
		}
	}
	return nil
}

// keep starts the keeper and returns when it says that it is ready. What it sends to its
// nodes belongs to a phase.
func (h *booted) keep(phase uint32, more ...string) error {
	spec, err := json.Marshal(testSpec())
	if err != nil {
		return err
	}
	ns, err := os.Open("/proc/1/ns/net")
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }()
	var says []string
	for i, p := range h.flood.paths {
		if isSensors(p.name) {
			says = append(says, string(markerOf(phase, i)))
		}
	}
	more = append(more, keeperSays+"="+strings.Join(says, ","))
	h.keeper = exec.Command(h.Keeper)
	h.keeper.Env = append(append(os.Environ(), hostVariable+"=", keeperVariable+"="+string(spec), keeperState+"="+h.State), more...)
	h.keeper.Stderr = os.Stderr
	h.keeper.ExtraFiles = []*os.File{ns}
	out, err := h.keeper.StdoutPipe()
	if err != nil {
		return err
	}
	if h.input, err = h.keeper.StdinPipe(); err != nil {
		return err
	}
	if err := h.keeper.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	var look kept
	if !lines.Scan() {
		return fmt.Errorf("the keeper is not ready: %w", h.keeper.Wait())
	}
	if err := json.Unmarshal(lines.Bytes(), &look); err != nil || look.Error != "" {
		return fmt.Errorf("the keeper is not ready: %q, %w", look.Error, err)
	}
	go func() { // until it ends
		for lines.Scan() {
			fmt.Println("keeper:", lines.Text())
		}
	}()
	return nil
}

// during floods in a phase, without rest, and tells what went and what came.
func (h *booted) during(phase uint32) word {
	h.flood.during(phase, bootFor)
	told := word{Say: "counted", Failed: map[string]string{}}
	for _, p := range h.flood.paths {
		told.Sent = append(told.Sent, p.sent[phase].Load())
		told.Arrived = append(told.Arrived, p.arrived[phase].Load())
		if err := p.failed.Load(); err != nil {
			told.Failed[p.name] = (*err).Error()
		}
	}
	return told
}

// reboot is that of a host whose intruder outlives the sensor, and whose network is up
// until the machine is gone.
func (h *booted) reboot() error {
	if err := h.keeper.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	_ = h.keeper.Wait() // by the signal
	wait(settle)
	unix.Sync()
	if err := unix.Unmount(h.State, 0); err != nil {
		return err
	}
	return unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
}

func wait(d time.Duration) { <-time.After(d) }

func sinceBoot() float64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) // cannot fail for this clock
	return float64(now.Nano()) / 1e9
}
