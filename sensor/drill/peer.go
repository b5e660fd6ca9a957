package drill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// Kinds of the other side of a connection.
const (
	peerExit = "exit" // tells a shell to end
	peerSink = "sink" // reads what comes
	peerWeb  = "web"  // answers as a web server, with a script that says true
	peerName = "name" // a name server that knows no name
)

// turn is how long the other side listens to one connection.
const turn = 2 * time.Second

// beOtherSide serves until the drill ends.
func beOtherSide(s *stage) error {
	if len(s.args) != 2 {
		return errors.New("the other side wants a kind and an address")
	}
	kind, address := s.args[0], s.args[1]
	if kind == peerName {
		return nameServer(s.ctx, address)
	}
	var config net.ListenConfig
	l, err := config.Listen(s.ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer l.Close()
	stop := context.AfterFunc(s.ctx, func() { _ = l.Close() })
	defer stop()
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return nil //nolint:nilerr // the drill has ended
		}
		answer(c, kind)
	}
}

func answer(c net.Conn, kind string) {
	defer c.Close()
	if c.SetDeadline(time.Now().Add(turn)) != nil {
		return
	}
	buf := make([]byte, 64<<10)
	switch kind {
	case peerExit:
		_, _ = io.WriteString(c, "exit\n")
	case peerWeb:
		for seen := ""; !strings.Contains(seen, "\r\n\r\n") && len(seen) < len(buf); {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			seen += string(buf[:n])
		}
		const script = "#!/bin/sh\ntrue\n"
		_, _ = fmt.Fprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(script), script)
		return
	}
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
	}
}

// nameServer answers each question with "there is no such name" (RFC 1035, 4.1.1).
func nameServer(ctx context.Context, address string) error {
	var config net.ListenConfig
	c, err := config.ListenPacket(ctx, "udp", address)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	fmt.Println("ready")
	const header, response, noSuchName = 12, 0x80, 3
	buf := make([]byte, 4096)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return nil //nolint:nilerr // the drill has ended
		}
		if n < header {
			continue
		}
		buf[2] |= response
		buf[3] = buf[3]&0xf0 | noSuchName
		buf[10], buf[11] = 0, 0 // no additional records: an EDNS option is not answered
		end := header
		for end < n && buf[end] != 0 {
			end += int(buf[end]) + 1
		}
		if end+5 > n {
			continue
		}
		_, _ = c.WriteTo(buf[:end+5], from)
	}
}

// dial connects, sends what it is told and waits until the other side closes or is silent.
func dial(ctx context.Context, address string, send int) error {
	c, err := (&net.Dialer{Timeout: turn}).DialContext(ctx, "tcp", address)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(turn)); err != nil {
		return err
	}
	block := make([]byte, 16<<10)
	for ; send > 0; send -= len(block) {
		if _, err := c.Write(block); err != nil {
			return fmt.Errorf("sending: %w", err)
		}
	}
	return nil
}

// ask looks names up at the private network's name server.
func ask(ctx context.Context, names []string) error {
	r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Timeout: turn}).DialContext(ctx, "udp", net.JoinHostPort(netName, "53"))
	}}
	for _, name := range names {
		_, err := r.LookupHost(ctx, name+".")
		var answered *net.DNSError
		if err == nil || errors.As(err, &answered) && answered.IsNotFound {
			continue
		}
		return fmt.Errorf("looking a name up: %w", err)
	}
	return nil
}

// shellFor accepts one connection and starts a shell for it, as an exploited server does.
func shellFor(s *stage) error {
	l, err := (&net.ListenConfig{}).Listen(s.ctx, "tcp", s.args[0])
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	defer l.Close()
	fmt.Println("ready")
	c, err := l.Accept()
	if err != nil {
		return fmt.Errorf("accepting: %w", err)
	}
	defer c.Close()
	cmd := s.command(findTool("sh"), "-c", "id")
	cmd.Stdout, cmd.Stderr = c, os.Stderr
	return attempt(cmd)
}
