package fleet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/vedette-edr/vedette/proto/frame"
	"github.com/vedette-edr/vedette/proto/link"
	"github.com/vedette-edr/vedette/proto/sensorv1"
)

// The numbers of fields that Send writes by itself.
const (
	messageBatch  = 2
	batchRecords  = 3
	recordSummary = 3
)

// Source is a sensor that sends summaries one after another, as fast as they are
// acknowledged. What it sends is encoded before: what is measured is not its own work.
type Source struct {
	*sensor
	// Reopened counts the sessions that ended before a batch was acknowledged.
	Reopened int
	sequence uint64
	link     *link.Conn
	wire     net.Conn
	buf      []byte
}

// connect opens a session at a node and answers how far the log is.
func (s *Source) connect(ctx context.Context, node int) (acked uint64, err error) {
	if s.link, err = s.open(ctx, node); err != nil {
		return 0, err
	}
	wire, welcome, err := s.greet(ctx, s.link)
	if err != nil {
		return 0, err
	}
	s.wire = wire
	return welcome.GetAcked(), nil
}

// Sources enrols so many sensors and opens their sessions; they are no part of a Round.
func (f *Fleet) Sources(ctx context.Context, n int) ([]*Source, error) {
	if err := f.Enrol(ctx, n); err != nil {
		return nil, err
	}
	all := make([]*Source, n)
	err := f.each(ctx, "connected", enrolling, n, func(ctx context.Context, i int) (err error) {
		all[i] = &Source{sensor: f.all()[i]}
		all[i].sequence, err = all[i].connect(ctx, i%len(f.cfg.Nodes))
		return err
	})
	if err != nil {
		Close(all)
		return nil, err
	}
	return all, nil
}

// Close ends the sessions of sources.
func Close(all []*Source) {
	for _, s := range all {
		if s != nil && s.link != nil {
			_ = s.link.CloseWithReason(link.CodeOK, "")
		}
	}
}

// ID is the host's.
func (s *Source) ID() string { return s.id }

// Send sends an encoded sensorv1.Summary in a batch of its own, and returns when the
// log has taken it. When the session ends meanwhile (a node that cannot commit in time
// ends it), it opens another one at the next node and sends what that has not.
func (s *Source) Send(ctx context.Context, summary []byte) error {
	s.sequence++
	err := s.sendOnce(ctx, summary)
	for try := 1; err != nil && try < attempts && ctx.Err() == nil; try++ {
		s.Reopened++
		_ = s.link.CloseWithReason(link.CodeOK, "")
		acked, failed := s.connect(ctx, (s.n+try)%len(s.fleet.cfg.Nodes))
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		if acked == s.sequence {
			return nil
		}
		err = s.sendOnce(ctx, summary)
	}
	return err
}

func (s *Source) sendOnce(ctx context.Context, summary []byte) error {
	defer context.AfterFunc(ctx, func() { _ = s.link.CloseWithReason(link.CodeStopped, "the sensor stops") })()
	if err := s.frame(summary); err != nil {
		return err
	}
	_ = s.wire.SetWriteDeadline(time.Now().Add(writeTimeout))
	if _, err := s.wire.Write(s.buf); err != nil {
		return fmt.Errorf("sending a batch: %w", err)
	}
	for {
		var m sensorv1.CoordinatorMessage
		if err := frame.Read(s.wire, &m); err != nil {
			return fmt.Errorf("waiting for an ack: %w", err)
		}
		if m.GetResume() != nil {
			return errors.New("the node asks for what it has acknowledged")
		}
		if ack := m.GetAck(); ack != nil {
			if ack.GetSequence() != s.sequence {
				return fmt.Errorf("sequence %d was acknowledged, %d was sent", ack.GetSequence(), s.sequence)
			}
			return nil
		}
	}
}

// frame puts the next batch, with a summary in it, into buf.
func (s *Source) frame(summary []byte) error {
	batch, err := proto.Marshal(&sensorv1.Batch{Boot: s.boot, Prev: s.sequence - 1})
	if err != nil {
		return err
	}
	record, err := proto.Marshal(&sensorv1.Record{Sequence: s.sequence, Time: time.Now().UnixNano()})
	if err != nil {
		return err
	}
	whole := func(field protowire.Number, bytes int) int {
		return protowire.SizeTag(field) + protowire.SizeBytes(bytes)
	}
	inRecord := len(record) + whole(recordSummary, len(summary))
	inBatch := len(batch) + whole(batchRecords, inRecord)
	begin := func(field protowire.Number, bytes int) {
		s.buf = protowire.AppendVarint(protowire.AppendTag(s.buf, field, protowire.BytesType), uint64(bytes)) //nolint:gosec // a length
	}
	s.buf = binary.BigEndian.AppendUint32(s.buf[:0], uint32(whole(messageBatch, inBatch))) //nolint:gosec // a length
	begin(messageBatch, inBatch)
	s.buf = append(s.buf, batch...)
	begin(batchRecords, inRecord)
	s.buf = append(s.buf, record...)
	begin(recordSummary, len(summary))
	s.buf = append(s.buf, summary...)
	return nil
}
