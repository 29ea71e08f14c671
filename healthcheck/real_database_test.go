// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"xdplvs/internal/programs"
)

// mariadb is a server with a directory of its own.
type mariadb struct {
	*daemon
	at    Target
	admin *sql.DB
}

// runMariaDB installs and runs one; config goes on where the general part ends.
func runMariaDB(t *testing.T, ca *authority, config string) *mariadb {
	t.Helper()
	dir, port := directory(t), freePort(t)
	keyPair(t, ca, dir)
	m := &mariadb{at: port}
	m.daemon = runServer(t, Target{})(programs.NewMariaDB(t.Context(), dir, "", "bind_address=127.0.0.1\nport="+portText(port)+
		"\nssl_cert=$dir/cert.pem\nssl_key=$dir/key.pem\n"+config))
	m.await(t, mysqlAs("checker", MySQLOptions{}), port)
	var err error
	if m.admin, err = sql.Open("mysql", "admin:s3cret!@tcp("+port.Address.String()+")/"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.admin.Close() })
	return m
}

// do makes statements as the administrator.
func (m *mariadb) do(t *testing.T, statements ...string) {
	t.Helper()
	for _, s := range statements {
		if _, err := m.admin.ExecContext(t.Context(), s); err != nil {
			t.Fatalf("%s: %v\n%s", s, err, m.Log)
		}
	}
}

func mysqlAs(user string, o MySQLOptions) Checker {
	o.User, o.Password = user, NewSecret("s3cret!")
	return must(NewMySQL(o))
}

// eventually asks until the answer begins as wanted.
func eventually(t *testing.T, c Checker, at Target, want string) Result {
	t.Helper()
	var r Result
	for begin := time.Now(); time.Since(begin) < 30*time.Second; time.Sleep(50 * time.Millisecond) {
		r = ask(t, c, at)
		if strings.HasPrefix(r.Verdict.String()+" "+r.Text, want) {
			return r
		}
	}
	t.Errorf("got %s %s, want %s", r.Verdict, r, want)
	return r
}

// TestMariaDB has a primary and a replica that lags, stops, and is promoted.
func TestMariaDB(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t)
	primary := runMariaDB(t, ca, "server_id=1\n")
	replica := runMariaDB(t, ca, "server_id=2\nread_only=ON\n")
	host, port := primary.at.Address.Addr().String(), portText(primary.at)
	replica.do(t, "CHANGE MASTER TO master_host='"+host+"', master_port="+port+", master_user='replica', master_password='s3cret!', master_connect_retry=1", "START SLAVE")

	trust := TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	lag := LagOptions{Max: 3600 * time.Second}
	reads, writes := mysqlAs("checker", MySQLOptions{Role: RoleReplica, Lag: lag}), mysqlAs("checker", MySQLOptions{Role: RolePrimary})
	eventually(t, reads, replica.at, "up lag 0s (Seconds_Behind_Source)")
	wrong := MySQLOptions{User: "checker", Password: NewSecret("guess")}
	runReal(t, primary.daemon, []realCheck{
		{"login", mysqlAs("nobody", MySQLOptions{}), primary.at, "up L7OK: logged in"},
		{"wrong password", must(NewMySQL(wrong)), primary.at, "down L7STS/1045: Access denied for user 'checker'@'127.0.0.1' (using password: YES)"},
		{"no such database", mysqlAs("admin", MySQLOptions{Database: "lost"}), primary.at, "down L7STS/1049: Unknown database 'lost'"},
		{"query", mysqlAs("nobody", MySQLOptions{Query: "SELECT 6 * 7", Expect: Pattern{Regex: "^42$"}}), primary.at, "up L7OK: logged in"},
		{"query without an answer", mysqlAs("nobody", MySQLOptions{Query: "SELECT 1 WHERE FALSE"}), primary.at, "down L7STS: the query has no row"},
		{"wrong query", mysqlAs("nobody", MySQLOptions{Query: "SELEKT"}), primary.at, "down L7STS/1064: You have an error in your SQL syntax"},
		{"TLS", mysqlAs("checker", MySQLOptions{Security: TLS, TLS: trust}), primary.at, "up L7OK: logged in"},
		{"TLS, other name", mysqlAs("checker", MySQLOptions{Security: TLS, TLS: TLSClient{Verify: "full", ServerName: "x", CAFile: ca.file}}), primary.at,
			"down L6RSP: the certificate is for www.example.org, not for x"},
		{"primary", writes, primary.at, "up L7OK: primary"},
		{"primary is no replica", reads, primary.at, "down L7STS: the server is a primary (read_only=OFF), want a replica"},
		{"replica is no primary", writes, replica.at, "down L7STS: the server is a replica (read_only=ON), want a primary"},
		{"no privilege", mysqlAs("nobody", MySQLOptions{Lag: lag}), replica.at, "down L7STS/1227: Access denied; you need (at least one of)"},
		{"no cluster", mysqlAs("checker", MySQLOptions{Galera: "synced"}), primary.at, "down L7STS: the server is no node of a Galera cluster"},
	})
	t.Run("heartbeat", func(t *testing.T) { testHeartbeat(t, primary, replica) })
	t.Run("stopped", func(t *testing.T) { testStopped(t, primary, replica) })
	t.Run("promotion", func(t *testing.T) { testPromotion(t, primary, replica, writes) })
}

