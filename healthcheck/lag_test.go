// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-sql-driver/mysql"
)

func TestLagCurve(t *testing.T) {
	o := LagOptions{Curve: []LagPoint{{2 * time.Second, 100}, {10 * time.Second, 20}, {20 * time.Second, 0}}}
	for lag, want := range map[time.Duration]int{0: 100, 2: 100, 4: 80, 6: 60, 10: 20, 15: 10, 20: 0, 1000: 0} {
		if got := o.factor(lag * time.Second); got != want {
			t.Errorf("lag %d s: %d %%, want %d %%", lag, got, want)
		}
	}
	if got := (LagOptions{}).factor(time.Hour); got != 100 {
		t.Errorf("without a curve: %d %%", got)
	}
	m := mistakes{kind: "x"}
	LagOptions{Max: -1, Unknown: "maybe", Curve: []LagPoint{{5, 101}, {5, 0}, {4, 0}}}.check(&m)
	for _, want := range []string{"x check: lag max: -1ns is negative", `x check: lag unknown: unknown "maybe" (known: down, reserve, up)`,
		"x check: lag curve[0]: 101 % is not between 0 and 100", "x check: lag curve[1]: the lag 5ns does not ascend", "x check: lag curve[2]: the lag 4ns does not ascend"} {
		wantError(t, m.err(), want)
	}
}

// fakeSQL is a database by what it answers to the beginnings of queries.
type fakeSQL map[string]any // []sqlRow or error

func (f fakeSQL) query(_ context.Context, text string) ([]sqlRow, error) {
	longest := ""
	for beginning := range f {
		if strings.HasPrefix(text, beginning) && len(beginning) > len(longest) {
			longest = beginning
		}
	}
	switch answer := f[longest].(type) {
	case []sqlRow:
		return answer, nil
	case error:
		return nil, answer
	}
	return nil, &mysql.MySQLError{Number: 1064, Message: "You have an error in your SQL syntax near " + text}
}

