package link

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
)

// wantedBuffer is what a node's socket should have: a burst of ten thousand
// sensors' summaries waits there while a core is busy.
const wantedBuffer = 4 << 20

// quic-go would print to the standard logger from every program that has a
// small socket buffer; warnSmallBuffer says it once, in our own log, with a remedy.
var silenceBufferWarning = sync.OnceFunc(func() {
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
})

func openSocket(network, addr string) (*net.UDPConn, error) {
	silenceBufferWarning()
	local, err := net.ResolveUDPAddr(network, addr)
	if err != nil {
		return nil, fmt.Errorf("listening on UDP %s: %w: give HOST:PORT, as in 0.0.0.0:7443", addr, err)
	}
	socket, err := net.ListenUDP(network, local)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("listening on UDP %s: %w by another process: 'ss -ulpn sport = :%d' names it; stop it or give another port", addr, ErrAddrInUse, local.Port)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("listening on UDP %s: %w: the address must be one of this machine's", addr, err)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("listening on UDP %s: %w: ports below 1024 need CAP_NET_BIND_SERVICE", addr, err)
	case err != nil:
		return nil, fmt.Errorf("listening on UDP %s: %w", addr, err)
	}
	return socket, nil
}

func warnSmallBuffer(socket *net.UDPConn, logger *slog.Logger) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	size := 0
	if err := raw.Control(func(fd uintptr) {
		size, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF)
	}); err != nil {
		return
	}
	if size < wantedBuffer {
		logger.Warn("UDP receive buffer is small: bursts from many sensors may be dropped and sent again",
			"bytes", size, "wanted", wantedBuffer, "remedy", "sysctl -w net.core.rmem_max=8388608")
	}
}
