// Package control answers operators: the Connect service of proto/operatorv1
// over HTTPS, on every node.
//
// Its one idea: who asks and what they may do is decided before any handler
// runs, from the client certificate and one table, and what the table does not
// name is denied. A handler only reads the state of its node or proposes a
// command in the operator's name; it decides nothing that is not in the log.
//
// Reads of what is isolated are linearizable: they pass a read barrier first.
// Lists of hosts, findings and incidents are what this node has applied.
package control

import (
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/journal"
	"github.com/vedette-edr/vedette/coordinator/internal/meter"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/operatorv1/operatorv1connect"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Log is the replicated log, from any node.
type Log interface {
	Propose(ctx context.Context, cmd *raftv1.Command) (*raftv1.Result, error)
	Subscribe(fn func(index uint64, cmd *raftv1.Command, res *raftv1.Result)) (cancel func())
	ReadBarrier(ctx context.Context) error
	// Fit says why this node's answers cannot be relied on, nil when they can.
	Fit() error
}

// Cluster is who the nodes are.
type Cluster interface {
	Leader() (id, addr string, ok bool)
	Members(ctx context.Context) ([]*operatorv1.Member, error)
	RemoveMember(ctx context.Context, id string) error
	Vitals() consensus.Vitals
}

const (
	// maxRequest bounds a request's body: the largest is a grant for many hosts.
	maxRequest = 2 << 20
	// stopTime is how long requests may go on when the node stops.
	stopTime = 3 * time.Second
	// proposeTimeout bounds the time that a command may look for a quorum: a
	// failover takes less, and what takes longer has an operator waiting for nothing.
	proposeTimeout = 5 * time.Second
)

// Config of a Server.
type Config struct {
	// NodeID and Version are what GetStatus says of this node.
	NodeID  string
	Version string
	// Operators is the certificate of the operators' authority: whom it has signed is
	// served, and grants that they signed are taken. Authority is the cluster's, whose
	// word makes nobody an operator; Certificate is the node's own.
	Operators   func() *x509.Certificate
	Authority   *identity.Authority
	Certificate func() (*tls.Certificate, error)
	// PrepareRoot makes an authority's certificate: identity.Node.Prepare.
	PrepareRoot func(renew []byte) ([]byte, error)
	// Log, Cluster and DB are this node's part of the cluster.
	Log     Log
	Cluster Cluster
	DB      *store.DB
	// Hunts puts questions to hosts; nil: this node takes no hunts.
	Hunts Hunts
	// Logger takes what an administrator should know; nil discards it.
	Logger *slog.Logger
	// Meter holds this node's figures; nil makes one without what other parts count.
	Meter *meter.Meter
	// Journal has the newest warnings, and Configuration is the effective one, for DebugInfo.
	Journal       *journal.Journal
	Configuration string
	// SilentAfter is when a host without a batch counts as silent (default 90 s:
	// three summaries at the sensors' default interval).
	SilentAfter time.Duration
	// WatchBuffer bounds the entries that wait for one watcher (default 512).
	// Beyond it entries are dropped, counted, and the watcher is told.
	WatchBuffer int
	// MaxWatchers bounds the watchers of this node (default 64).
	MaxWatchers int
	// Now is the clock.
	Now func() time.Time
}

func (c *Config) populate() error {
	var problems []error
	if c.NodeID == "" {
		problems = append(problems, errors.New("NodeID is empty"))
	}
	if c.Operators == nil || c.Authority == nil || c.Certificate == nil {
		problems = append(problems, errors.New("Operators, Authority and Certificate must be set"))
	}
	if c.Log == nil || c.Cluster == nil || c.DB == nil {
		problems = append(problems, errors.New("Log, Cluster and DB must be set"))
	}
	if len(problems) > 0 {
		return fmt.Errorf("control configuration: %w", errors.Join(problems...))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Meter == nil {
		c.Meter = meter.New()
	}
	if c.SilentAfter <= 0 {
		c.SilentAfter = 90 * time.Second
	}
	if c.WatchBuffer <= 0 {
		c.WatchBuffer = 512
	}
	if c.MaxWatchers <= 0 {
		c.MaxWatchers = 64
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

// Server answers operators.
type Server struct {
	cfg      Config
	watchers atomic.Int64
	dropped  atomic.Uint64
	replays  chan struct{} // holds one for each replay that runs
	backups  chan struct{} // holds one while a backup is made
	hunts    chan struct{} // holds one for each hunt that runs
	packing  sync.Mutex    // held while a pack is looked at and proposed
	// deniedAll are requests; unshaken are connections that never came to one.
	deniedAll, unshaken atomic.Uint64

	mu     sync.Mutex // guards denied and noted
	denied map[string]uint64
	noted  map[string]bool // certificates of operators that were told to the log, by serial
	// unnoted are to be told.
	unnoted chan *raftv1.PutOperator
	// contexts are the epochs that operators' contexts were seen with; unheld are to be told.
	contexts map[string]uint64
	unheld   chan *raftv1.HolderTrust
}

var _ operatorv1connect.OperatorServiceHandler = (*Server)(nil)

// New makes a Server.
func New(cfg Config) (*Server, error) {
	if err := cfg.populate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, denied: make(map[string]uint64), noted: make(map[string]bool), unnoted: make(chan *raftv1.PutOperator, maxUnnoted), contexts: make(map[string]uint64), unheld: make(chan *raftv1.HolderTrust, maxUnnoted), replays: make(chan struct{}, replaysAtOnce), backups: make(chan struct{}, 1), hunts: make(chan struct{}, huntsAtOnce)}
	s.figures()
	return s, nil
}

// Handler is the service behind authorisation; it must be served with TLS and
// verified client certificates.
func (s *Server) Handler() http.Handler {
	_, service := operatorv1connect.NewOperatorServiceHandler(s,
		connect.WithReadMaxBytes(maxRequest),
		connect.WithCompression("gzip", func() connect.Decompressor { return new(gzip.Reader) }, fastGzip),
		connect.WithRecover(func(_ context.Context, spec connect.Spec, _ http.Header, p any) error {
			s.cfg.Logger.Error("operator request panicked", "procedure", spec.Procedure, "panic", fmt.Sprint(p))
			return connect.NewError(connect.CodeInternal, errors.New("this node failed at the request: its log says why"))
		}))
	pages := s.pages()
	return s.authorise(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, page := pageRole[r.URL.Path]; page {
			pages.ServeHTTP(w, r)
			return
		}
		service.ServeHTTP(w, r)
	}))
}

// fastGzip costs a third of the default: what waiting operators look at again and again
// is a thousand rows, and they look while their order is carried out.
func fastGzip() connect.Compressor {
	w, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed) // a level that exists
	return w
}

