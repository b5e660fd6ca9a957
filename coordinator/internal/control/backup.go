package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/consensus"
	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// backupPiece is how much of a backup one message brings.
const backupPiece = 256 << 10

// Backup implements the service. Who takes one is in the audit record before anything is
// given out. Without a leader nothing can be recorded: then the state is given, which every
// admin may read anyhow, and which may be all that is left of the cluster; the key is not.
func (s *Server) Backup(ctx context.Context, r *operatorv1.BackupRequest, stream *connect.ServerStream[operatorv1.BackupResponse]) error {
	_, err := s.propose(ctx, &raftv1.Command{Body: &raftv1.Command_NoteBackup{NoteBackup: &raftv1.NoteBackup{Identity: r.GetIdentity()}}})
	switch {
	case err == nil:
		if err := s.barrier(ctx); err != nil {
			return err
		}
	case r.GetIdentity():
		return connect.NewError(connect.CodeUnavailable, fmt.Errorf("the audit record cannot say who took the cluster's key, so it is not given: a backup without it works (--without-identity): %w", err))
	case !errors.Is(err, consensus.ErrNoLeader) && !errors.Is(err, consensus.ErrUncertain) && !errors.Is(err, consensus.ErrRefused):
		return err
	}
	select {
	case s.backups <- struct{}{}:
		defer func() { <-s.backups }()
	default:
		// Each lies on this node's disk as a whole until it is sent.
		return connect.NewError(connect.CodeResourceExhausted, errors.New("this node makes a backup already: wait until it is done, or ask another node"))
	}
	identities, err := identity.Export(s.cfg.Authority, s.cfg.Operators(), r.GetIdentity())
	if err != nil {
		return connect.NewError(connect.CodeInternal, err)
	}
	frozen, err := s.cfg.DB.Freeze()
	if err != nil {
		return readError(err)
	}
	defer func() { _ = frozen.Close() }()
	rows, err := frozen.Rows()
	if err != nil {
		return readError(err)
	}
	w, err := backup.NewWriter(pieces{stream}, backup.Manifest{ClusterID: s.cfg.Authority.Cluster(), Node: s.cfg.NodeID, Version: s.cfg.Version,
		Time: s.cfg.Now().UTC().Truncate(time.Second), Index: frozen.Index(), Term: s.cfg.Cluster.Vitals().Term, Rows: rows,
		Authority: identities.Authority, Operators: identities.Operators, AuthorityKey: identities.Key})
	if err == nil {
		err = frozen.Write(w)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		s.cfg.Logger.Warn("a backup was not completed", "operator", operator(ctx).ID, "error", err)
		return readError(err)
	}
	s.cfg.Logger.Info("a backup was taken", "operator", operator(ctx).ID, "index", frozen.Index(), "identity", r.GetIdentity())
	return nil
}

// pieces sends what is written as messages.
type pieces struct {
	stream *connect.ServerStream[operatorv1.BackupResponse]
}

var _ io.Writer = pieces{}

func (p pieces) Write(data []byte) (n int, err error) {
	for n < len(data) {
		piece := data[n:min(n+backupPiece, len(data))]
		if err := p.stream.Send(&operatorv1.BackupResponse{Data: piece}); err != nil {
			return n, err
		}
		n += len(piece)
	}
	return n, nil
}
