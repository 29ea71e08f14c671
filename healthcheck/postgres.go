// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"net"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresOptions are those of a check of PostgreSQL.
type PostgresOptions struct {
	// User logs in; needed. Role and lag want no privileges.
	User     string
	Password Secret
	// Database is that to connect to. "": postgres.
	Database string
	// Security is plain or tls (within the protocol, as libpq has it with sslmode=require).
	Security Security
	TLS      TLSClient
	// Query must have a row, the first column of which contains Expect. "": none.
	Query  string
	Expect Pattern
	// Role is what pg_is_in_recovery() must say: replica or primary. "": any.
	Role string
	// Lag judges replicas: the age of the last transaction that was replayed, 0 if all that was
	// received is. A replica without a WAL receiver does not know its lag.
	Lag LagOptions
	// LagQuery has the lag in seconds as its value, for instance from a table of heartbeats. "": the
	// above.
	LagQuery string
}

type postgresChecker struct {
	identity
	PostgresOptions
	query  sqlQuery
	client *tlsClient
	config *pgconn.Config
}

// NewPostgres is a checker of PostgreSQL: a login, and what else is asked for.
func NewPostgres(o PostgresOptions) (Checker, error) {
	m := mistakes{kind: "postgres"}
	c := &postgresChecker{PostgresOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("postgres", o, c.client.files)
	c.Database = orElse(o.Database, "postgres")
	expect, err := o.Expect.compile()
	m.try("expect", err)
	c.query = sqlQuery{o.Query, expect}
	m.known("security", string(o.Security), "", string(Plain), string(TLS))
	m.known("role", o.Role, "", RolePrimary, RoleReplica)
	o.Lag.check(&m)
	switch {
	case o.User == "":
		m.add("user", "missing")
	case o.Query == "" && !o.Expect.isZero():
		m.add("query", "missing beside expect")
	case o.LagQuery != "" && o.Lag.isZero():
		m.add("lag", "missing: nothing is done with a lag query")
	case o.Role == RolePrimary && !o.Lag.isZero():
		m.add("lag", "a primary has none")
	}
	// The library insists on making the configuration itself, of libpq's variables too.
	c.config, err = pgconn.ParseConfig("")
	m.try("environment", err)
	return c, m.err()
}

// Check is Checker's.
func (c *postgresChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		s, err := c.login(p)
		if err != nil {
			return Result{}, explainPostgres(err)
		}
		r, err := c.ask(p, s)
		return r, explainPostgres(err)
	})
}

// postgresServer is a connection that is logged in.
type postgresServer struct {
	conn *pgconn.PgConn
}

// maxMessage is how long a message of the server's can be, in bytes.
const maxMessage = 256 << 10

func (c *postgresChecker) login(p *probe) (*postgresServer, error) {
	s := &postgresServer{}
	config := c.config.Copy()
	config.Host, config.Port = p.target.Address.Addr().String(), p.target.Address.Port()
	config.User, config.Password, config.Database = c.User, c.Password.value, c.Database
	config.Fallbacks, config.ConnectTimeout, config.TLSConfig = nil, 0, nil
	config.RuntimeParams = map[string]string{"application_name": "director-healthcheck"}
	config.ValidateConnect, config.AfterConnect = nil, nil
	config.MaxProtocolMessageBodyLen = maxMessage
	if c.Security == TLS {
		config.TLSConfig = p.inLibrary(c.client)
	}
	dialled := false
	config.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		if dialled { // to cancel queries, which ending the connection does as well
			return nil, errors.New("one connection is enough")
		}
		dialled = true
		return c.dial(p)
	}
	// The library ends broken connections in a goroutine, which ends when the socket below is closed.
	p.closeLater(closerFunc(s.wait))
	var err error
	if s.conn, err = pgconn.ConnectConfig(p.ctx, config); err != nil {
		return nil, err
	}
	p.closeLater(closerFunc(func() { s.conn.Close(p.ctx) }))
	return s, nil
}

