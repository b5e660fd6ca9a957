package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"strings"

	"github.com/vedette-edr/vedette/sensor/internal/respond"
	"github.com/vedette-edr/vedette/sensor/internal/uplink"
)

// RemoveIsolation ends this host's isolation and every other containment at the word
// of root, while no sensor runs, and returns the operations that it ended. The next
// sensor that starts here tells the cluster who did it and why.
func RemoveIsolation(ctx context.Context, cfg Config, reason string, log *slog.Logger) ([]string, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("checking config:\n%w", err)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("only root of this host can end its isolation here; an operator can from anywhere: vedette release")
	}
	s := Sensor{cfg: cfg}
	by := respond.LocalEnd{StateDir: cfg.StateDir, NetNS: s.isolationNamespace(), By: whoAmI(), Reason: reason, Logger: log,
		Lift: func(stopped []respond.StoppedProcess) error { return liftLeft(s.isolationNamespace(), stopped) }}
	// Whose containments they are stands in what they left; a host that never enrolled has none.
	if identity, err := uplink.LoadIdentity(s.path("identity")); err == nil || errors.Is(err, uplink.ErrExpired) {
		by.HostID = identity.HostID
	}
	var ended []string
	operation, err := respond.EndLocally(ctx, by)
	if operation != "" {
		ended = append(ended, operation)
	}
	if err == nil && by.HostID != "" {
		var more []string
		more, err = respond.EndContainmentsLocally(ctx, by, respond.ContainConfig{})
		ended = append(ended, more...)
	}
	if errors.Is(err, respond.ErrInUse) {
		return nil, fmt.Errorf("%w and would isolate again: stop it first (systemctl stop vedette-sensor), or let an operator release this host (vedette release)", err)
	}
	return ended, err
}

// noLogin is the login uid of what no login started.
const noLogin = "4294967295"

// whoAmI is root and, where the kernel knows it, the user who logged in to
// become root: unlike what sudo sets in the environment, that stays.
func whoAmI() string {
	const root = "root on the host"
	raw, err := os.ReadFile("/proc/self/loginuid")
	uid := strings.TrimSpace(string(raw))
	if err != nil || uid == "" || uid == noLogin {
		return root
	}
	if known, err := user.LookupId(uid); err == nil {
		return fmt.Sprintf("%s (logged in as %s)", root, known.Username)
	}
	return fmt.Sprintf("%s (logged in as uid %s)", root, uid)
}