// rowsOf makes rows out of lines "name=value name=value"; a value of NULL is NULL.
func rowsOf(lines ...string) (rows []sqlRow) {
	for _, line := range lines {
		var r sqlRow
		for _, field := range strings.Fields(line) {
			name, value, _ := strings.Cut(field, "=")
			r.columns = append(r.columns, name)
			if value = strings.ReplaceAll(value, "_", " "); value == "NULL" {
				r.values = append(r.values, nil)
			} else {
				r.values = append(r.values, &value)
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// variables are rows of SHOW VARIABLES and SHOW STATUS.
func variables(pairs ...string) (rows []sqlRow) {
	for i := 0; i < len(pairs); i += 2 {
		rows = append(rows, sqlRow{[]string{"Variable_name", "Value"}, []*string{&pairs[i], &pairs[i+1]}})
	}
	return rows
}

// askSQL runs what comes after the login.
func askSQL(t *testing.T, session func(p *probe) (Result, error)) Result {
	t.Helper()
	r := run(context.Background(), here, session)
	return r
}

const isReplica, isPrimary = "ON", "OFF"

// TestMySQLReplication has the spellings of MySQL and MariaDB, and every policy.
func TestMySQLReplication(t *testing.T) {
	status := func(io, sql, behind string) []sqlRow {
		return rowsOf(fmt.Sprintf("Replica_IO_Running=%s Replica_SQL_Running=%s Seconds_Behind_Source=%s Last_SQL_Error= Last_IO_Error=", io, sql, behind))
	}
	maria := func(lines ...string) fakeSQL {
		return fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isReplica), "SELECT VERSION()": rowsOf("version=10.11.6-MariaDB-log"), "SHOW ALL SLAVES STATUS": rowsOf(lines...)}
	}
	server := func(status any) fakeSQL {
		return fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isReplica, "super_read_only", isReplica), "SELECT VERSION()": rowsOf("version=8.4.0"), "SHOW REPLICA STATUS": status}
	}
	old := fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isReplica), "SELECT VERSION()": rowsOf("version=5.7.44-log"),
		"SHOW SLAVE STATUS": rowsOf("Slave_IO_Running=Yes Slave_SQL_Running=Yes Seconds_Behind_Master=4")}
	lag := LagOptions{Max: 10 * time.Second}
	withLag := func(o MySQLOptions) MySQLOptions { o.Lag = lag; return o }
	unknown := func(policy string) MySQLOptions { return MySQLOptions{Lag: LagOptions{Unknown: policy}} }
	for _, c := range []struct {
		name    string
		o       MySQLOptions
		s       fakeSQL
		want    string
		lag     time.Duration
		reserve bool
	}{
		{"replica", MySQLOptions{Role: RoleReplica}, server(nil), "up L7OK: replica", 0, false},
		{"no primary", MySQLOptions{Role: RolePrimary}, server(nil), "down L7STS: the server is a replica (read_only=ON, super_read_only=ON), want a primary", 0, false},
		{"primary", MySQLOptions{Role: RolePrimary}, fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isPrimary, "innodb_read_only", "OFF")}, "up L7OK: primary", 0, false},
		{"promoted", MySQLOptions{Role: RoleReplica}, fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isPrimary)}, "down L7STS: the server is a primary (read_only=OFF), want a replica", 0, false},
		{"aurora", MySQLOptions{Role: RoleReplica}, fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", "0", "innodb_read_only", "1")}, "up L7OK: replica", 0, false},
		{"no variable", MySQLOptions{Role: RoleReplica}, fakeSQL{"SHOW GLOBAL VARIABLES": []sqlRow{}}, "down L7RSP: the server has no variable read_only", 0, false},
		{"lag", withLag(MySQLOptions{}), server(status("Yes", "Yes", "7")), "up L7OK: lag 7s (Seconds_Behind_Source)", 7 * time.Second, false},
		{"lag of an old server", withLag(MySQLOptions{}), old, "up L7OK: lag 4s", 4 * time.Second, false},
		{"lag of MariaDB", withLag(MySQLOptions{}), maria("Connection_name= Slave_IO_Running=Yes Slave_SQL_Running=Yes Seconds_Behind_Master=3"), "up L7OK: lag 3s", 3 * time.Second, false},
		{"lag too long", withLag(MySQLOptions{}), server(status("Yes", "Yes", "11")), "down L7STS: lag 11s is more than 10s", 11 * time.Second, true},
		{"a primary has none", withLag(MySQLOptions{}), fakeSQL{"SHOW GLOBAL VARIABLES": variables("read_only", isPrimary)}, "up L7OK: primary", 0, false},
		{"the worst of all channels", withLag(MySQLOptions{}), maria(
			"Connection_name=a Slave_IO_Running=Yes Slave_SQL_Running=Yes Seconds_Behind_Master=9", "Connection_name=b Slave_IO_Running=Yes Slave_SQL_Running=Yes Seconds_Behind_Master=2"),
			"up L7OK: lag 9s", 9 * time.Second, false},
		{"one channel", withLag(MySQLOptions{Channel: "b"}), maria(
			"Connection_name=a Slave_IO_Running=No Slave_SQL_Running=Yes Seconds_Behind_Master=NULL", "Connection_name=b Slave_IO_Running=Yes Slave_SQL_Running=Yes Seconds_Behind_Master=2"),
			"up L7OK: lag 2s", 2 * time.Second, false},
		{"channel missing", withLag(MySQLOptions{Channel: "c"}), maria("Connection_name=a"), `down L7STS: there is no replication channel "c"`, 0, false},
		{"no replication", withLag(MySQLOptions{}), server([]sqlRow{}), "down L7STS: lag unknown: no replication is configured", NoLag, true},
		{"NULL by default", withLag(MySQLOptions{}), server(status("Connecting", "Yes", "NULL")),
			"down L7STS: lag unknown: Seconds_Behind_Source is NULL, I/O thread Connecting, SQL thread Yes", NoLag, true},
		{"NULL is down", unknown("down"), server(status("Connecting", "Yes", "NULL")), "down L7STS: lag unknown", NoLag, false},
		{"NULL is up", unknown("up"), server(status("Connecting", "Yes", "NULL")), "up L7OK: lag unknown", NoLag, false},
		{"stopped by an error", withLag(MySQLOptions{}), server(rowsOf("Replica_IO_Running=Yes Replica_SQL_Running=No Seconds_Behind_Source=NULL Last_SQL_Error=Duplicate_entry")),
			"down L7STS: lag unknown: I/O thread Yes, SQL thread No: Duplicate entry", NoLag, true},
		{"stopped is down", withLag(MySQLOptions{Stopped: "down"}), server(status("Yes", "No", "NULL")), "down L7STS: lag unknown: I/O thread Yes, SQL thread No", NoLag, false},
		{"stopped is up, NULL is down", MySQLOptions{Stopped: "up", Lag: LagOptions{Unknown: "down"}}, server(status("No", "Yes", "NULL")), "up L7OK: lag unknown: I/O thread No", NoLag, false},
		{"stopped, with a lag", MySQLOptions{Stopped: "down"}, server(status("No", "Yes", "0")), "down L7STS: lag unknown: I/O thread No", NoLag, false},
		{"no number", withLag(MySQLOptions{}), server(status("Yes", "Yes", "many")), `down L7RSP: Seconds_Behind_Source is "many"`, 0, false},
		{"no privilege", withLag(MySQLOptions{}), server(&mysql.MySQLError{Number: 1227, Message: "Access denied; you need REPLICATION CLIENT"}), "down L7STS/1227: Access denied; you need REPLICATION CLIENT", 0, false},
		{"lag query", withLag(MySQLOptions{LagQuery: "SELECT lag"}), merge(server(nil), "SELECT lag", rowsOf("lag=3.25")), "up L7OK: lag 3.25s (lag query)", 3250 * time.Millisecond, false},
		{"lag query, NULL", withLag(MySQLOptions{LagQuery: "SELECT lag"}), merge(server(nil), "SELECT lag", rowsOf("lag=NULL")), "down L7STS: lag unknown: lag query has no value", NoLag, true},
		{"lag query, nonsense", withLag(MySQLOptions{LagQuery: "SELECT lag"}), merge(server(nil), "SELECT lag", rowsOf("lag=nan")), `down L7RSP: lag query: "nan" is no number of seconds`, 0, false},
		{"heartbeat", withLag(MySQLOptions{Heartbeat: "percona.heartbeat"}), merge(server(nil),
			"SELECT TIMESTAMPDIFF(MICROSECOND, MAX(`ts`), NOW(6)) / 1000000 FROM `percona`.`heartbeat`", rowsOf("x=12.0")), "down L7STS: lag 12s is more than 10s (heartbeat)", 12 * time.Second, true},
		{"heartbeat in UTC, from the future", withLag(MySQLOptions{Heartbeat: "hb", HeartbeatColumn: "at", HeartbeatUTC: true}), merge(server(nil),
			"SELECT TIMESTAMPDIFF(MICROSECOND, MAX(`at`), UTC_TIMESTAMP(6)) / 1000000 FROM `hb`", rowsOf("x=-0.5")), "up L7OK: lag 0s (heartbeat)", 0, false},
		{"query", MySQLOptions{Query: "SELECT 1", Expect: Pattern{Regex: "^1$"}}, fakeSQL{"SELECT 1": rowsOf("1=1")}, "up L7OK: logged in", 0, false},
		{"query, other value", MySQLOptions{Query: "SELECT 1", Expect: Pattern{Regex: "^1$"}}, fakeSQL{"SELECT 1": rowsOf("1=NULL")}, `down L7STS: the query's value "NULL" does not contain /^1$/`, 0, false},
		{"query without a row", MySQLOptions{Query: "SELECT 1"}, fakeSQL{"SELECT 1": []sqlRow{}}, `down L7STS: the query has no row: "SELECT 1"`, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.User = "check"
			checker := must(NewMySQL(c.o)).(*mysqlChecker)
			r := askSQL(t, func(p *probe) (Result, error) {
				r, err := checker.ask(p, c.s)
				return r, checker.explain(err)
			})
			wants(t, r, c.want)
			if r.Lag != c.lag || r.Reserve != c.reserve {
				t.Errorf("lag %s, reserve %t; want %s, %t", r.Lag, r.Reserve, c.lag, c.reserve)
			}
		})
	}
}

