package store

import (
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sort"

	sqlite3 "github.com/mattn/go-sqlite3"

	"github.com/vedette-edr/vedette/coordinator/internal/failpoint"
)

// Migrations are applied in the order of their numbers and never edited once
// released; user_version holds the number of the last one.
//
//go:embed migrations/*.sql
var migrations embed.FS

func migrate(c *sqlite3.SQLiteConn) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	sort.Strings(names)
	have, err := queryInt(c, "PRAGMA user_version")
	if err != nil {
		return err
	}
	if have > int64(len(names)) {
		return fmt.Errorf("state has schema %d, this program knows %d: start the newer vedette-coordinator", have, len(names))
	}
	for i, name := range names {
		if int64(i) < have {
			continue
		}
		text, err := migrations.ReadFile(name)
		if err != nil {
			return err
		}
		failpoint.Hit("migrate.before")
		if err := apply(c, name, string(text), i+1); err != nil {
			if !c.AutoCommit() {
				_, _ = c.Exec("ROLLBACK", nil)
			}
			return fmt.Errorf("applying %s: %w", name, err)
		}
		failpoint.Hit("migrate.after")
	}
	return nil
}

// apply does one migration, in a transaction of its own.
func apply(c *sqlite3.SQLiteConn, name, text string, version int) error {
	if _, err := c.Exec("BEGIN IMMEDIATE;\n"+text, nil); err != nil {
		return err
	}
	if fill := fills[name]; fill != nil {
		if err := fill(c); err != nil {
			return err
		}
	}
	_, err := c.Exec(fmt.Sprintf("PRAGMA user_version = %d;\nCOMMIT;", version), nil)
	return err
}

// checkSchema refuses a state that a later release has made.
func checkSchema(c *sqlite3.SQLiteConn) error {
	names, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	have, err := queryInt(c, "PRAGMA user_version")
	if err != nil {
		return fmt.Errorf("%w: reading schema: %w", ErrSnapshot, err)
	}
	if have > int64(len(names)) {
		return fmt.Errorf("%w: it has schema %d, this release knows %d", ErrNewer, have, len(names))
	}
	return nil
}

func readApplied(c *sqlite3.SQLiteConn) (uint64, error) {
	n, err := queryInt(c, "SELECT idx FROM applied")
	return uint64(n), err
}

func queryInt(c *sqlite3.SQLiteConn, q string) (int64, error) {
	var n int64
	found := false
	err := query(c, q, func(v []driver.Value) error {
		found = true
		n = asInt(v[0])
		return nil
	})
	if err == nil && !found {
		err = fmt.Errorf("%q has no row", q)
	}
	return n, err
}

func query(c *sqlite3.SQLiteConn, q string, each func([]driver.Value) error) (err error) {
	return queryWith(c, q, nil, each)
}

func queryWith(c *sqlite3.SQLiteConn, q string, args []driver.Value, each func([]driver.Value) error) (err error) {
	rows, err := c.Query(q, args)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	return eachRow(rows, each)
}

func eachRow(rows driver.Rows, each func([]driver.Value) error) error {
	v := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(v); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := each(v); err != nil {
			return err
		}
	}
}

func asInt(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

func asText(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

// asBlob copies: the driver reuses its buffers.
func asBlob(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return append([]byte{}, v...)
	case string:
		return []byte(v)
	}
	return []byte{}
}