// wait returns when nothing of the connection runs any more.
func (s *postgresServer) wait() {
	if s.conn != nil {
		<-s.conn.CleanupDone()
	}
}

// dial connects. Servers answer with a message for the login (authentication, error, notice, other
// version) or with one letter about TLS.
func (c *postgresChecker) dial(p *probe) (net.Conn, error) {
	conn, err := p.dial("tcp")
	if err != nil {
		return nil, err
	}
	p.enter(layer7, "login")
	first := "RENv"
	if c.Security == TLS {
		first = "SNE"
	}
	return &protocolConn{Conn: conn, protocol: "PostgreSQL's protocol", first: first}, nil
}

// query is sqlServer's.
func (s *postgresServer) query(ctx context.Context, text string) (found []sqlRow, err error) {
	results, err := s.conn.Exec(ctx, text).ReadAll()
	if err != nil || len(results) == 0 {
		return nil, err
	}
	last := results[len(results)-1]
	var columns []string
	for _, f := range last.FieldDescriptions {
		columns = append(columns, f.Name)
	}
	for _, row := range last.Rows {
		values := make([]*string, len(row))
		for i, v := range row {
			if v != nil {
				text := string(v)
				values[i] = &text
			}
		}
		found = append(found, sqlRow{columns, values})
	}
	return found, nil
}

// ask does all that comes after the login.
func (c *postgresChecker) ask(p *probe, s sqlServer) (Result, error) {
	if err := c.query.run(p, s); err != nil {
		return Result{}, err
	}
	if c.Role == "" && c.Lag.isZero() {
		return good(L7OK, "logged in"), nil
	}
	p.enter(layer7, "pg_is_in_recovery")
	rows, err := s.query(p.ctx, "SELECT pg_is_in_recovery()")
	if err != nil {
		return Result{}, err
	}
	if len(rows) == 0 {
		return Result{}, fail(L7RSP, 0, "pg_is_in_recovery: no row")
	}
	role, told := RolePrimary, rows[0].text("pg_is_in_recovery")
	if told == "t" {
		role = RoleReplica
	}
	if err := checkRole(c.Role, role, "pg_is_in_recovery="+told); err != nil {
		return Result{}, err
	}
	if role == RolePrimary || c.Lag.isZero() {
		return good(L7OK, "%s", role), nil
	}
	return c.lag(p, s)
}

// replayLag is 0 when all that was received is replayed: without writes there are no new transactions.
const replayLag = `SELECT CASE
	WHEN NOT EXISTS (SELECT FROM pg_stat_wal_receiver) THEN NULL
	WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() THEN 0
	ELSE extract(epoch FROM now() - pg_last_xact_replay_timestamp()) END`

func (c *postgresChecker) lag(p *probe, s sqlServer) (Result, error) {
	if c.LagQuery != "" {
		return lagOf(p, s, c.Lag, c.LagQuery, "lag query")
	}
	return lagOf(p, s, c.Lag, replayLag, "replay lag")
}

// explainPostgres puts the library's errors into words.
func explainPostgres(err error) error {
	if err == nil {
		return nil
	}
	if said, ok := errors.AsType[*pgconn.PgError](err); ok {
		return fail(L7STS, 0, "%s %s: %s", said.Severity, said.Code, said.Message)
	}
	if _, ok := errors.AsType[*failure](err); ok || isTimeout(err) {
		return err
	}
	err = innermost(err)
	if strings.Contains(err.Error(), "server refused TLS") {
		return fail(L6RSP, 0, "the server does not offer TLS")
	}
	return err
}

// innermost is the error that all others wrap, the first where there are several.
func innermost(err error) error {
	for {
		switch wrapper := err.(type) {
		case interface{ Unwrap() error }:
			if wrapper.Unwrap() == nil {
				return err
			}
			err = wrapper.Unwrap()
		case interface{ Unwrap() []error }:
			err = wrapper.Unwrap()[0]
		default:
			return err
		}
	}
}
