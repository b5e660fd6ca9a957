package client

import (
	"net"
	"testing"
	"time"
)

// Ensure what a node said when it hung up is heard, although it hung up in the
// middle of what we said.
func TestLastWordIsHeard(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := dial(t.Context(), "tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	node, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("never read, so that hanging up resets the connection")); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := node.Read(one); err != nil {
		t.Fatal(err)
	}
	if _, err := node.Write([]byte("no")); err != nil {
		t.Fatal(err)
	}
	if err := node.Close(); err != nil {
		t.Fatal(err)
	}
	raw := conn.(*hearing).Conn
	for deadline := time.Now().Add(5 * time.Second); ; {
		if _, err := raw.Write(one); err != nil {
			break // what a caller without hearing would have got instead of the word
		}
		if time.Now().After(deadline) {
			t.Fatal("the connection is not reset")
		}
	}
	if _, err := conn.Write(one); err != nil {
		t.Errorf("writing: %v", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	word := make([]byte, 2)
	if n, err := conn.Read(word); err != nil || string(word[:n]) != "no" {
		t.Errorf("got %q, %v", word[:n], err)
	}
	if _, err := conn.Read(word); err == nil {
		t.Error("the end was not told")
	}
}
