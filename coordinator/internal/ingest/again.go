package ingest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"slices"
	"sync"

	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// An enrolment whose answer is lost has spent its token: the log took it after this node had
// given up, or the answer did not arrive. The same request again gets the same host: who has
// the token's secret and proves to hold the key that the host was made with is that host. It
// costs the log nothing, and it ends with the token, an hour at most. A joining node is not
// answered again: its answer has the cluster's key in it.

// enrolledBefore is the host that this key was enrolled as with this token; "" for none.
func (s *Server) enrolledBefore(ctx context.Context, token string, key []byte) string {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.CommitTimeout)
	defer cancel()
	// The leader said that the token is used: this node's own state may not know yet.
	if err := s.cfg.Log.ReadBarrier(ctx); err != nil {
		return ""
	}
	host, has, expires, err := s.cfg.Tokens.Enrolled(ctx, token)
	if err != nil {
		s.cfg.Logger.Warn("looking for an enrolment", "error", err)
		return ""
	}
	if host == "" || len(has) == 0 || !bytes.Equal(has, key) || expires <= s.cfg.Now().UnixNano() {
		return ""
	}
	return host
}

// maxOwed bounds the requests without an answer that a node remembers; the oldest go.
const maxOwed = 256

// owed are the requests that this node did not answer for certain.
type owed struct {
	mu  sync.Mutex // guards all
	all [][sha256.Size]byte
}

func owedFor(request *sensorv1.EnrollRequest) [sha256.Size]byte {
	return sha256.Sum256(bytes.Join([][]byte{[]byte(request.GetTokenId()), request.GetTokenSecret(), request.GetCsr()}, []byte{0}))
}

func (o *owed) add(request *sensorv1.EnrollRequest) {
	sum := owedFor(request)
	o.mu.Lock()
	defer o.mu.Unlock()
	if !slices.Contains(o.all, sum) {
		o.all = append(o.all, sum)
	}
	o.all = o.all[max(0, len(o.all)-maxOwed):]
}

// settle forgets a request that has its answer.
func (o *owed) settle(request *sensorv1.EnrollRequest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.all) > 0 {
		sum := owedFor(request)
		o.all = slices.DeleteFunc(o.all, func(one [sha256.Size]byte) bool { return one == sum })
	}
}

func (o *owed) has(request *sensorv1.EnrollRequest) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.all) > 0 && slices.Contains(o.all, owedFor(request))
}
