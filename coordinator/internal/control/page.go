package control

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
)

// A page token is the store's and the index of a state that held the page before. The next
// page may be asked of another node, which may be behind: of what it lacks yet, it would leave
// rows out without a word. So it waits until it has as much.

// asked is the part of a list that a request asks for.
func (s *Server) asked(ctx context.Context, size uint32, token string) (store.Page, error) {
	row, at, found := strings.Cut(token, ".")
	if !found { // the first page, or the token of an older node
		return store.Page{Size: size, Token: token}, nil
	}
	index, err := strconv.ParseUint(at, 36, 64)
	if err != nil {
		return store.Page{}, readError(store.ErrBadPage)
	}
	waiting, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	if err := s.cfg.DB.WaitApplied(waiting, index); err != nil {
		return store.Page{}, connect.NewError(connect.CodeUnavailable, fmt.Errorf("this node is behind the one that the page before came from: %w", err))
	}
	return store.Page{Size: size, Token: row}, nil
}

// follows is the token of the page behind one that was read, "" when there is none.
func (s *Server) follows(ctx context.Context, row string) (string, error) {
	if row == "" {
		return "", nil
	}
	index, err := s.cfg.DB.CommittedIndex(ctx)
	if err != nil {
		return "", readError(err)
	}
	return row + "." + strconv.FormatUint(index, 36), nil
}

// ofHost refuses a list of one host that nobody knows: an empty list would say that it is
// well, and the name was only mistyped. "" is every host.
func (s *Server) ofHost(ctx context.Context, idOrName string) error {
	if idOrName == "" {
		return nil
	}
	return readError(s.cfg.DB.KnowsHost(ctx, idOrName))
}