// operatorRoots is what an operator's certificate must chain to.
func (s *Server) operatorRoots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(s.cfg.Operators())
	return pool
}

// TLS is the configuration of the operators' listener.
func (s *Server) TLS() *tls.Config {
	config := &tls.Config{
		MinVersion:             tls.VersionTLS13,
		ClientAuth:             tls.RequireAndVerifyClientCert,
		ClientCAs:              s.operatorRoots(),
		NextProtos:             []string{"h2", "http/1.1"},
		SessionTicketsDisabled: true, // a resumed session would outlive its certificate
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.cfg.Certificate() },
	}
	config.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		now := config.Clone()
		now.GetConfigForClient, now.ClientCAs = nil, s.operatorRoots() // the authority may have been renewed
		return now, nil
	}
	return config
}

// Run serves operators on listener until ctx ends.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.Handler(),
		TLSConfig:         s.TLS(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		// Handshakes that strangers fail are no event of ours; they are counted.
		ErrorLog: slog.NewLogLogger(&unshaken{Handler: s.cfg.Logger.Handler(), count: &s.unshaken}, slog.LevelDebug),
	}
	var noting sync.WaitGroup
	defer noting.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	noting.Go(func() { s.noteOperators(ctx) })
	noting.Go(func() { s.noteContexts(ctx) })
	return s.run(ctx, "operators", server, func(server *http.Server) error { return server.ServeTLS(listener, "", "") })
}
