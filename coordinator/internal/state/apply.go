package state

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/coordinator/internal/store"
	"github.com/vedette-edr/vedette/proto/operatorv1"
	"github.com/vedette-edr/vedette/proto/raftv1"
)

// Codes of rejections. They are part of the operators' contract: never renamed.
const (
	RejectUnknownCommand  = "unknown-command"
	RejectInvalid         = "invalid"
	RejectKeyReused       = "idempotency-key-reused"
	RejectUnknownHost     = "unknown-host"
	RejectHostExists      = "host-exists"
	RejectTokenExists     = "token-exists"
	RejectTooManyTokens   = "too-many-tokens"
	RejectBadToken        = "bad-token"
	RejectTokenExpired    = "token-expired"
	RejectTokenUsed       = "token-used"
	RejectTokenKind       = "wrong-token-kind"
	RejectClusterExists   = "cluster-exists"
	RejectUnknownNode     = "unknown-node"
	RejectUnknownIncident = "unknown-incident"
	RejectIncidentClosed  = "incident-closed"
	RejectGrantMismatch   = "grant-mismatch"
	RejectWrongCluster    = "wrong-cluster"
	RejectNonceUsed       = "nonce-used"
	RejectOperationExists = "operation-exists"
	RejectGrantExpired    = "grant-expired"
	RejectBadLease        = "bad-lease"
	RejectStaleSession    = "stale-session"
	RejectNotSilent       = "not-silent"
	// RejectStaleOrder: another order for one of the hosts came first.
	RejectStaleOrder = "stale-order"
	// RejectApprovals: the governor asks for more operators than the grant does.
	RejectApprovals        = "approvals-needed"
	RejectUnknownOperation = "unknown-operation"
	// RejectNotWaiting: an operation that went out, was vetoed or has expired.
	RejectNotWaiting      = "not-waiting"
	RejectApprovedAlready = "approved-already"
	// RejectGovernor: automation may not do it, whatever the intent says.
	RejectGovernor    = "governor"
	RejectStaleIntent = "stale-intent"
	// RejectUnsupported: a proposal that does not follow from its finding by the intent.
	RejectUnsupported = "unsupported"
	// RejectShrinks: an intent without much of the one before, whose author does not say so.
	RejectShrinks    = "intent-shrinks"
	RejectWindowOpen = "window-open"
	// RejectStaleNodes: a list of nodes that is not newer than the one before.
	RejectStaleNodes = "stale-nodes"
	// RejectNodesExpired: a list of nodes that has ended.
	RejectNodesExpired = "nodes-expired"
	// RejectExportMoved: another leader has moved the sink's place since.
	RejectExportMoved = "export-moved"
)

// ErrNewerCommand is returned for a command of a later version: the node must
// stop until it is upgraded.
var ErrNewerCommand = errors.New("command is from a newer vedette-coordinator: upgrade this node")

// maxKey bounds an idempotency key, in bytes.
const maxKey = 128

// applier is one command being applied.
type applier struct {
	tx    *store.Tx
	index uint64
	cmd   *raftv1.Command
}

// Apply applies the command of log entry index inside tx. The result is the
// same on every node. An error means that the store failed.
func Apply(tx *store.Tx, index uint64, cmd *raftv1.Command) (*raftv1.Result, error) {
	a := &applier{tx: tx, index: index, cmd: cmd}
	tx.Time = cmd.GetTime()
	result, err := a.once()
	if err != nil {
		return nil, err
	}
	result.Index = index
	return result, nil
}

// once answers a command whose key is known with what the first one did. Only
// accepted commands are remembered: a rejected one did nothing, and may succeed later.
func (a *applier) once() (*raftv1.Result, error) {
	if refused, err := a.byRevoked(); err != nil || refused != nil {
		return refused, err
	}
	key := a.cmd.GetIdempotencyKey()
	if key == "" {
		return a.apply()
	}
	if len(key) > maxKey {
		return reject(RejectInvalid, "the idempotency key is longer than %d bytes: use a shorter one", maxKey), nil
	}
	kind := commandNumber(a.cmd)
	earlier, earlierKind, err := a.tx.Remembered(a.cmd.GetActor(), key)
	if err != nil {
		return nil, fmt.Errorf("reading idempotency key: %w", err)
	}
	if earlier != nil {
		if earlierKind != kind {
			return reject(RejectKeyReused, "idempotency key %q was used for another kind of request: use a new one", key), nil
		}
		return earlier, nil
	}
	result, err := a.apply()
	if err != nil || result.GetRejected() != "" {
		return result, err
	}
	result.Index = a.index
	if err := a.tx.Remember(a.cmd.GetActor(), key, kind, result); err != nil {
		return nil, fmt.Errorf("remembering idempotency key: %w", err)
	}
	return result, nil
}

// commandNumber is the field number of a command's body, which never changes.
func commandNumber(cmd *raftv1.Command) int32 {
	m := cmd.ProtoReflect()
	field := m.WhichOneof(m.Descriptor().Oneofs().ByName("body"))
	if field == nil {
		return 0
	}
	return int32(field.Number())
}

