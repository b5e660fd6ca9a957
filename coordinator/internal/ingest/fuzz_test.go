package ingest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/identity"
	"github.com/vedette-edr/vedette/coordinator/internal/state"
	"github.com/vedette-edr/vedette/coordinator/internal/state/statetest"
	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/raftv1"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// stateLog applies what is proposed to a real store. An entry that cannot be applied, at which every
// node would stop, fails the test.
type stateLog struct {
	fakeLog
	t  testing.TB
	db *store.DB
}

func (l *stateLog) Propose(_ context.Context, cmd *raftv1.Command) (res *raftv1.Result, err error) {
	cmd = proto.CloneOf(cmd)
	index := l.db.AppliedIndex() + 1
	err = l.db.Update(index, func(tx *store.Tx) (err error) {
		res, err = state.Apply(tx, index, cmd)
		return err
	})
	if err != nil {
		l.t.Errorf("every node would stop at this entry: %v", err)
	}
	return res, err
}

func (l *stateLog) must(cmd *raftv1.Command) {
	l.t.Helper()
	if res, err := l.Propose(context.Background(), cmd); err != nil || res.GetRejected() != "" {
		l.t.Fatalf("%v: %v, %v", cmd, res, err)
	}
}

// hostile is a server on a state that has something of everything, a day after it was made.
func hostile(f testing.TB) (*Server, *stateLog) {
	f.Helper()
	db, err := store.Open(f.Context(), filepath.Join(f.TempDir(), "state.db"), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = db.Close() })
	log := &stateLog{t: f, db: db}
	for _, cmd := range statetest.Every(linktest.Cluster, "h") {
		log.must(cmd)
	}
	authority, err := identity.NewAuthority(linktest.Cluster)
	if err != nil {
		f.Fatal(err)
	}
	s, err := New(Config{NodeID: "n1", Version: "test", Authority: authority, Operators: authority.Certificate, Log: log, Store: db, Presence: db, Orders: db,
		Members: db, Tokens: db, Trust: db, Rules: db, Logger: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return time.Unix(0, statetest.Now).Add(24 * time.Hour) }})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.stop)
	return s, log
}

// wantsRemedy wants a refusal to say what to do, and to be an answer that can be sent.
func wantsRemedy(t *testing.T, r *refusal, answer proto.Message) {
	t.Helper()
	if r.code == "" || r.message == "" {
		t.Errorf("refused without a word: %+v", r)
	}
	if err := frame.Write(io.Discard, answer); err != nil {
		t.Errorf("the refusal %q cannot be sent: %v", r.code, err)
	}
}

