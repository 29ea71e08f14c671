// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"xdplvs/director"
)

// Client asks a daemon. Its methods may be called from several goroutines at once.
type Client struct {
	http  *http.Client
	base  url.URL // scheme and host
	token string
}

// answerTimeout is how long the daemon may think before its answer begins.
const answerTimeout = 30 * time.Second

// ConnectError says that nobody can be asked on the socket.
type ConnectError struct {
	Path string
	Err  error // the system's: ENOENT, ECONNREFUSED, EACCES …
}

// Error is connect to PATH: cause.
func (e *ConnectError) Error() string { return fmt.Sprintf("connect to %s: %v", e.Path, e.Err) }

// Unwrap gives the system's error.
func (e *ConnectError) Unwrap() error { return e.Err }

// Dial makes a client for the socket at path. It connects when it is first asked.
func Dial(path string) *Client {
	var dialer net.Dialer
	return &Client{base: url.URL{Scheme: "http", Host: "director"}, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			c, err := dialer.DialContext(ctx, "unix", path)
			if err != nil {
				return nil, &ConnectError{Path: path, Err: cause(err)}
			}
			return c, nil
		},
		DisableCompression:    true,
		ResponseHeaderTimeout: answerTimeout,
		IdleConnTimeout:       idleTimeout / 2, // before the server's, which would race with a request
	}}}
}

// Close closes the connection that waits for the next question.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Snapshot is the daemon's newest state.
func (c *Client) Snapshot(ctx context.Context) (*director.Snapshot, error) {
	s := &director.Snapshot{}
	return s, c.call(ctx, http.MethodGet, pathSnapshot, nil, nil, s)
}

// Version is the daemon's version.
func (c *Client) Version(ctx context.Context) (string, error) {
	var body versionBody
	err := c.call(ctx, http.MethodGet, pathVersion, nil, nil, &body)
	return body.Version, err
}

// Reload makes the daemon read its configuration again. An *Error's text has
// one line for each mistake.
func (c *Client) Reload(ctx context.Context) error {
	return c.call(ctx, http.MethodPost, pathReload, nil, nil, &struct{}{})
}

// Timeouts are those in force.
func (c *Client) Timeouts(ctx context.Context) (t director.Timeouts, err error) {
	err = c.call(ctx, http.MethodGet, pathTimeouts, nil, nil, &t)
	return t, err
}

// SetTimeouts changes those that are not 0 until the configuration is read again,
// and returns all that are in force then.
func (c *Client) SetTimeouts(ctx context.Context, change director.Timeouts) (t director.Timeouts, err error) {
	err = c.call(ctx, http.MethodPatch, pathTimeouts, nil, change, &t)
	return t, err
}

// Defense is what the defenses do.
func (c *Client) Defense(ctx context.Context) (s director.DefenseState, err error) {
	err = c.call(ctx, http.MethodGet, pathDefense, nil, nil, &s)
	return s, err
}

// SetDefense changes settings until the configuration is read again, and returns what the defenses do then.
func (c *Client) SetDefense(ctx context.Context, change director.DefenseChange) (s director.DefenseState, err error) {
	err = c.call(ctx, http.MethodPatch, pathDefense, nil, change, &s)
	return s, err
}

// DefenseReport tells who has sent most, and what became of it.
func (c *Client) DefenseReport(ctx context.Context) (r director.DefenseReport, err error) {
	err = c.call(ctx, http.MethodGet, pathReport, nil, nil, &r)
	return r, err
}

// Addresses are the virtual addresses as they are held.
func (c *Client) Addresses(ctx context.Context) (list director.AddressList, err error) {
	err = c.call(ctx, http.MethodGet, pathAddresses, nil, nil, &list)
	return list, err
}

// Health is that of the services that are checked.
func (c *Client) Health(ctx context.Context) (list director.HealthList, err error) {
	err = c.call(ctx, http.MethodGet, pathHealth, nil, nil, &list)
	return list, err
}

// HealthHistory is what became of the real servers that a text means, of one service or, if that is
// empty, all.
func (c *Client) HealthHistory(ctx context.Context, real, service string) (all []director.HealthHistory, err error) {
	query := url.Values{"real": {real}}
	if service != "" {
		query.Set("service", service)
	}
	err = c.call(ctx, http.MethodGet, pathHistory, query, nil, &all)
	return all, err
}

// OrderHealth sets the condition of real servers by hand, and returns of how many.
func (c *Client) OrderHealth(ctx context.Context, order director.HealthOrder) (int, error) {
	var body orderedBody
	err := c.call(ctx, http.MethodPost, pathOrder, nil, order, &body)
	return body.Ordered, err
}