// testHeartbeat has a replica that is told to lag, seen by a table of heartbeats.
func testHeartbeat(t *testing.T, primary, replica *mariadb) {
	primary.do(t, "CREATE DATABASE hb", "CREATE TABLE hb.beat (id INT PRIMARY KEY, ts VARCHAR(26))", "GRANT SELECT ON hb.* TO checker@'%'",
		"REPLACE INTO hb.beat VALUES (1, DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%f'))")
	check := func(maximum time.Duration, utc bool) Checker {
		return mysqlAs("checker", MySQLOptions{Heartbeat: "hb.beat", HeartbeatUTC: utc, Lag: LagOptions{Max: maximum,
			Curve: []LagPoint{{0, 100}, {maximum, 40}}}})
	}
	if r := eventually(t, check(time.Hour, true), replica.at, "up lag "); r.Lag > 20*time.Second || r.Factor < 99 {
		t.Errorf("lag %s, factor %d %%", r.Lag, r.Factor)
	}
	replica.do(t, "STOP SLAVE")
	primary.do(t, "REPLACE INTO hb.beat VALUES (1, DATE_FORMAT(UTC_TIMESTAMP(6), '%Y-%m-%dT%H:%i:%s.%f'))")
	time.Sleep(1500 * time.Millisecond)
	r := ask(t, check(time.Second, true), replica.at)
	wants(t, r, "down L7STS: lag ")
	if !r.Reserve || r.Lag < 1500*time.Millisecond || r.Lag > time.Minute {
		t.Errorf("lag %s, reserve %t", r.Lag, r.Reserve)
	}
	replica.do(t, "START SLAVE")
	eventually(t, check(time.Hour, true), replica.at, "up lag ")
}

// testStopped has stopped and broken replication, and what policies make of it.
func testStopped(t *testing.T, primary, replica *mariadb) {
	lag := LagOptions{Max: time.Hour}
	reserve, down := mysqlAs("checker", MySQLOptions{Lag: lag}), mysqlAs("checker", MySQLOptions{Lag: lag, Stopped: "down"})
	up := mysqlAs("checker", MySQLOptions{Lag: LagOptions{Unknown: "up"}})
	eventually(t, reserve, replica.at, "up lag 0s")
	replica.do(t, "STOP SLAVE SQL_THREAD")
	if r := eventually(t, reserve, replica.at, "down lag unknown: I/O thread Yes, SQL thread No"); !r.Reserve || r.Lag != NoLag {
		t.Errorf("reserve %t, lag %s", r.Reserve, r.Lag)
	}
	if r := ask(t, down, replica.at); r.Verdict != Down || r.Reserve {
		t.Errorf("got %s, reserve %t", r.Verdict, r.Reserve)
	}
	wants(t, ask(t, up, replica.at), "up L7OK: lag unknown: I/O thread Yes, SQL thread No")
	replica.do(t, "START SLAVE")
	eventually(t, reserve, replica.at, "up lag 0s")
	// The thread stops by itself when it cannot do what the primary did.
	replica.do(t, "INSERT INTO hb.beat VALUES (2, 'ours')")
	primary.do(t, "INSERT INTO hb.beat VALUES (2, 'theirs')")
	eventually(t, reserve, replica.at, "down lag unknown: I/O thread Yes, SQL thread No: Error 'Duplicate entry '2' for key 'PRIMARY''")
	replica.do(t, "DELETE FROM hb.beat WHERE id = 2", "START SLAVE SQL_THREAD")
	eventually(t, reserve, replica.at, "up lag 0s")
}

