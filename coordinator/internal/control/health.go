package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"
)

// pages are what a program asks: whether the node lives, whether it may be relied on,
// and its figures. They change nothing and hold no name of a host or an operator.
const (
	pageMetrics = "/metrics"
	pageHealth  = "/healthz"
	pageReady   = "/readyz"
)

// storeTime is how long the state may take to answer before the node does not live.
const storeTime = 2 * time.Second

// pages serves them; operators reach them with their certificates, everybody who
// reaches metrics_listen without.
func (s *Server) pages() *http.ServeMux {
	mux := http.NewServeMux()
	mux.Handle("GET "+pageMetrics, s.cfg.Meter.Handler())
	mux.HandleFunc("GET "+pageHealth, func(w http.ResponseWriter, r *http.Request) { say(w, s.healthy, r) })
	mux.HandleFunc("GET "+pageReady, func(w http.ResponseWriter, r *http.Request) { say(w, s.ready, r) })
	return mux
}

// say answers 200 or 503 with one short text.
func say(w http.ResponseWriter, ask func(context.Context) (string, bool), r *http.Request) {
	text, ok := ask(r.Context())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = io.WriteString(w, text)
}

// healthy: the process lives, and its state answers. A node that is not healthy should
// be restarted; one that is only not ready should not.
func (s *Server) healthy(ctx context.Context) (text string, ok bool) {
	ctx, cancel := context.WithTimeout(ctx, storeTime)
	defer cancel()
	if _, err := s.cfg.DB.ClusterID(ctx); err != nil {
		return fmt.Sprintf("not healthy: the state does not answer (%v): look at this node's disk and log, and restart it\n", err), false
	}
	return "healthy\n", true
}

// ready: the node has a leader, is up to date, and can write.
func (s *Server) ready(ctx context.Context) (text string, ok bool) {
	if text, ok = s.healthy(ctx); !ok {
		return "not ready: " + strings.TrimPrefix(text, "not healthy: "), false
	}
	v := s.cfg.Cluster.Vitals()
	if reasons := v.Unready(); len(reasons) > 0 {
		return "not ready: " + strings.Join(reasons, "\nnot ready: ") + "\n", false
	}
	return fmt.Sprintf("ready: %s, leader %s, %d entries behind\n", v.State, v.Leader, v.Behind), true
}

// RunOpen serves the pages alone, without TLS and to whoever reaches listener, until ctx ends.
func (s *Server) RunOpen(ctx context.Context, listener net.Listener) error {
	return s.run(ctx, "metrics", &http.Server{
		Handler:           s.pages(),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       5 * time.Second,
		WriteTimeout:      15 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    8 << 10,
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}, func(server *http.Server) error { return server.Serve(listener) })
}

// run serves until ctx ends, and then waits for what is under way.
func (s *Server) run(ctx context.Context, what string, server *http.Server, serve func(*http.Server) error) error {
	server.BaseContext = func(net.Listener) context.Context { return ctx }
	done := make(chan error, 1)
	go func() { done <- serve(server) }()
	select {
	case err := <-done:
		return fmt.Errorf("serving %s: %w", what, err)
	case <-ctx.Done():
	}
	shutdown, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	err := server.Shutdown(shutdown)
	if err != nil {
		err = server.Close()
	}
	if served := <-done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	if err != nil {
		return fmt.Errorf("stopping the server of %s: %w", what, err)
	}
	return nil
}

// unshaken counts what net/http says of failed TLS handshakes, which it tells nobody
// otherwise.
type unshaken struct {
	slog.Handler
	count *atomic.Uint64
}

// Enabled implements slog.Handler: it counts whatever the level is.
func (u *unshaken) Enabled(context.Context, slog.Level) bool { return true }

// Handle implements slog.Handler.
func (u *unshaken) Handle(ctx context.Context, r slog.Record) error {
	if strings.Contains(r.Message, "TLS handshake error") {
		u.count.Add(1)
	}
	if !u.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return u.Handler.Handle(ctx, r)
}
