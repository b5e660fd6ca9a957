package store

import (
	"bytes"
)

// Forget removes a host's sightings that were last seen before a time, at most so many, in the order
// of their keys; the fleet's count of each goes down, and a behaviour that no host shows any
// more goes. It answers how many went.
func (tx *Tx) Forget(host, before int64, most int) (gone int, err error) {
	have, err := tx.behaviours(host)
	if err != nil {
		return 0, err
	}
	shelves := make(map[int64][]byte)
	var order []int64
	var forgotten [][]byte
	var kept []byte
	if err := tx.rows("SELECT n, body FROM sightings WHERE n BETWEEN ? AND ? ORDER BY n", func(v []val) error {
		body, was := asBytes(v[1]), len(forgotten)
		from := len(kept)
		for len(body) > 0 {
			s, rest, err := next(body)
			if err != nil {
				return err
			}
			if s.last() < before && len(forgotten) < most {
				forgotten = append(forgotten, bytes.Clone(s.key()))
			} else {
				kept = append(kept, s...)
			}
			body = rest
		}
		if len(forgotten) > was {
			shelves[asInt(v[0])] = bytes.Clone(kept[from:])
			order = append(order, asInt(v[0]))
		}
		return nil
	}, shelfRow(host, 0), shelfRow(host+1, 0)-1); err != nil || len(forgotten) == 0 {
		return 0, err
	}
	left := have - len(forgotten)
	if level(left) == level(have) {
		err = tx.rewrite(order, shelves)
	} else {
		// As if the host had never shown them: shelves follow from what they hold alone.
		if _, err = tx.exec("DELETE FROM sightings WHERE n BETWEEN ? AND ?", shelfRow(host, 0), shelfRow(host+1, 0)-1); err == nil {
			err = shelve(kept, level(left), func(shelf int, part []byte) error { return tx.setShelf(host, shelf, part) })
		}
	}
	if err != nil {
		return 0, err
	}
	for _, key := range forgotten {
		if _, err := tx.exec("UPDATE behaviours SET hosts = hosts - 1 WHERE key = ?", key); err != nil {
			return 0, err
		}
		if _, err := tx.exec("DELETE FROM behaviours WHERE key = ? AND hosts <= 0", key); err != nil {
			return 0, err
		}
	}
	if _, err := tx.exec("UPDATE hosts SET behaviours = ? WHERE n = ?", int64(left), host); err != nil {
		return 0, err
	}
	tx.db.hot.setBehaviours(host, left)
	return len(forgotten), nil
}

func (tx *Tx) rewrite(order []int64, shelves map[int64][]byte) error {
	for _, n := range order {
		q, args := "UPDATE sightings SET body = ? WHERE n = ?", []val{shelves[n], n}
		if len(shelves[n]) == 0 {
			q, args = "DELETE FROM sightings WHERE n = ?", []val{n}
		}
		if _, err := tx.exec(q, args...); err != nil {
			return err
		}
	}
	return nil
}
