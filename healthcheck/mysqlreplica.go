// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/go-sql-driver/mysql"
)

// What MySQLOptions.Galera can be.
const (
	galeraSynced = "synced"
	galeraDonor  = "donor"
)

// ask does all that comes after the login.
func (c *mysqlChecker) ask(p *probe, s sqlServer) (Result, error) {
	if err := c.query.run(p, s); err != nil {
		return Result{}, err
	}
	if err := c.galera(p, s); err != nil {
		return Result{}, err
	}
	role, err := c.role(p, s)
	if err != nil {
		return Result{}, err
	}
	if !c.wantsLag() || role == RolePrimary {
		return good(L7OK, "%s", orElse(role, "logged in")), nil
	}
	return c.lag(p, s)
}

// readOnly are the variables that make a server a replica; not every server has all of them.
var readOnly = []string{"read_only", "super_read_only", "innodb_read_only"}

// role tells what the server is, if that matters.
func (c *mysqlChecker) role(p *probe, s sqlServer) (string, error) {
	if c.Role == "" && !c.wantsLag() {
		return "", nil
	}
	p.enter(layer7, "read_only")
	rows, err := s.query(p.ctx, "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('"+strings.Join(readOnly, "', '")+"')")
	if err != nil {
		return "", err
	}
	if len(rows) == 0 {
		return "", fail(L7RSP, 0, "the server has no variable read_only")
	}
	var on []string
	for _, row := range rows {
		if value := row.text("Value"); value != "OFF" && value != "0" {
			on = append(on, row.text("Variable_name")+"="+value)
		}
	}
	if len(on) > 0 {
		return RoleReplica, checkRole(c.Role, RoleReplica, strings.Join(on, ", "))
	}
	return RolePrimary, checkRole(c.Role, RolePrimary, "read_only=OFF")
}

// galera judges the node of a cluster.
func (c *mysqlChecker) galera(p *probe, s sqlServer) error {
	if c.Galera == "" {
		return nil
	}
	p.enter(layer7, "wsrep status")
	rows, err := s.query(p.ctx, "SHOW GLOBAL STATUS WHERE Variable_name IN "+
		"('wsrep_local_state', 'wsrep_local_state_comment', 'wsrep_ready', 'wsrep_cluster_status')")
	if err != nil {
		return err
	}
	status := make(map[string]string)
	for _, row := range rows {
		status[strings.ToLower(row.text("Variable_name"))] = row.text("Value")
	}
	const donor, synced = "2", "4" // of wsrep_local_state
	state := status["wsrep_local_state"]
	told := fmt.Sprintf("wsrep_local_state=%s %s", state, status["wsrep_local_state_comment"])
	switch {
	case state == "":
		return fail(L7STS, 0, "the server is no node of a Galera cluster")
	case status["wsrep_cluster_status"] != "Primary":
		return fail(L7STS, 0, "wsrep_cluster_status=%s: no quorum", status["wsrep_cluster_status"])
	case status["wsrep_ready"] != "ON":
		return fail(L7STS, 0, "wsrep_ready=%s, %s", status["wsrep_ready"], told)
	case state == synced, state == donor && c.Galera == galeraDonor:
		return nil
	case state == donor:
		f := fail(L7STS, 0, "%s, want synced", told)
		f.Reserve = true
		return f
	default:
		return fail(L7STS, 0, "%s, want %s", told, c.Galera)
	}
}

// lag finds out how far the server is behind.
func (c *mysqlChecker) lag(p *probe, s sqlServer) (Result, error) {
	switch {
	case c.LagQuery != "":
		return lagOf(p, s, c.Lag, c.LagQuery, "lag query")
	case c.Heartbeat != "":
		return lagOf(p, s, c.Lag, c.heartbeatQuery(), "heartbeat")
	}
	rows, err := c.replicas(p, s)
	if err != nil {
		return Result{}, err
	}
	if len(rows) == 0 {
		return c.Lag.unknown("no replication is configured")
	}
	return c.worst(rows)
}