// merge adds an answer.
func merge(f fakeSQL, beginning string, answer any) fakeSQL {
	f[beginning] = answer
	return f
}

func TestGalera(t *testing.T) {
	node := func(state, comment, ready, cluster string) fakeSQL {
		return fakeSQL{"SHOW GLOBAL STATUS": variables("wsrep_local_state", state, "wsrep_local_state_comment", comment, "wsrep_ready", ready, "wsrep_cluster_status", cluster)}
	}
	for _, c := range []struct {
		galera  string
		s       fakeSQL
		want    string
		reserve bool
	}{
		{"synced", node("4", "Synced", "ON", "Primary"), "up L7OK", false},
		{"synced", node("2", "Donor/Desynced", "ON", "Primary"), "down L7STS: wsrep_local_state=2 Donor/Desynced, want synced", true},
		{"donor", node("2", "Donor/Desynced", "ON", "Primary"), "up L7OK", false},
		{"donor", node("3", "Joined", "ON", "Primary"), "down L7STS: wsrep_local_state=3 Joined, want donor", false},
		{"synced", node("4", "Synced", "OFF", "Primary"), "down L7STS: wsrep_ready=OFF", false},
		{"synced", node("4", "Synced", "ON", "non-Primary"), "down L7STS: wsrep_cluster_status=non-Primary: no quorum", false},
		{"synced", fakeSQL{"SHOW GLOBAL STATUS": []sqlRow{}}, "down L7STS: the server is no node of a Galera cluster", false},
	} {
		checker := must(NewMySQL(MySQLOptions{User: "check", Galera: c.galera})).(*mysqlChecker)
		r := askSQL(t, func(p *probe) (Result, error) { return checker.ask(p, c.s) })
		wants(t, r, c.want)
		if r.Reserve != c.reserve {
			t.Errorf("%s: reserve %t", c.want, r.Reserve)
		}
	}
}