// Explain tells what would become of a packet; nothing changes by it.
func (c *Client) Explain(ctx context.Context, q director.Question) (*director.Explanation, error) {
	var e director.Explanation
	if err := c.call(ctx, http.MethodPost, pathExplain, nil, q, &e); err != nil {
		return nil, err
	}
	return &e, nil
}

// Entries are what a connection table has: connections, or templates.
type Entries struct {
	client      *Client
	path, count string
}

// Connections are the connections of clients.
func (c *Client) Connections() Entries { return Entries{c, pathConnections, pathCount} }

// Templates are what persistence remembers.
func (c *Client) Templates() Entries { return Entries{c, pathPersistence, pathTemplates} }

// Count counts those that the filter lets through; the empty one lets all.
func (e Entries) Count(ctx context.Context, filter string) (uint64, error) {
	var body countBody
	err := e.client.call(ctx, http.MethodGet, e.count, filterQuery(filter), nil, &body)
	return body.Count, err
}

// Delete ends those that the filter lets through, which must not be empty, and
// returns how many.
func (e Entries) Delete(ctx context.Context, filter string) (uint64, error) {
	return e.delete(ctx, filterQuery(filter))
}

// DeleteAll ends all, and returns how many those were.
func (e Entries) DeleteAll(ctx context.Context) (uint64, error) {
	return e.delete(ctx, url.Values{"all": {"true"}})
}

func (e Entries) delete(ctx context.Context, query url.Values) (uint64, error) {
	var body deletedBody
	err := e.client.call(ctx, http.MethodDelete, e.path, query, nil, &body)
	return body.Deleted, err
}

// List calls yield for each one that the filter lets through, in the table's
// order, and stops at its first error. The *Conn is void when yield returns. An
// error means that some are missing.
func (e Entries) List(ctx context.Context, filter string, yield func(*director.Conn) error) error {
	resp, err := e.client.do(ctx, http.MethodGet, e.path, filterQuery(filter), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return readConns(resp.Body, yield)
}

func readConns(r io.Reader, yield func(*director.Conn) error) error {
	lines := bufio.NewReaderSize(r, streamChunk)
	var d decoder
	var conn director.Conn
	for {
		line, err := lines.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return fmt.Errorf("read connections: %w", err)
		}
		if err := d.decode(bytes.TrimSuffix(line, []byte("\n")), &conn); err != nil {
			return fmt.Errorf("read connections: %w", err)
		}
		if err := yield(&conn); err != nil {
			return err
		}
	}
}

func filterQuery(filter string) url.Values {
	if filter == "" {
		return nil
	}
	return url.Values{"filter": {filter}}
}

// call asks, with what is sent as JSON unless it is nil, and decodes the answer into body.
func (c *Client) call(ctx context.Context, method, path string, query url.Values, send, body any) error {
	resp, err := c.do(ctx, method, path, query, send)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(body); err != nil {
		return fmt.Errorf("read answer to %s: %w", path, err)
	}
	return nil
}

// do asks. An answer other than 200 is an error.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, send any) (*http.Response, error) {
	var content io.Reader
	if send != nil {
		text, err := json.Marshal(send)
		if err != nil {
			return nil, fmt.Errorf("ask %s: %w", path, err)
		}
		content = bytes.NewReader(text)
	}
	return c.send(ctx, method, path, query, content)
}

// send is do with a body that is given as it is.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, content io.Reader) (*http.Response, error) {
	where := c.base
	where.Path, where.RawQuery = path, query.Encode()
	req, err := http.NewRequestWithContext(ctx, method, where.String(), content)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", path, err)
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, askError(path, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		return nil, answerError(resp)
	}
	return resp, nil
}

// askError takes off what net/http puts around: the URL means nothing here.
func askError(path string, err error) error {
	var connect *ConnectError
	if errors.As(err, &connect) && connect.Err != context.Canceled {
		return connect
	}
	var setup *setupError
	if errors.As(err, &setup) {
		return setup.error
	}
	var outer *url.Error
	if errors.As(err, &outer) {
		err = outer.Err
	}
	return fmt.Errorf("ask %s: %w", path, err)
}

// answerError reads the daemon's error. A daemon of another version, or no
// director at all, may answer something else.
func answerError(resp *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("read error %s: %w", resp.Status, err)
	}
	var body errorBody
	if json.Unmarshal(text, &body) != nil || body.Error == "" {
		return &Error{Status: resp.StatusCode, Message: "the daemon answered " + resp.Status}
	}
	return &Error{Status: resp.StatusCode, Message: body.Error, Fault: body.Fault, Index: body.Index}
}