// heartbeatQuery asks for the age of the newest heartbeat.
func (c *mysqlChecker) heartbeatQuery() string {
	now := "NOW(6)"
	if c.HeartbeatUTC {
		now = "UTC_TIMESTAMP(6)"
	}
	return fmt.Sprintf("SELECT TIMESTAMPDIFF(MICROSECOND, MAX(%s), %s) / 1000000 FROM %s",
		quoteName(c.HeartbeatColumn, "`"), now, quoteName(c.Heartbeat, "`"))
}

// The statements for the state of replication, the newest first: MariaDB's, which has rows for all
// connections only with ALL, then MySQL's. Servers call what they do not know a syntax error.
var (
	mariadbStatus = []string{"SHOW ALL REPLICAS STATUS", "SHOW ALL SLAVES STATUS", "SHOW SLAVE STATUS"}
	mysqlStatus   = []string{"SHOW REPLICA STATUS", "SHOW SLAVE STATUS"}
)

// replicas gives the rows of the channels that are looked at.
func (c *mysqlChecker) replicas(p *probe, s sqlServer) ([]sqlRow, error) {
	p.enter(layer7, "version")
	version, err := s.query(p.ctx, "SELECT VERSION() AS version")
	if err != nil {
		return nil, err
	}
	statements := mysqlStatus
	if len(version) > 0 && strings.Contains(strings.ToLower(version[0].text("version")), "mariadb") {
		statements = mariadbStatus
	}
	p.enter(layer7, "replica status")
	var rows []sqlRow
	for _, statement := range statements {
		if rows, err = s.query(p.ctx, statement); !isSyntaxError(err) {
			break
		}
	}
	if err != nil || c.Channel == "" {
		return rows, err
	}
	for _, row := range rows {
		if row.text("Channel_Name", "Connection_name") == c.Channel {
			return []sqlRow{row}, nil
		}
	}
	return nil, fail(L7STS, 0, "there is no replication channel %q", c.Channel)
}

func isSyntaxError(err error) bool {
	const syntaxError = 1064 // ER_PARSE_ERROR
	said, ok := errors.AsType[*mysql.MySQLError](err)
	return ok && said.Number == syntaxError
}

// worst judges channels; any that is down or unknown decides, else the longest lag does.
func (c *mysqlChecker) worst(rows []sqlRow) (worst Result, err error) {
	for i, row := range rows {
		r, err := c.channel(row)
		if err != nil {
			return Result{}, err
		}
		if i == 0 || r.Lag == NoLag || worst.Lag != NoLag && r.Lag > worst.Lag {
			worst = r
		}
	}
	return worst, nil
}

// channel judges a row of SHOW REPLICA STATUS, in MySQL's and in MariaDB's spelling.
func (c *mysqlChecker) channel(row sqlRow) (Result, error) {
	receiver, applier := row.text("Replica_IO_Running", "Slave_IO_Running"), row.text("Replica_SQL_Running", "Slave_SQL_Running")
	if receiver == "No" || applier == "No" {
		stopped := LagOptions{Unknown: c.Stopped}
		return stopped.unknown(threads(row, receiver, applier))
	}
	behind := row.get("Seconds_Behind_Source", "Seconds_Behind_Master")
	if behind == nil {
		return c.Lag.unknown("Seconds_Behind_Source is NULL, " + threads(row, receiver, applier))
	}
	n, err := strconv.ParseUint(*behind, 10, 31)
	if err != nil {
		return Result{}, fail(L7RSP, 0, "Seconds_Behind_Source is %s", excerpt(*behind))
	}
	return c.Lag.judge(seconds(float64(n)), "Seconds_Behind_Source")
}

// threads tells the state of a replica's threads, and the error that stopped them.
func threads(row sqlRow, receiver, applier string) string {
	text := fmt.Sprintf("I/O thread %s, SQL thread %s", receiver, applier)
	for _, name := range []string{"Last_SQL_Error", "Last_IO_Error"} {
		if v := row.get(name); v != nil && *v != "" {
			return text + ": " + oneLine(*v)
		}
	}
	return text
}
