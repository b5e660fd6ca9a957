package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// role is what a copy of this program does on a host of the story.
func role(args []string) error {
	if len(args) != 2 {
		return errors.New("want: role service|client|ask|beacon TARGET")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	// Whatever happens to the demo, its roles end by themselves.
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	switch args[0] {
	case "service":
		return serve(ctx, args[1])
	case "client":
		return repeat(ctx, time.Second, func() { _ = ask(ctx, args[1], io.Discard) })
	case "ask":
		return ask(ctx, args[1], os.Stdout)
	case "beacon":
		return repeat(ctx, time.Second, func() { beacon(ctx, args[1]) })
	}
	return fmt.Errorf("unknown role %q", args[0])
}

func repeat(ctx context.Context, every time.Duration, do func()) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		do()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// serve is a shop with a hole: it prices an item with a program of its own, and
// hands an item's name that it does not understand to a shell.
func serve(ctx context.Context, address string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/price", func(rw http.ResponseWriter, r *http.Request) {
		cmd := exec.CommandContext(ctx, "/usr/bin/expr", "2", "+", "3")
		if trick := r.URL.Query().Get("debug"); trick != "" {
			cmd = exec.CommandContext(ctx, "/bin/sh", "-c", trick)
		}
		out, err := cmd.CombinedOutput()
		if err != nil {
			http.Error(rw, fmt.Sprintf("%v\n%s", err, out), http.StatusInternalServerError)
			return
		}
		_, _ = rw.Write(out)
	})
	server := &http.Server{Addr: address, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		_ = server.Close()
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func ask(ctx context.Context, url string, to io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	transport := &http.Transport{DisableKeepAlives: true}
	response, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if _, err := io.Copy(to, io.LimitReader(response.Body, 1<<20)); err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("the shop answered %s", response.Status)
	}
	return nil
}

func beacon(ctx context.Context, address string) {
	dialer := net.Dialer{Timeout: 500 * time.Millisecond}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "still here\n")
	_ = conn.Close()
}
