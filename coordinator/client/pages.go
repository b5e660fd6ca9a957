package client

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
)

// ErrIncomplete is in the error of a list that breaks off behind its beginning: what was
// yielded is right, and not all.
var ErrIncomplete = errors.New("the list is incomplete")

// pages turns a paged call into an iterator that asks for the next page only when the
// caller has used up the last one. Each page may be another node's: a token says where to
// go on, and from which state at least, so that no row comes twice or is passed over.
func pages[T any](ctx context.Context, c *Client, page func(ctx context.Context, token string) ([]T, string, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		token, n := "", 0
		fail := func(err error) {
			var none T
			if token != "" {
				err = fmt.Errorf("%w, it breaks off after row %d: %w", ErrIncomplete, n, err)
			}
			yield(none, err)
		}
		for {
			rows, next, err := onePage(ctx, c.opt.PageTime, token, page)
			if err != nil {
				fail(err)
				return
			}
			for _, row := range rows {
				n++
				if !yield(row, nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if next == token { // it would never end
				fail(errors.New("the node names the same page again"))
				return
			}
			token = next
		}
	}
}

func onePage[T any](ctx context.Context, limit time.Duration, token string, page func(context.Context, string) ([]T, string, error)) ([]T, string, error) {
	if limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, limit)
		defer cancel()
	}
	return page(ctx, token)
}