// testPromotion: who checks for the primary follows it when another server is promoted, and when the old
// one is gone.
func testPromotion(t *testing.T, primary, replica *mariadb, writes Checker) {
	m := NewManager(Options{})
	timing := Timing{Interval: 200 * time.Millisecond, Timeout: 200 * time.Millisecond, Fall: 1, Rise: 1}
	if raceDetector {
		timing.Interval, timing.Timeout = time.Second, time.Second
	}
	err := m.Set(map[string]Check{"a": {Target: primary.at, Checker: writes, Timing: timing}, "b": {Target: replica.at, Checker: writes, Timing: timing}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go m.Run(ctx)
	await := func(a, b Verdict) {
		t.Helper()
		limit := time.After(30 * time.Second)
		for m.States()["a"].Verdict != a || m.States()["b"].Verdict != b {
			select {
			case <-m.Changed():
			case <-limit:
				t.Fatalf("the states are %+v, want %s and %s", m.States(), a, b)
			}
		}
	}
	await(Up, Down)
	primary.do(t, "SET GLOBAL read_only = ON")
	await(Down, Down)
	replica.do(t, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF")
	await(Down, Up)
	primary.stop()
	await(Down, Up)
	wants(t, ask(t, writes, primary.at), "down L4CON: ")
	wants(t, ask(t, mysqlAs("checker", MySQLOptions{Lag: LagOptions{Max: time.Hour}}), replica.at), "up L7OK: primary")
}

// TestRedisServer has a primary with a password, and a replica of it.
func TestRedisServer(t *testing.T) {
	t.Parallel()
	server := program(t, "redis-server", "/usr/bin/redis-server")
	begin := func(args ...string) (*daemon, Target) {
		port := freePort(t)
		args = append([]string{"--bind", "127.0.0.1", "--port", portText(port), "--dir", directory(t), "--save", "", "--requirepass", "s3cret!",
			"--masterauth", "s3cret!", "--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"}, args...)
		return runDaemon(t, nobody(), port, server, args...), port
	}
	primary, at := begin()
	second, replica := begin("--replicaof", "127.0.0.1 "+portText(at))
	redis := func(o RedisOptions) Checker {
		o.Password = NewSecret("s3cret!")
		return must(NewRedis(o))
	}
	reads := redis(RedisOptions{Role: RoleReplica, Lag: LagOptions{Max: 10 * time.Second}})
	second.await(t, reads, replica)
	runReal(t, primary, []realCheck{
		{"ping", redis(RedisOptions{}), at, "up L7OK: PONG"},
		{"no password", must(NewRedis(RedisOptions{})), at, "down L7STS: answer to PING: NOAUTH Authentication required."},
		{"wrong password", must(NewRedis(RedisOptions{Password: NewSecret("guess")})), at, "down L7STS: answer to AUTH: WRONGPASS invalid username-password pair"},
		{"primary", redis(RedisOptions{Role: RolePrimary}), at, "up L7OK: primary"},
		{"replica is no primary", redis(RedisOptions{Role: RolePrimary}), replica, "down L7STS: the server is a replica (role:slave), want a primary"},
		{"lag", reads, replica, "up L7OK: lag "},
	})
	wants(t, askWithin(t, redis(RedisOptions{Security: TLS}), at, shortTime), "down L6TOUT: TLS handshake: no answer in time")
	primary.stop()
	if r := eventually(t, reads, replica, "down lag unknown: master_link_status:down"); !r.Reserve {
		t.Error("a replica without its primary is not in reserve")
	}
}

// TestPostgreSQL has a primary and a standby that is promoted.
func TestPostgreSQL(t *testing.T) {
	t.Parallel()
	initdb := program(t, "postgresql", "/usr/lib/postgresql/*/bin/initdb")
	bin, ca, dir := filepath.Dir(initdb), newAuthority(t), directory(t)
	keyPair(t, ca, dir)
	password := write(t, filepath.Join(dir, "password"), "s3cret!\n")
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	as(t, nobody(), initdb, "-D", first, "-U", "admin", "--pwfile", password, "--auth=scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C")
	begin := func(data string, args ...string) (*daemon, Target) {
		port := freePort(t)
		args = append([]string{"-D", data, "-p", portText(port), "-k", dir, "-c", "listen_addresses=127.0.0.1", "-F", "-c", "shared_buffers=16MB",
			"-c", "ssl=on", "-c", "ssl_cert_file=" + dir + "/cert.pem", "-c", "ssl_key_file=" + dir + "/key.pem", "-c", "max_wal_senders=4"}, args...)
		return runDaemon(t, nobody(), Target{}, filepath.Join(bin, "postgres"), args...), port
	}
	postgres := func(o PostgresOptions) Checker {
		o.User, o.Password = "admin", NewSecret("s3cret!")
		return must(NewPostgres(o))
	}
	primary, at := begin(first)
	primary.await(t, postgres(PostgresOptions{}), at)
	source := "host=127.0.0.1 port=" + portText(at) + " user=admin password=s3cret!"
	as(t, nobody(), filepath.Join(bin, "pg_basebackup"), "-d", source, "-D", second, "-R", "--no-sync", "-c", "fast")
	standby, replica := begin(second)
	lag := PostgresOptions{Role: RoleReplica, Lag: LagOptions{Max: time.Hour}}
	standby.await(t, postgres(lag), replica)
	trust := TLSClient{Verify: "full", ServerName: "www.example.org", CAFile: ca.file}
	runReal(t, primary, []realCheck{
		{"login", postgres(PostgresOptions{}), at, "up L7OK: logged in"},
		{"wrong password", must(NewPostgres(PostgresOptions{User: "admin", Password: NewSecret("guess")})), at, `down L7STS: FATAL 28P01: password authentication failed for user "admin"`},
		{"no such database", postgres(PostgresOptions{Database: "lost"}), at, `down L7STS: FATAL 3D000: database "lost" does not exist`},
		{"query", postgres(PostgresOptions{Query: "SELECT 6 * 7", Expect: Pattern{Regex: "^42$"}}), at, "up L7OK: logged in"},
		{"query, NULL", postgres(PostgresOptions{Query: "SELECT NULL", Expect: Pattern{Text: "42"}}), at, `down L7STS: the query's value "NULL" does not contain "42"`},
		{"wrong query", postgres(PostgresOptions{Query: "SELEKT"}), at, `down L7STS: ERROR 42601: syntax error at or near "SELEKT"`},
		{"TLS", postgres(PostgresOptions{Security: TLS, TLS: trust}), at, "up L7OK: logged in"},
		{"TLS, other name", postgres(PostgresOptions{Security: TLS, TLS: TLSClient{Verify: "full", ServerName: "x", CAFile: ca.file}}), at, "down L6RSP: the certificate is for www.example.org, not for x"},
		{"primary", postgres(PostgresOptions{Role: RolePrimary}), at, "up L7OK: primary"},
		{"primary is no replica", postgres(lag), at, "down L7STS: the server is a primary (pg_is_in_recovery=f), want a replica"},
		{"lag", postgres(lag), replica, "up L7OK: lag "},
		{"lag query", postgres(PostgresOptions{Lag: LagOptions{Max: time.Second}, LagQuery: "SELECT 2.5"}), replica, "down L7STS: lag 2.5s is more than 1s (lag query)"},
	})
	primary.stop()
	if r := eventually(t, postgres(lag), replica, "down lag unknown: replay lag has no value"); !r.Reserve {
		t.Error("a standby without its primary is not in reserve")
	}
	as(t, nobody(), filepath.Join(bin, "pg_ctl"), "promote", "-D", second, "-w")
	wants(t, ask(t, postgres(PostgresOptions{Role: RolePrimary}), replica), "up L7OK: primary")
	standby.stop()
	wants(t, ask(t, postgres(PostgresOptions{}), replica), "down L4CON: ")
}
