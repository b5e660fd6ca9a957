package sensor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/grant"
	"github.com/vedette-edr/vedette/proto/sensorv1"
	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/spool"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

const (
	// doorName is the socket in the state folder by which root hands a release to the
	// running sensor.
	doorName = "local.sock"
	// doorPatience is for a caller to say what it wants, and again to take the answer.
	doorPatience = 5 * time.Second
	// doorAnswer is how long a caller waits: an isolation that is being proved comes first.
	doorAnswer = 60 * time.Second
	// doorPause is between two tries when nobody can be let in.
	doorPause = time.Second
)

// ErrRefused: the sensor did not honour the release; the text says why.
var ErrRefused = errors.New("the release is refused")

// door takes releases that a person carried to the host: one caller at a time, one
// signed grant, one answer. It adds no authority. The grant is verified like any
// other, so what the door keeps out, by the folder's mode, the socket's and the
// caller's uid, is noise.
type door struct {
	listener *net.UnixListener
	path     string
	grant    func(context.Context, *sensorv1.SignedGrant) *sensorv1.GrantResult
	log      *slog.Logger
}

// openDoor makes the socket. Whatever lies at its path is of a sensor that is gone:
// the caller holds the state folder's lock.
func openDoor(dir string, grant func(context.Context, *sensorv1.SignedGrant) *sensorv1.GrantResult, log *slog.Logger) (*door, error) {
	d := &door{path: filepath.Join(dir, doorName), grant: grant, log: log}
	if err := os.Remove(d.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	err := throughFolder(dir, func(address *net.UnixAddr) (err error) {
		d.listener, err = net.ListenUnix("unix", address)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listening for local releases: %w", err)
	}
	d.listener.SetUnlinkOnClose(false) // it knows a path that is no more
	if err := os.Chmod(d.path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listening for local releases: %w", err), d.close())
	}
	return d, nil
}

// throughFolder names the socket by an open folder: a socket's own path must be
// shorter than 108 bytes, a state folder's need not.
func throughFolder(dir string, f func(*net.UnixAddr) error) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer folder.Close()
	return f(&net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), doorName)})
}

func (d *door) close() error {
	err := d.listener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, os.Remove(d.path))
}

// run serves until ctx ends.
func (d *door) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { _ = d.listener.Close() })()
	for {
		conn, err := d.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case err != nil:
			d.log.Warn("local release", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(doorPause):
			}
		default:
			d.serve(ctx, conn)
		}
	}
}

