// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"bufio"
	"context"
	"crypto/tls"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/go-sql-driver/mysql"
)

// MySQLOptions are those of a check of MySQL and MariaDB.
type MySQLOptions struct {
	// User logs in; needed. Role, lag and Galera want no more privileges than REPLICATION CLIENT (MariaDB:
	// REPLICA MONITOR), the heartbeat table SELECT on it.
	User     string
	Password Secret
	Database string
	// Security is plain or tls (within the protocol, as MySQL has it).
	Security Security
	TLS      TLSClient
	// Query must have a row, the first column of which contains Expect. "": none.
	Query  string
	Expect Pattern
	// Role is what read_only, super_read_only and innodb_read_only must say: replica (one is on) or
	// primary (none is). "": any.
	Role string
	// Lag judges servers other than primaries. It is read from SHOW REPLICA STATUS unless LagQuery or
	// Heartbeat say otherwise.
	Lag LagOptions
	// Stopped is what becomes of a replica whose I/O or SQL thread is stopped: down, reserve or up.
	// "": as Lag.Unknown. It does not matter where the lag is not read from SHOW REPLICA STATUS.
	Stopped string
	// Channel is the replication channel (MariaDB: connection) that is looked at. "": the worst of all.
	Channel string
	// LagQuery has the lag in seconds as its value. "": none.
	LagQuery string
	// Heartbeat is a table with times that the primary writes, as pt-heartbeat does. "": none.
	Heartbeat string
	// HeartbeatColumn is its column. "": ts.
	HeartbeatColumn string
	// HeartbeatUTC says that the times are UTC, not the server's local time.
	HeartbeatUTC bool
	// Galera is the state that a node of a cluster must be in: synced, or donor (synced or donor). "":
	// it is not looked at.
	Galera string
}

type mysqlChecker struct {
	identity
	MySQLOptions
	query  sqlQuery
	client *tlsClient
}

// NewMySQL is a checker of MySQL and MariaDB: a login, and what else is asked for.
func NewMySQL(o MySQLOptions) (Checker, error) {
	m := mistakes{kind: "mysql"}
	c := &mysqlChecker{MySQLOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("mysql", o, c.client.files)
	c.HeartbeatColumn = orElse(o.HeartbeatColumn, "ts")
	c.Stopped = orElse(o.Stopped, o.Lag.Unknown)
	expect, err := o.Expect.compile()
	m.try("expect", err)
	c.query = sqlQuery{o.Query, expect}
	c.validate(&m)
	return c, m.err()
}

func (c *mysqlChecker) validate(m *mistakes) {
	m.known("security", string(c.Security), "", string(Plain), string(TLS))
	m.known("role", c.Role, "", RolePrimary, RoleReplica)
	m.known("galera", c.Galera, "", galeraSynced, galeraDonor)
	m.known("stopped", c.Stopped, unknownPolicies...)
	c.Lag.check(m)
	checkName(m, "heartbeat", c.Heartbeat)
	checkName(m, "heartbeat column", c.HeartbeatColumn)
	switch {
	case c.User == "":
		m.add("user", "missing")
	case c.Query == "" && !c.Expect.isZero():
		m.add("query", "missing beside expect")
	case c.LagQuery != "" && c.Heartbeat != "":
		m.add("heartbeat", "there is a lag query too: only one can be")
	case c.Channel != "" && (c.LagQuery != "" || c.Heartbeat != ""):
		m.add("channel", "the lag is not read from SHOW REPLICA STATUS")
	case !c.wantsLag() && (c.LagQuery != "" || c.Heartbeat != "" || c.Channel != ""):
		m.add("lag", "missing: nothing is done with a heartbeat, a lag query or a channel")
	case c.Role == RolePrimary && c.wantsLag():
		m.add("lag", "a primary has none")
	}
}

// wantsLag tells whether replication is looked at.
func (c *mysqlChecker) wantsLag() bool { return !c.Lag.isZero() || c.MySQLOptions.Stopped != "" }

// Check is Checker's.
func (c *mysqlChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		s, err := c.login(p)
		if err != nil {
			return Result{}, c.explain(err)
		}
		r, err := c.ask(p, s)
		return r, c.explain(err)
	})
}