func (a *applier) apply() (*raftv1.Result, error) {
	switch body := a.cmd.GetBody().(type) {
	case *raftv1.Command_Ingest:
		return a.ingest(body.Ingest)
	case *raftv1.Command_EnrollHost:
		return a.enrollHost(body.EnrollHost)
	case *raftv1.Command_CreateToken:
		return a.createToken(body.CreateToken)
	case *raftv1.Command_ConsumeToken:
		return a.consumeToken(body.ConsumeToken)
	case *raftv1.Command_RequestResponse:
		return a.requestResponse(body.RequestResponse)
	case *raftv1.Command_PutIncident:
		return a.putIncident(body.PutIncident)
	case *raftv1.Command_CloseIncident:
		return a.closeIncident(body.CloseIncident)
	case *raftv1.Command_PutNode:
		return a.putNode(body.PutNode)
	case *raftv1.Command_RemoveNode:
		return a.removeNode(body.RemoveNode)
	case *raftv1.Command_HostSession:
		return a.hostSession(body.HostSession)
	case *raftv1.Command_BeginSessions:
		return a.beginSessions(body.BeginSessions)
	case *raftv1.Command_PutOperator:
		return a.putOperator(body.PutOperator)
	case *raftv1.Command_InitCluster:
		return a.initCluster(body.InitCluster)
	case *raftv1.Command_SessionsEnded:
		return a.sessionsEnded(body.SessionsEnded)
	case *raftv1.Command_RaiseSilence:
		return a.raiseSilence(body.RaiseSilence)
	case *raftv1.Command_ApproveOperation:
		return a.approveOperation(body.ApproveOperation)
	case *raftv1.Command_VetoOperation:
		return a.vetoOperation(body.VetoOperation)
	case *raftv1.Command_PutIntent:
		return a.putIntent(body.PutIntent)
	case *raftv1.Command_ProposeResponse:
		return a.proposeResponse(body.ProposeResponse)
	case *raftv1.Command_StartOperation:
		return a.startOperation(body.StartOperation)
	case *raftv1.Command_PutSignedNodes:
		return a.putSignedNodes(body.PutSignedNodes)
	case *raftv1.Command_SuspectSensor:
		return a.suspectSensor(body.SuspectSensor, firstConducts)
	case *raftv1.Command_SuspectConduct:
		return a.suspectSensor(body.SuspectConduct.GetSensor(), secondConducts)
	case *raftv1.Command_ReportDivergence:
		return a.reportDivergence(body.ReportDivergence)
	case *raftv1.Command_RestoreCluster:
		return a.restoreCluster(body.RestoreCluster)
	case *raftv1.Command_RecoverCluster:
		return a.recoverCluster(body.RecoverCluster)
	case *raftv1.Command_NoteBackup:
		return a.noteBackup(body.NoteBackup)
	case *raftv1.Command_RemoveHost:
		return a.removeHost(body.RemoveHost.GetHost(), body.RemoveHost.GetReason(), false)
	case *raftv1.Command_RetireHost:
		return a.removeHost(body.RetireHost.GetHost(), body.RetireHost.GetReason(), true)
	case *raftv1.Command_PutCheckpoint:
		return a.putCheckpoint(body.PutCheckpoint)
	case *raftv1.Command_PutRevocations:
		return a.putRevocations(body.PutRevocations)
	case *raftv1.Command_PutTrust:
		return a.putTrust(body.PutTrust)
	case *raftv1.Command_NoteTrust:
		return a.noteTrust(body.NoteTrust)
	case *raftv1.Command_Retain:
		return a.retain(body.Retain)
	case *raftv1.Command_Forget:
		return a.forget(body.Forget)
	case *raftv1.Command_NoteHunt:
		return a.noteHunt(body.NoteHunt)
	case *raftv1.Command_ExportMark:
		return a.exportMark(body.ExportMark)
	case *raftv1.Command_SetRoles:
		return a.setRoles(body.SetRoles)
	case *raftv1.Command_LearningOrder:
		return a.learningOrder(body.LearningOrder)
	case *raftv1.Command_NoteRollOuts:
		return a.noteRollOuts(body.NoteRollOuts)
	case *raftv1.Command_PutCampaign:
		return a.putCampaign(body.PutCampaign)
	case *raftv1.Command_PutDrills:
		return a.putDrills(body.PutDrills)
	case *raftv1.Command_PutInvestigation:
		return a.putInvestigation(body.PutInvestigation)
	case *raftv1.Command_PutDispositions:
		return a.putDispositions(body.PutDispositions)
	case *raftv1.Command_PutRules:
		return a.putRules(body.PutRules)
	case *raftv1.Command_AdvanceRules:
		return a.advanceRules(body.AdvanceRules)
	case *raftv1.Command_HaltRules:
		return a.haltRules(body.HaltRules)
	case *raftv1.Command_NoteRules:
		return a.noteRules(body.NoteRules)
	}
	if len(a.cmd.ProtoReflect().GetUnknown()) > 0 {
		// Skipping what other nodes apply would make this one differ from them.
		return nil, ErrNewerCommand
	}
	return reject(RejectUnknownCommand, "the command has no body"), nil
}

func accept(id string) *raftv1.Result { return &raftv1.Result{Id: id} }

func reject(code, format string, args ...any) *raftv1.Result {
	return &raftv1.Result{Rejected: code, Message: fmt.Sprintf(format, args...)}
}

func (a *applier) audit(action, subject, format string, args ...any) error {
	return a.auditAs(a.cmd.GetActor(), action, subject, format, args...)
}

func (a *applier) auditAs(actor, action, subject, format string, args ...any) error {
	err := a.tx.Audit(&operatorv1.AuditEntry{
		Time: a.cmd.GetTime(), Actor: text(actor), Action: action, Subject: text(subject), Detail: text(fmt.Sprintf(format, args...)),
	})
	if err != nil {
		return fmt.Errorf("writing audit entry: %w", err)
	}
	return nil
}

// text is what may stand in a message: one byte that is not UTF-8, in an entry that nobody can
// take back, would make the audit unreadable. Hosts choose some of it.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// same compares two messages by what they say.
func same(a, b proto.Message) bool { return proto.Equal(a, b) }
