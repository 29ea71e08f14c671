// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"

	"xdplvs/director"
	"xdplvs/internal/programs"
)

// splitting is read-only splitting of MariaDB.
var splitting = Use{
	Name:    "mysql",
	Summary: "MariaDB: writes to the primary, whoever that is, reads to the replicas that are up to date",
	Methods: []director.Method{director.NAT, director.FullNAT},
	Reals:   3,
	Tell:    tellSplitting,
}

// databaseConfig makes a server one that can become a primary as well as a replica.
const databaseConfig = `bind_address=*
port=3306
server_id=%d
log_slave_updates=ON
read_only=ON
rpl_semi_sync_master_enabled=ON
rpl_semi_sync_slave_enabled=ON
rpl_semi_sync_master_wait_point=AFTER_SYNC
`

// database is a MariaDB on a real server.
type database struct {
	*programs.Process
	real   *Real
	server programs.Server
	admin  *sql.DB
}

// databases are db1, db2 and db3, and the program that uses them, for each family.
type databases struct {
	*Stage
	servers []*database
	ledgers []*ledger
}

func tellSplitting(ctx context.Context, s *Stage) error {
	d := &databases{Stage: s}
	defer d.close()
	if err := d.start(ctx); err != nil {
		return err
	}
	if err := s.StartDirector(ctx); err != nil {
		return err
	}
	if err := d.awaitRoles(ctx, 0, 1, 2); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for _, l := range d.ledgers {
		running.Go(func() { l.run(ctx) })
	}
	tales := []func(context.Context) error{d.tellOrdinary, d.tellPromotion, d.tellDeath}
	if s.Method == s.Use.Methods[0] { // checks are the same with all of them
		tales = slices.Insert(tales, 1, d.tellLag)
	}
	for _, tell := range tales {
		if err := errors.Join(tell(ctx), d.faults()); err != nil {
			return err
		}
	}
	return d.wantEverything(ctx, d.servers[0], d.servers[2])
}

func (d *databases) close() {
	for _, db := range d.servers {
		db.admin.Close()
	}
}

// faults are wrong answers.
func (d *databases) faults() (err error) {
	for _, l := range d.ledgers {
		_, _, fault := l.state()
		err = errors.Join(err, fault)
	}
	return err
}

// start makes db1 the primary, with the application's tables, and the others its replicas.
func (d *databases) start(ctx context.Context) error {
	template := ""
	for i, r := range d.Reals {
		db, dir, err := d.startDatabase(ctx, i, r, template)
		if err != nil {
			return err
		}
		d.servers, template = append(d.servers, db), dir
	}
	for i, db := range d.servers {
		if err := Await(ctx, func() error { return db.admin.PingContext(ctx) }); err != nil {
			return fmt.Errorf("db%d: %w\n%s", i+1, err, db.Log)
		}
	}
	for table, vip := range map[string]netip.Addr{"app.ipv4": VIP4, "app.ipv6": VIP6} {
		l, err := newLedger(d.Client, vip, table)
		if err != nil {
			return err
		}
		d.ledgers = append(d.ledgers, l)
	}
	return errors.Join(d.follow(ctx, 1, 0), d.follow(ctx, 2, 0), d.servers[0].do(ctx, "SET GLOBAL read_only = OFF", "CREATE DATABASE app",
		"CREATE TABLE app.ipv4 (n INT PRIMARY KEY, value INT)", "CREATE TABLE app.ipv6 (n INT PRIMARY KEY, value INT)",
		"CREATE USER "+appUser+"@'%' IDENTIFIED BY '"+programs.Password+"'", "GRANT SELECT, INSERT, DELETE ON app.* TO "+appUser+"@'%'",
		"CREATE USER director@'%' IDENTIFIED BY 'change me'", "GRANT REPLICA MONITOR ON *.* TO director@'%'"))
}

// startDatabase starts a server, with a copy of the database in the directory of another one, if there is one.
func (d *databases) startDatabase(ctx context.Context, i int, r *Real, template string) (*database, string, error) {
	dir, err := d.directory(r)
	if err != nil {
		return nil, "", err
	}
	server, err := programs.NewMariaDB(ctx, dir, template, fmt.Sprintf(databaseConfig, i+1))
	if err != nil {
		return nil, "", err
	}
	if template == "" { // which stays as it is
		template = filepath.Join(d.Dir, "template")
		if err := programs.CopyMariaDB(ctx, dir, template); err != nil {
			return nil, "", err
		}
	}
	db := &database{real: r, server: server}
	if db.Process, err = d.serve(r, server); err != nil {
		return nil, "", err
	}
	db.admin, err = openDatabase(r.Host, netip.AddrPortFrom(r.V4, writePort), programs.Admin)
	return db, template, err
}

// do makes statements as the administrator.
func (db *database) do(ctx context.Context, statements ...string) error {
	for _, statement := range statements {
		if _, err := db.admin.ExecContext(ctx, statement); err != nil {
			return fmt.Errorf("%s: %s: %w", db.real.Name(), statement, err)
		}
	}
	return nil
}

// follow makes one the replica of another.
func (d *databases) follow(ctx context.Context, replica, primary int) error {
	return d.servers[replica].do(ctx, fmt.Sprintf("CHANGE MASTER TO master_host='%v', master_user='%s', master_password='%s', master_connect_retry=1, master_use_gtid=slave_pos",
		d.Reals[primary].V4, programs.Replica, programs.Password), "START SLAVE")
}

// awaitRoles waits until writes go to the primary and reads to the replicas, in both families.
func (d *databases) awaitRoles(ctx context.Context, primary int, replicas ...int) error {
	for _, family := range []string{"", "6"} {
		vip := d.vipOf(family)
		if err := d.AwaitUsable(ctx, "writes"+family, d.Addrs(vip, primary)...); err != nil {
			return err
		}
		if err := d.AwaitUsable(ctx, "reads"+family, d.Addrs(vip, replicas...)...); err != nil {
			return err
		}
	}
	return nil
}

// progress has the programs do something, with reads answered by these servers only, and shows them.
func (d *databases) progress(ctx context.Context, n int, readers ...int) error {
	for _, l := range d.ledgers {
		l.allow(readers...)
	}
	for _, l := range d.ledgers {
		if err := l.awaitMore(ctx, n); err != nil {
			return err
		}
		d.Screen.Block(l.String())
	}
	return nil
}

func (d *databases) tellOrdinary(ctx context.Context) error {
	d.Screen.Step("A program writes and reads", "Two ports of one address. Every answer is checked: no gap, no wrong value, nothing that was never written, by a replica.")
	if err := d.progress(ctx, 20, 2, 3); err != nil {
		return err
	}
	return d.Show(ctx, "list")
}