func (d *door) serve(ctx context.Context, conn *net.UnixConn) {
	defer func() { _ = conn.Close() }()
	if err := callerIsRoot(conn); err != nil {
		d.log.Warn("local release", "error", err)
		return
	}
	_ = conn.SetDeadline(time.Now().Add(doorPatience))
	signed := new(sensorv1.SignedGrant)
	if err := frame.Read(io.LimitReader(conn, grant.MaxReleaseToken), signed); err != nil {
		d.log.Warn("local release", "error", err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	result := releaseOnly(ctx, signed, d.grant)
	_ = conn.SetDeadline(time.Now().Add(doorPatience))
	if err := frame.Write(conn, result); err != nil {
		d.log.Warn("local release: the answer was not taken", "error", err)
	}
}

// releaseOnly keeps every other order out of the local way.
func releaseOnly(ctx context.Context, signed *sensorv1.SignedGrant, honour func(context.Context, *sensorv1.SignedGrant) *sensorv1.GrantResult) *sensorv1.GrantResult {
	if err := grant.CheckRelease(signed); err != nil {
		return &sensorv1.GrantResult{Status: &sensorv1.IsolationStatus{State: sensorv1.IsolationState_ISOLATION_STATE_REFUSED, Detail: err.Error()}}
	}
	return honour(ctx, signed)
}

// callerIsRoot asks the kernel who connected.
func callerIsRoot(conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var caller *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		caller, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return err
	}
	if credErr != nil {
		return fmt.Errorf("looking at who calls: %w", credErr)
	}
	if caller.Uid != 0 {
		return fmt.Errorf("process %d of uid %d is not root", caller.Pid, caller.Uid)
	}
	return nil
}

// openDoor lets root hand releases in. A sensor that cannot offer it watches and
// isolates all the same; "vedette-sensor release" works when it is stopped.
func (s *Sensor) openDoor() {
	d, err := openDoor(s.cfg.StateDir, s.responder.Grant, s.log)
	if err != nil {
		s.log.Warn("releases cannot be handed in while this sensor runs, only while it is stopped", "error", err)
		return
	}
	s.door = d
	s.onClose(d.close)
}

// Release honours a release token on this host, without any coordinator, and says
// what came of it. A running sensor does it; where none runs, this process does,
// as that one would: with the same verification, the same record of used grants,
// and reports that the next sensor sends.
func Release(ctx context.Context, cfg Config, token string, log *slog.Logger) (string, error) {
	if err := cfg.validate(); err != nil {
		return "", fmt.Errorf("checking config:\n%w", err)
	}
	if os.Geteuid() != 0 {
		return "", errors.New("only root of this host can use a release token here")
	}
	signed, err := grant.ParseReleaseToken(token)
	if err != nil {
		return "", err
	}
	result, err := handIn(ctx, cfg.StateDir, signed)
	if errors.Is(err, errNobodyThere) {
		result, err = releaseAlone(ctx, cfg, signed, log)
	}
	if err != nil {
		return "", err
	}
	switch status := result.GetStatus(); status.GetState() {
	case sensorv1.IsolationState_ISOLATION_STATE_RELEASED:
		return status.GetDetail(), nil
	case sensorv1.IsolationState_ISOLATION_STATE_REFUSED:
		return "", fmt.Errorf("%w: %s", ErrRefused, status.GetDetail())
	default:
		return "", fmt.Errorf("the release failed: %s", status.GetDetail())
	}
}

// errNobodyThere: no sensor runs with the state folder.
var errNobodyThere = errors.New("no sensor listens")

// handIn gives the release to the running sensor.
func handIn(ctx context.Context, dir string, signed *sensorv1.SignedGrant) (*sensorv1.GrantResult, error) {
	ctx, cancel := context.WithTimeout(ctx, doorAnswer)
	defer cancel()
	var conn net.Conn
	err := throughFolder(dir, func(address *net.UnixAddr) (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, address.Net, address.Name)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, errNobodyThere
	}
	if err != nil {
		return nil, fmt.Errorf("reaching the sensor: %w", err)
	}
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	result := new(sensorv1.GrantResult)
	err = frame.Write(conn, signed)
	if err == nil {
		err = frame.Read(io.LimitReader(conn, grant.MaxReleaseToken), result)
	}
	if err != nil {
		return nil, fmt.Errorf("the running sensor gave no answer (%w): its log says why; if it hangs, stop it (systemctl stop vedette-sensor) and repeat this", err)
	}
	return result, nil
}

// releaseAlone is a sensor that only responds, for one grant.
func releaseAlone(ctx context.Context, cfg Config, signed *sensorv1.SignedGrant, log *slog.Logger) (_ *sensorv1.GrantResult, err error) {
	s := &Sensor{cfg: cfg, log: log}
	defer func() { err = errors.Join(err, s.close()) }()
	if s.identity, err = uplink.LoadIdentity(s.path("identity")); err != nil && !errors.Is(err, uplink.ErrExpired) {
		return nil, fmt.Errorf("loading this host's identity: %w", err)
	}
	if err := s.openResponder(); errors.Is(err, spool.ErrInUse) || errors.Is(err, respond.ErrInUse) {
		return nil, fmt.Errorf("%w, and cannot be reached: stop it (systemctl stop vedette-sensor) and repeat this", err)
	} else if err != nil {
		return nil, err
	}
	return releaseOnly(ctx, signed, s.responder.Grant), nil
}
