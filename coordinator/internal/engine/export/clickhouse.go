package export

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
)

const (
	// maxAnswer bounds what is read of an answer: an INSERT that worked has none.
	maxAnswer = 4 << 10
	// maxShown bounds what of it is told.
	maxShown = 300
)

// clickhouse inserts rows over HTTP, one statement for each batch. The table drops what
// comes twice, see docs/export.md.
type clickhouse struct {
	cfg      *ClickHouseConfig
	url      string
	password string
	client   *http.Client
}

func openClickHouse(cfg *ClickHouseConfig) (Sink, error) {
	secure, err := cfg.TLS.client()
	if err != nil {
		return nil, err
	}
	c := &clickhouse{cfg: cfg, url: cfg.statement()}
	if cfg.PasswordFile != "" {
		if c.password, err = readSecret(cfg.PasswordFile); err != nil {
			return nil, err
		}
	}
	c.client = &http.Client{
		Transport: &http.Transport{DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, TLSClientConfig: secure, TLSHandshakeTimeout: dialTime,
			MaxIdleConnsPerHost: 1, MaxResponseHeaderBytes: 64 << 10},
		// The password would go along.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return c, nil
}

func or(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

func (c *ClickHouseConfig) where() string {
	return or(c.Database, "vedette") + "." + or(c.Table, "records")
}

// statement is the URL with the INSERT in it. wait_end_of_query holds the answer back
// until the rows are written, so that its status is the outcome.
func (c *ClickHouseConfig) statement() string {
	q := url.Values{"query": {"INSERT INTO " + c.where() + " FORMAT JSONEachRow"}, "wait_end_of_query": {"1"}, "input_format_skip_unknown_fields": {"1"}}
	return strings.TrimSuffix(c.URL, "/") + "/?" + q.Encode()
}

// Send implements Sink.
func (c *clickhouse) Send(ctx context.Context, records []Record) error {
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	for _, r := range records {
		if err := lines.Encode(r.row()); err != nil {
			return fmt.Errorf("encoding %s: %w", r.ID, err)
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, &body)
	if err != nil {
		return fmt.Errorf("asking ClickHouse: %w", err)
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	if c.cfg.User != "" {
		request.Header.Set("X-ClickHouse-User", c.cfg.User)
		request.Header.Set("X-ClickHouse-Key", c.password)
	}
	answer, err := c.client.Do(request)
	if err != nil {
		var asked *url.Error
		if errors.As(err, &asked) { // without the URL, which is long and known
			err = asked.Err
		}
		if ctx.Err() != nil {
			err = errors.New("no answer in time")
		}
		return c.refused(err, or(ofTLS(err), "look whether it runs at "+c.cfg.URL+" and a firewall lets every node reach it"))
	}
	defer func() { _ = answer.Body.Close() }()
	said, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	switch {
	case answer.StatusCode >= 300 && answer.StatusCode < 400:
		return c.refused(fmt.Errorf("it answers %s", answer.Status), "give the url that it leads to: nothing is followed, as the password would go along")
	case answer.StatusCode != http.StatusOK:
		return c.refused(fmt.Errorf("it answers %s: %s", answer.Status, shown(said)), advice(answer, said, c.cfg))
	case err != nil: // whether the rows are there is not known
		return c.refused(fmt.Errorf("its answer broke off: %w", err), "look at its log")
	case len(bytes.TrimSpace(said)) > 0 || answer.Header.Get("X-ClickHouse-Exception-Code") != "":
		return c.refused(fmt.Errorf("it answers %s, and then: %s", answer.Status, shown(said)), advice(answer, said, c.cfg))
	}
	return nil
}

func (c *clickhouse) refused(err error, advice string) error {
	return &refusal{"inserting into " + c.cfg.where(), err, advice}
}

// advice goes by ClickHouse's own numbers of errors, which stay when its texts change.
func advice(answer *http.Response, said []byte, cfg *ClickHouseConfig) string {
	code := answer.Header.Get("X-ClickHouse-Exception-Code")
	if code == "" {
		if _, rest, ok := bytes.Cut(said, []byte("Code: ")); ok {
			digits := bytes.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
			code = string(rest[:max(digits, 0)])
		}
	}
	switch {
	case code == "60", code == "81":
		return "make " + cfg.where() + " as docs/export.md says"
	case code == "497":
		return "grant the user INSERT on " + cfg.where()
	case code == "192", code == "193", code == "194", code == "516", answer.StatusCode == http.StatusUnauthorized, answer.StatusCode == http.StatusForbidden:
		return "compare user and password_file with what it knows"
	case code == "16", code == "27", code == "53", code == "117":
		return "compare the columns of " + cfg.where() + " with docs/export.md"
	case code == "252":
		return "it merges more slowly than it is written to: look at its disk"
	case code == "241", code == "243", answer.StatusCode >= 500:
		return "look at its log, memory and disk"
	}
	return "look at its log"
}

func shown(said []byte) string {
	if said = bytes.TrimSpace(said); len(said) > maxShown {
		said = said[:maxShown]
	}
	return string(said)
}

// Close implements Sink.
func (c *clickhouse) Close() { c.client.CloseIdleConnections() }