func TestPostgresReplication(t *testing.T) {
	replica := func(answer any) fakeSQL {
		return fakeSQL{"SELECT pg_is_in_recovery()": rowsOf("pg_is_in_recovery=t"), "SELECT CASE": answer, "SELECT lag": answer}
	}
	primary := fakeSQL{"SELECT pg_is_in_recovery()": rowsOf("pg_is_in_recovery=f")}
	lag := LagOptions{Max: 10 * time.Second}
	for _, c := range []struct {
		o    PostgresOptions
		s    fakeSQL
		want string
	}{
		{PostgresOptions{Role: RolePrimary}, primary, "up L7OK: primary"},
		{PostgresOptions{Role: RoleReplica}, primary, "down L7STS: the server is a primary (pg_is_in_recovery=f), want a replica"},
		{PostgresOptions{Role: RolePrimary}, replica(nil), "down L7STS: the server is a replica (pg_is_in_recovery=t), want a primary"},
		{PostgresOptions{Lag: lag}, primary, "up L7OK: primary"},
		{PostgresOptions{Lag: lag}, replica(rowsOf("case=1.5")), "up L7OK: lag 1.5s (replay lag)"},
		{PostgresOptions{Lag: lag}, replica(rowsOf("case=12")), "down L7STS: lag 12s is more than 10s (replay lag)"},
		{PostgresOptions{Lag: lag}, replica(rowsOf("case=NULL")), "down L7STS: lag unknown: replay lag has no value"},
		{PostgresOptions{Lag: lag, LagQuery: "SELECT lag"}, replica(rowsOf("x=2")), "up L7OK: lag 2s (lag query)"},
	} {
		c.o.User = "check"
		checker := must(NewPostgres(c.o)).(*postgresChecker)
		wants(t, askSQL(t, func(p *probe) (Result, error) { return checker.ask(p, c.s) }), c.want)
	}
}

func TestSQLMistakes(t *testing.T) {
	_, err := NewMySQL(MySQLOptions{Role: "slave", Galera: "yes", Stopped: "no", Security: "starttls", Heartbeat: "a b", HeartbeatColumn: "x;y"})
	for _, want := range []string{`mysql check: role: unknown "slave" (known: primary, replica)`, `mysql check: galera: unknown "yes" (known: synced, donor)`,
		`mysql check: stopped: unknown "no" (known: down, reserve, up)`, `mysql check: security: unknown "starttls" (known: plain, tls)`,
		`mysql check: heartbeat: "a b" is no name`, `mysql check: heartbeat column: "x;y" is no name`, "mysql check: user: missing"} {
		wantError(t, err, want)
	}
	for _, c := range []struct {
		o    MySQLOptions
		want string
	}{
		{MySQLOptions{Expect: Pattern{Text: "x"}}, "mysql check: query: missing beside expect"},
		{MySQLOptions{Lag: LagOptions{Max: 1}, LagQuery: "x", Heartbeat: "x"}, "mysql check: heartbeat: there is a lag query too"},
		{MySQLOptions{Lag: LagOptions{Max: 1}, LagQuery: "x", Channel: "x"}, "mysql check: channel: the lag is not read from SHOW REPLICA STATUS"},
		{MySQLOptions{Heartbeat: "x"}, "mysql check: lag: missing: nothing is done with a heartbeat"},
		{MySQLOptions{Role: RolePrimary, Lag: LagOptions{Max: 1}}, "mysql check: lag: a primary has none"},
	} {
		c.o.User = "u"
		_, err := NewMySQL(c.o)
		wantError(t, err, c.want)
	}
	_, err = NewPostgres(PostgresOptions{Role: "standby", LagQuery: "x"})
	wantError(t, err, `postgres check: role: unknown "standby" (known: primary, replica)`)
	wantError(t, err, "postgres check: user: missing")
	_, err = NewPostgres(PostgresOptions{User: "u", LagQuery: "x"})
	wantError(t, err, "postgres check: lag: missing: nothing is done with a lag query")
	_, err = NewLDAP(LDAPOptions{BindDN: "cn=x", Filter: "(", Scope: "tree", Expect: Pattern{Text: "x"}})
	for _, want := range []string{"ldap check: password: missing beside a bind DN", `ldap check: filter: "("`, `ldap check: scope: unknown "tree" (known: base, one, sub)`,
		"ldap check: attribute: missing beside expect"} {
		wantError(t, err, want)
	}
	_, err = NewLDAP(LDAPOptions{Attribute: "cn", Password: NewSecret("x")})
	wantError(t, err, "ldap check: base: missing: nothing is searched")
	wantError(t, err, "ldap check: bind DN: missing beside a password")
}