// mysqlServer is a connection that is logged in.
type mysqlServer struct {
	conn driver.Conn
}

// login uses the driver without database/sql, whose retries and pools a check must not have.
func (c *mysqlChecker) login(p *probe) (*mysqlServer, error) {
	s := &mysqlServer{}
	config := mysql.NewConfig()
	config.User, config.Passwd, config.DBName = c.User, c.Password.value, c.Database
	config.Net, config.Addr = "tcp", p.target.Address.String()
	config.Logger = &mysql.NopLogger{}
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) { return dialMySQL(p) }
	if c.Security == TLS {
		config.TLS = p.inLibrary(c.client)
	}
	connector, err := mysql.NewConnector(config)
	if err != nil {
		return nil, err
	}
	if s.conn, err = connector.Connect(p.ctx); err != nil {
		return nil, err
	}
	p.closeLater(s.conn)
	return s, nil
}

// maxHandshake is how long a server's first packet can be, in bytes; real ones have about a hundred.
const maxHandshake = 4096

// dialMySQL connects and looks at the first packet's header, because the driver would make room for up
// to 16 MiB.
func dialMySQL(p *probe) (net.Conn, error) {
	conn, err := p.dial("tcp")
	if err != nil {
		return nil, err
	}
	p.enter(layer7, "handshake packet")
	r := bufio.NewReader(conn)
	header, err := r.Peek(4)
	if err != nil {
		if errors.Is(err, io.EOF) && len(header) > 0 {
			return nil, fail(L7RSP, 0, "handshake packet: the server closed the connection after %s", excerpt(header))
		}
		return nil, err
	}
	if n := int(header[0]) | int(header[1])<<8 | int(header[2])<<16; n > maxHandshake || n == 0 || header[3] != 0 {
		said, _ := r.Peek(min(r.Buffered(), maxExcerpt))
		return nil, fail(L7RSP, 0, "handshake packet: the server does not speak MySQL's protocol, it says %s", excerpt(said))
	}
	p.enter(layer7, "login")
	return &peekedConn{conn, r}, nil
}

// peekedConn is a connection of which something was read already.
type peekedConn struct {
	net.Conn
	r *bufio.Reader
}

// Read is net.Conn's.
func (c *peekedConn) Read(b []byte) (int, error) { return c.r.Read(b) }

// query is sqlServer's.
func (s *mysqlServer) query(ctx context.Context, text string) (found []sqlRow, err error) {
	rows, err := s.conn.(driver.QueryerContext).QueryContext(ctx, text, nil)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		switch err := rows.Next(row); {
		case errors.Is(err, io.EOF):
			return found, nil
		case err != nil:
			return nil, err
		}
		values := make([]*string, len(row))
		for i, v := range row {
			values[i] = sqlValue(v)
		}
		found = append(found, sqlRow{rows.Columns(), values})
	}
}

// sqlValue is a driver's value as text.
func sqlValue(v driver.Value) *string {
	var text string
	switch v := v.(type) {
	case nil:
		return nil
	case []byte:
		text = string(v)
	default:
		text = fmt.Sprint(v)
	}
	return &text
}

// explain puts the driver's errors into words.
func (c *mysqlChecker) explain(err error) error {
	if said, ok := errors.AsType[*mysql.MySQLError](err); ok {
		return fail(L7STS, int(said.Number), "%s", said.Message)
	}
	header, noTLS := errors.AsType[tls.RecordHeaderError](err)
	switch {
	case errors.Is(err, mysql.ErrNoTLS):
		return fail(L6RSP, 0, "the server does not offer TLS")
	case noTLS:
		return explainTLS(header)
	case errors.Is(err, mysql.ErrMalformPkt):
		return fail(L7RSP, 0, "login: the server does not speak MySQL's protocol: malformed packet")
	case errors.Is(err, driver.ErrBadConn), errors.Is(err, mysql.ErrInvalidConn):
		return fmt.Errorf("%w", io.EOF)
	default:
		return err
	}
}
