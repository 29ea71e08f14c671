// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
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

// wantEverything fails unless all servers have all that was confirmed.
func (d *databases) wantEverything(ctx context.Context) error {
	d.Screen.Step("Every server has everything", "What was confirmed to the program is there, once.")
	for _, l := range d.ledgers {
		acked, _, _ := l.state()
		for i, db := range d.servers {
			err := Await(ctx, func() error {
				var has int
				err := db.admin.QueryRowContext(ctx, fmt.Sprintf("SELECT COUNT(*) FROM %s WHERE n <= %d", l.table, acked)).Scan(&has)
				if err == nil && has != acked {
					err = fmt.Errorf("db%d has %d of %d entries of %s", i+1, has, acked, l.table)
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
