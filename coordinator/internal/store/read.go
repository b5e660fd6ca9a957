package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// A page holds at most MaxPage rows; 0 asks for DefaultPage.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Page says which part of a list to read: a size (bounded) and the token that
// the previous part ended with, empty for the first.
type Page struct {
	Size  uint32
	Token string
}

func (p Page) limit() int {
	switch {
	case p.Size == 0:
		return DefaultPage
	case p.Size > MaxPage:
		return MaxPage
	}
	return int(p.Size)
}

// before is the row number that the page ends before; lists are newest first.
func (p Page) before() (int64, error) {
	if p.Token == "" {
		return int64(1)<<62 - 1, nil
	}
	n, err := strconv.ParseInt(p.Token, 36, 64)
	if err != nil || n < 0 {
		return 0, ErrBadPage
	}
	return n, nil
}

func pageToken(n int64) string { return strconv.FormatInt(n, 36) }

// CommittedIndex is the applied index as a reader sees it: what was read before is in it.
func (db *DB) CommittedIndex(ctx context.Context) (index uint64, err error) {
	err = db.each(ctx, func(s scanner) error { return s.Scan(&index) }, "SELECT idx FROM applied")
	return index, err
}

// scanner is a row of database/sql.
type scanner interface{ Scan(...any) error }

// read holds the database open during fn, so that Restore and Close wait.
func (db *DB) read(fn func(*sql.DB) error) error {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if db.closed {
		return ErrClosed
	}
	return fn(db.pool)
}

// explained sees every query in a test, which asks how SQLite would answer it.
var explained func(q string, args []any)

// each calls get for every row of q.
func (db *DB) each(ctx context.Context, get func(scanner) error, q string, args ...any) error {
	if explained != nil {
		explained(q, args)
	}
	return db.read(func(pool *sql.DB) (err error) {
		rows, err := pool.QueryContext(ctx, steady(q), args...)
		if err != nil {
			return fmt.Errorf("reading state: %w", err)
		}
		defer func() { err = errors.Join(err, rows.Close()) }()
		for rows.Next() {
			if err := get(rows); err != nil {
				return fmt.Errorf("reading state: %w", err)
			}
		}
		return rows.Err()
	})
}

// paged reads one page of q, which selects the row number first, newest first,
// and ends in "LIMIT ?"; it asks for one row more to know whether there is a next page.
func paged[T any](ctx context.Context, db *DB, p Page, get func(scanner, *int64) (T, error), q string, args ...any) ([]T, string, error) {
	limit := p.limit()
	var out []T
	var last int64
	more := false
	err := db.each(ctx, func(s scanner) error {
		if len(out) == limit {
			more = true
			return nil
		}
		row, err := get(s, &last)
		if err == nil {
			out = append(out, row)
		}
		return err
	}, q, append(args, limit+1)...)
	if err != nil || !more {
		return out, "", err
	}
	return out, pageToken(last), nil
}

// protoColumn scans a column that holds a message.
type protoColumn struct{ m proto.Message }

// Scan implements sql.Scanner.
func (c protoColumn) Scan(v any) error {
	b, ok := v.([]byte)
	if !ok && v != nil {
		return fmt.Errorf("column holds %T, want a blob", v)
	}
	return proto.Unmarshal(b, c.m)
}

// empty says whether a scanned message was an empty blob.
func empty(m protoreflect.ProtoMessage) bool { return proto.Size(m) == 0 }

// labelsColumn scans a column that holds labels.
type labelsColumn struct{ to *map[string]string }

// Scan implements sql.Scanner.
func (c labelsColumn) Scan(v any) error {
	b, _ := v.([]byte)
	return decodeLabels(b, c.to)
}
