// Package proto is the only place where sensor and coordinator meet: the
// messages (generated from vedette/*.proto), their framing and the link that
// carries them.
package proto

//go:generate buf generate --template ../buf.gen.yaml ..
