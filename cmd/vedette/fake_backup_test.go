package main

import (
	"bytes"
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/vedette-edr/vedette/proto/backup"
	"github.com/vedette-edr/vedette/proto/link/linktest"
	"github.com/vedette-edr/vedette/proto/operatorv1"
)

// Backup sends one in two pieces. Mode "torn" ends in its middle, "flipped" changes a
// bit, "leaky" gives the key to whoever asks.
func (f *fake) Backup(_ context.Context, r *operatorv1.BackupRequest, stream *connect.ServerStream[operatorv1.BackupResponse]) error {
	m := backup.Manifest{ClusterID: linktest.Cluster, Node: "n1", Time: time.Unix(0, at(600)).UTC(), Version: "1.2.3", Index: 42, Term: 3,
		Rows: map[string]uint64{"hosts": 7, "audit_entries": 2}, Authority: "A", Operators: "O"}
	if r.GetIdentity() || f.is("leaky") {
		m.AuthorityKey = "the key"
	}
	if f.is("other-cluster") {
		m.ClusterID = "c-other"
	}
	var out bytes.Buffer
	w, err := backup.NewWriter(&out, m)
	if err != nil {
		return err
	}
	if _, err := w.Write(bytes.Repeat([]byte("state"), 1000)); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	text := out.Bytes()
	switch {
	case f.is("torn"):
		text = text[:len(text)-40]
	case f.is("flipped"):
		text[len(text)-100] ^= 1
	}
	for _, piece := range [][]byte{text[:10], text[10:]} {
		if err := stream.Send(&operatorv1.BackupResponse{Data: piece}); err != nil {
			return err
		}
	}
	return nil
}
