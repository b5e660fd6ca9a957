package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strings"
)

// Digest is the SHA-256 of every row of every table, in the order of their
// keys, in hex. The same log gives the same digest on every node; it reads the
// whole state, so it is for tests and for comparing nodes.
func (db *DB) Digest(ctx context.Context) (digest string, err error) {
	err = db.read(func(pool *sql.DB) (err error) {
		tx, err := pool.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return fmt.Errorf("beginning digest: %w", err)
		}
		defer func() { _ = tx.Rollback() }()
		h := sha256.New()
		tables, err := column(ctx, tx, "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name")
		if err != nil {
			return err
		}
		for _, table := range tables {
			if err := digestTable(ctx, tx, h, table); err != nil {
				return fmt.Errorf("digesting %s: %w", table, err)
			}
		}
		digest = hex.EncodeToString(h.Sum(nil))
		return nil
	})
	return digest, err
}

func column(ctx context.Context, tx *sql.Tx, q string, args ...any) (out []string, err error) {
	rows, err := tx.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, rows.Err()
}

func digestTable(ctx context.Context, tx *sql.Tx, h hash.Hash, table string) (err error) {
	keys, err := column(ctx, tx, "SELECT name FROM pragma_table_info(?) WHERE pk > 0 ORDER BY pk", table)
	if err != nil {
		return err
	}
	rows, err := tx.QueryContext(ctx, `SELECT * FROM "`+table+`" ORDER BY "`+strings.Join(keys, `", "`)+`"`)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names, err := rows.Columns()
	if err != nil {
		return err
	}
	values := make([]any, len(names))
	into := make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	write(h, 't', []byte(table))
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		for _, v := range values {
			switch v := v.(type) {
			case int64:
				write(h, 'i', binary.BigEndian.AppendUint64(nil, uint64(v)))
			case string:
				write(h, 's', []byte(v))
			case []byte:
				write(h, 'b', v)
			default:
				return fmt.Errorf("column holds %T", v)
			}
		}
	}
	return rows.Err()
}

func write(h hash.Hash, kind byte, b []byte) {
	_, _ = h.Write(binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(b))))
	_, _ = h.Write(b)
}
