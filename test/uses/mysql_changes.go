// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// tellLag locks the tables of a replica, as a backup does, until it lags too much.
func (d *databases) tellLag(ctx context.Context) error {
	d.Screen.Step("A backup locks the tables of db3", "Its replication waits. When it is 5 s behind, it gets no more reads.")
	lock, err := d.servers[2].lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := d.awaitRoles(ctx, 0, 1); err != nil {
		return err
	}
	if err := errors.Join(d.Show(ctx, "health"), d.progress(ctx, 20, 2)); err != nil {
		return err
	}
	d.Screen.Step("The backup is done", "db3 catches up, and returns.")
	for _, l := range d.ledgers {
		l.allow(2, 3)
	}
	if _, err := lock.ExecContext(ctx, "UNLOCK TABLES"); err != nil {
		return err
	}
	if err := d.awaitRoles(ctx, 0, 1, 2); err != nil {
		return err
	}
	return d.progress(ctx, 20, 2, 3)
}

// lock keeps replication from going on, until the connection says UNLOCK TABLES.
func (db *database) lock(ctx context.Context) (*sql.Conn, error) {
	conn, err := db.admin.Conn(ctx)
	if err != nil {
		return nil, err
	}
	if _, err := conn.ExecContext(ctx, "FLUSH TABLES WITH READ LOCK"); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// tellPromotion replaces the primary as an administrator does: nobody writes, the successor has everything, it is
// the primary, the others follow it.
func (d *databases) tellPromotion(ctx context.Context) error {
	d.Screen.Step("db1 is replaced by db2", "db1 becomes read-only; db2 gets what is missing, and is promoted; db1 and db3 follow it. The director is told nothing.")
	for _, l := range d.ledgers {
		l.allow(1, 2, 3)
	}
	old, next := d.servers[0], d.servers[1]
	if err := old.do(ctx, "SET GLOBAL read_only = ON"); err != nil {
		return err
	}
	var position string
	if err := old.admin.QueryRowContext(ctx, "SELECT @@gtid_binlog_pos").Scan(&position); err != nil {
		return err
	}
	for _, replica := range d.servers[1:] {
		if err := replica.await(ctx, position); err != nil {
			return err
		}
	}
	err := errors.Join(next.do(ctx, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"), d.servers[2].do(ctx, "STOP SLAVE"),
		old.do(ctx, "SET GLOBAL gtid_slave_pos = '"+position+"'"), d.follow(ctx, 0, 1), d.follow(ctx, 2, 1))
	if err != nil {
		return err
	}
	if err := d.awaitRoles(ctx, 1, 0, 2); err != nil {
		return err
	}
	return errors.Join(d.progress(ctx, 20, 1, 3), d.Show(ctx, "list"))
}

// await waits until a replica has come to a position.
func (db *database) await(ctx context.Context, position string) error {
	var late int
	err := db.admin.QueryRowContext(ctx, "SELECT MASTER_GTID_WAIT(?, 4)", position).Scan(&late)
	if err == nil && late != 0 {
		err = fmt.Errorf("%s does not come to %s", db.real.Name(), position)
	}
	return err
}

// tellDeath has the primary die, with nobody there to prepare it: what it has confirmed is at one replica at least, which becomes
// the primary. The dead one comes back as what it must be then: nobody's.
func (d *databases) tellDeath(ctx context.Context) error {
	d.Screen.Step("db2, the primary, is killed", "A replica has received what was confirmed (semi-synchronous replication). That one is promoted, the other follows it.")
	dead := d.servers[1]
	dead.Kill()
	next, other, err := d.successor(ctx, 0, 2)
	if err != nil {
		return err
	}
	err = errors.Join(d.servers[next].do(ctx, "STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL read_only = OFF"),
		d.servers[other].do(ctx, "STOP SLAVE"), d.follow(ctx, other, next))
	if err != nil {
		return err
	}
	if err := errors.Join(d.awaitRoles(ctx, next, other), d.progress(ctx, 20, 1, 3), d.Show(ctx, "list")); err != nil {
		return err
	}
	d.Screen.Step("db2 comes back", "It is read-only, as its file says, and no replica: no second primary, and nobody reads what it has.")
	if dead.Process, err = d.serve(dead.real, dead.server); err != nil {
		return err
	}
	if err := d.awaitHealth(ctx, "db2", "no replication is configured", "want a primary"); err != nil {
		return err
	}
	return errors.Join(d.awaitRoles(ctx, next, other), d.progress(ctx, 20, other+1))
}

// successor finds which of two replicas of a dead primary has received more, and waits until it has done all of that.
func (d *databases) successor(ctx context.Context, a, b int) (next, other int, err error) {
	first, position, err := d.servers[a].received(ctx)
	if err != nil {
		return 0, 0, err
	}
	second, further, err := d.servers[b].received(ctx)
	if err != nil {
		return 0, 0, err
	}
	if second > first {
		a, b, position = b, a, further
	}
	return a, b, Await(ctx, func() error { return d.servers[a].await(ctx, position) })
}

// received is the last transaction that a replica has of its primary, done or not.
func (db *database) received(ctx context.Context) (number uint64, position string, err error) {
	rows, err := db.admin.QueryContext(ctx, "SHOW SLAVE STATUS")
	if err != nil {
		return 0, "", err
	}
	defer rows.Close()
	names, err := rows.Columns()
	if err != nil || !rows.Next() {
		return 0, "", errors.Join(fmt.Errorf("%s is no replica", db.real.Name()), err)
	}
	values := make([]sql.NullString, len(names))
	into := make([]any, len(names))
	for i := range values {
		into[i] = &values[i]
	}
	if err := rows.Scan(into...); err != nil {
		return 0, "", err
	}
	position = values[slices.Index(names, "Gtid_IO_Pos")].String
	number, err = strconv.ParseUint(position[strings.LastIndex(position, "-")+1:], 10, 64)
	return number, position, err
}

// awaitHealth waits until the health checks say these texts of a server, in both families.
func (d *databases) awaitHealth(ctx context.Context, name string, texts ...string) error {
	return Await(ctx, func() error {
		out, err := d.Director.Ask(ctx, "health")
		if err != nil {
			return err
		}
		var lines []string
		for line := range strings.Lines(out) {
			if strings.HasPrefix(strings.TrimSpace(line), "-> "+name) {
				lines = append(lines, line)
			}
		}
		said := strings.Join(lines, "")
		for _, text := range texts {
			if strings.Count(said, text) < len([]string{"IPv4", "IPv6"}) {
				return fmt.Errorf("of %s is said, without %q:\n%s", name, text, said)
			}
		}
		return nil
	})
}

// wantEverything fails unless these servers have all that was confirmed.
func (d *databases) wantEverything(ctx context.Context, servers ...*database) error {
	d.Screen.Step("The primary and its replica have everything", "What was confirmed to the program is there, once.")
	for _, l := range d.ledgers {
		acked, _, _ := l.state()
		for _, db := range servers {
			err := Await(ctx, func() error {
				var has int
				err := db.admin.QueryRowContext(ctx, fmt.Sprintf("SELECT COUNT(*) FROM %s WHERE n <= %d", l.table, acked)).Scan(&has)
				if err == nil && has != acked {
					err = fmt.Errorf("%s has %d of %d entries of %s", db.real.Name(), has, acked, l.table)
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		d.Screen.Block(fmt.Sprintf("%s: %d entries on each server", l.table, acked))
	}
	return nil
}