// FuzzHello lets a host whose certificate is good say anything first: it is refused with a reason,
// or all that its session brings into the log can be applied.
func FuzzHello(f *testing.F) {
	s, log := hostile(f)
	host := identity.NewHostID()
	log.must(&raftv1.Command{Time: 1, Body: &raftv1.Command_EnrollHost{EnrollHost: &raftv1.EnrollHost{Host: host}}})
	boot, long := make([]byte, bootLength), strings.Repeat("x", maxFacts)
	for _, hello := range []*sensorv1.Hello{
		nil, {}, {Protocol: frame.ProtocolVersion}, {Protocol: frame.ProtocolVersion, Boot: boot},
		{Protocol: frame.ProtocolVersion, Boot: boot, KernelBoot: boot, Instance: boot, SensorVersion: "1.0.0", KeepAliveMs: 1, Questions: 1, Carries: true,
			Pack: boot, FleetPack: boot, Trusted: &sensorv1.Trusted{Epoch: 1, Root: make([]byte, sha256.Size)}, Rules: &sensorv1.RulesHeld{Version: 1, Newest: 1},
			Facts: &sensorv1.HostFacts{Name: "web-1", Addresses: []string{"192.0.2.1", "2001:db8::1/64", "x"}, Labels: map[string]string{"role": "web"}, MachineIdHash: "m"}},
		{Protocol: frame.ProtocolVersion, Boot: boot, KeepAliveMs: 1<<32 - 1, Trusted: &sensorv1.Trusted{Epoch: 1<<64 - 1, Root: make([]byte, sha256.Size)},
			Rules: &sensorv1.RulesHeld{Version: 1<<64 - 1, Newest: 1<<64 - 1}, Facts: &sensorv1.HostFacts{Labels: map[string]string{"": "", "a": "\x00"}}},
		{Protocol: frame.ProtocolVersion, Boot: boot, Facts: &sensorv1.HostFacts{Name: long}}, {Protocol: 9, Boot: boot}, {Protocol: frame.ProtocolVersion, Boot: boot[1:]},
	} {
		raw, err := proto.Marshal(&sensorv1.SensorMessage{Body: &sensorv1.SensorMessage_Hello{Hello: hello}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		log.t = t
		var first sensorv1.SensorMessage
		if proto.Unmarshal(raw, &first) != nil {
			return // the session ends before it is looked at
		}
		hello := first.GetHello()
		n := s.greeted(nil, host, hello)
		if r := s.check(t.Context(), hello, host); r != nil {
			wantsRemedy(t, r, &sensorv1.CoordinatorMessage{Body: &sensorv1.CoordinatorMessage_Refusal{Refusal: r.proto()}})
			return
		}
		if n.keepAlive <= 0 || n.keepAlive > max(maxKeepAlive, oldKeepAlive) {
			t.Errorf("it is to be heard every %s", n.keepAlive)
		}
		newest, _, err := s.cfg.Store.Session(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		n.number = newest + 1
		log.must(&raftv1.Command{Time: s.cfg.Now().UnixNano(), Actor: "node:n1", Body: &raftv1.Command_HostSession{HostSession: n.begins(hello, "192.0.2.1", make([]byte, sha256.Size))}})
		known, err := s.cfg.Store.Host(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		n.learns.begin(known)
		s.places.add(n.host, hello.GetFacts().GetAddresses())
		s.holds(n, hello.GetTrusted())
		n.rules.instance = hello.GetInstance()
		s.usesRules(t.Context(), n, hello.GetRules())
		s.resendGrants(t.Context(), n)
		if some := s.trusted.take(); len(some) > 0 {
			log.must(&raftv1.Command{Time: s.cfg.Now().UnixNano(), Body: &raftv1.Command_NoteTrust{NoteTrust: &raftv1.NoteTrust{Hosts: some}}})
		}
		if some := s.heldRules.take(); len(some) > 0 {
			log.must(&raftv1.Command{Time: s.cfg.Now().UnixNano(), Body: &raftv1.Command_NoteRules{NoteRules: &raftv1.NoteRules{Hosts: some}}})
		}
		if got := len(s.places.of[n.host]); got > maxPlaces {
			t.Errorf("%d addresses are kept of it, at most %d may", got, maxPlaces)
		}
	})
}

// FuzzEnroll lets a stranger ask for anything: it is refused with a reason unless it has a token's
// secret, and nothing that it says is an entry at which nodes stop.
func FuzzEnroll(f *testing.F) {
	s, log := hostile(f)
	at := s.cfg.Now().UnixNano()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		f.Fatal(err)
	}
	secret := []byte("none finds this!")
	hash := identity.HashSecret(secret)
	for token, kind := range map[string]sensorv1.EnrollKind{"aaaaaaaaaaaa": sensorv1.EnrollKind_ENROLL_KIND_SENSOR, "bbbbbbbbbbba": sensorv1.EnrollKind_ENROLL_KIND_NODE} {
		log.must(&raftv1.Command{Time: at, Body: &raftv1.Command_CreateToken{CreateToken: &raftv1.CreateToken{TokenId: token, SecretSha256: hash[:], Kind: kind, Expires: at + int64(time.Hour)}}})
	}
	leaf := linktest.NewCA(f).Certificate.Raw
	node := &sensorv1.Node{Id: "n2", Address: "10.0.0.2:7443", OperatorAddress: "10.0.0.2:7444"}
	const sensor, joins = sensorv1.EnrollKind_ENROLL_KIND_SENSOR, sensorv1.EnrollKind_ENROLL_KIND_NODE
	for _, request := range []*sensorv1.EnrollRequest{
		{}, {Protocol: frame.ProtocolVersion},
		{Protocol: frame.ProtocolVersion, Kind: sensor, TokenId: "aaaaaaaaaaaa", TokenSecret: secret, Csr: csr, Facts: &sensorv1.HostFacts{Name: "web-1", Labels: map[string]string{"a": "\x00"}}},
		{Protocol: frame.ProtocolVersion, Kind: sensor, TokenId: "aaaaaaaaaaaa", TokenSecret: []byte("x"), Csr: csr},
		{Protocol: frame.ProtocolVersion, Kind: joins, TokenId: "bbbbbbbbbbba", TokenSecret: secret, Csr: csr, Node: node},
		{Protocol: frame.ProtocolVersion, Kind: joins, TokenId: "bbbbbbbbbbba", Csr: csr, Node: &sensorv1.Node{Id: "n2", Address: "[::]:1", OperatorAddress: ":"}},
		{Protocol: frame.ProtocolVersion, Kind: sensor, Csr: csr[1:]}, {Protocol: frame.ProtocolVersion, Kind: 7, Csr: csr},
		{Protocol: frame.ProtocolVersion, Kind: sensor, Csr: csr, Expired: leaf}, {Protocol: frame.ProtocolVersion, Csr: csr, Expired: leaf[2:]},
		{Protocol: frame.ProtocolVersion, Kind: sensor, TokenId: strings.Repeat("t", 70_000), Csr: csr},
	} {
		raw, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		log.t = t
		request := &sensorv1.EnrollRequest{}
		if proto.Unmarshal(raw, request) != nil {
			return
		}
		s.limiter, s.owed = newLimiter(s.cfg.Now), owed{} // who came before is another
		enrolled, r := s.enroll(t.Context(), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, request)
		switch {
		case (enrolled == nil) != (r != nil):
			t.Fatalf("enrolled as %v, and refused %v", enrolled, r)
		case r != nil:
			wantsRemedy(t, r, &sensorv1.EnrollReply{Outcome: &sensorv1.EnrollReply_Refusal{Refusal: r.proto()}})
		case string(request.GetTokenSecret()) != string(secret):
			t.Errorf("a stranger is enrolled as %s", enrolled.GetId())
		case request.GetKind() == sensor && (!identity.IsHostID(enrolled.GetId()) || len(enrolled.GetCaKey()) > 0):
			t.Errorf("a sensor is enrolled as %q, with %d bytes of the authority's key", enrolled.GetId(), len(enrolled.GetCaKey()))
		}
	})
}

// FuzzAnswers lets a sensor answer two questions with anything, piece by piece: nothing is kept beyond what
// was asked for, and when who asked is gone nothing is kept at all.
func FuzzAnswers(f *testing.F) {
	row := &sensorv1.Sighting{}
	for _, pieces := range [][]*sensorv1.Answer{
		{{Id: 1, Rows: []*sensorv1.Sighting{row, row}}, {Id: 1, Done: true}},
		{{Id: 1, Rows: []*sensorv1.Sighting{row, row, row}}, {Id: 1, Rows: []*sensorv1.Sighting{row, row, row}}},
		{{Id: 1, Done: true}, {Id: 1, Done: true}}, {{Id: 3}}, {{}}, {{Id: 2}, {Id: 2}, {Id: 2, Error: strings.Repeat("é", maxSaid)}},
		{{Id: 1, Rows: []*sensorv1.Sighting{row, row, row, row, row}}}, {{Id: 2, Rows: []*sensorv1.Sighting{row}, Done: true}, {Id: 1, Done: true, Error: "\x00"}},
		{{Id: 1, Done: true, Losses: make([]*sensorv1.Loss, 2*maxTold)}},
	} {
		var raw []byte
		for _, p := range pieces {
			for i := range p.GetLosses() {
				p.Losses[i] = &sensorv1.Loss{Where: "ring"}
			}
			body, err := proto.Marshal(p)
			if err != nil {
				f.Fatal(err)
			}
			raw = protowire.AppendBytes(raw, body)
		}
		f.Add(raw)
	}
	const rows, bytes = 4, 1 << 10
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := &Server{}
		n := &session{server: s}
		var asked [2]*question
		for i := range asked {
			if _, asked[i] = n.ask(&sensorv1.Ask{MaxRows: rows, MaxBytes: bytes}); asked[i] == nil {
				t.Fatal("the session takes no question")
			}
		}
		var got [2]int
		for len(raw) > 0 {
			body, used := protowire.ConsumeBytes(raw)
			if used < 0 {
				break
			}
			raw = raw[used:]
			piece := &sensorv1.Answer{}
			if proto.Unmarshal(body, piece) != nil {
				break
			}
			if err := s.answer(n, piece); err != nil {
				if !errors.Is(err, errProtocol) {
					t.Errorf("the session ends with %v", err)
				}
				break
			}
			for i, q := range asked {
				if q.held > maxAnswers {
					t.Errorf("%d bytes wait", q.held)
				}
				if i == 1 {
					continue // nobody takes this one's
				}
				for p, size, _ := q.take(); p != nil; p, size, _ = q.take() {
					s.room.give(size)
					got[i] += len(p.GetRows())
					if len(p.GetError()) > maxSaid+len("…") || len(p.GetLosses()) > maxTold || len(p.GetUnwatched()) > maxTold || len(p.GetUntold()) > maxTold {
						t.Errorf("more beside the rows than may be: %d bytes of error, %d losses", len(p.GetError()), len(p.GetLosses()))
					}
				}
			}
		}
		for _, p := range asked[1].queue {
			got[1] += len(p.GetRows())
		}
		n.endQuestions()
		for i, q := range asked {
			if got[i] > rows {
				t.Errorf("%d rows were taken of an answer, %d asked for", got[i], rows)
			}
			s.room.give(q.drop())
		}
		if s.room.held != 0 {
			t.Errorf("%d bytes are held for nobody", s.room.held)
		}
	})
}
