// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

// Accounts of every MariaDB: Admin may do everything, Checker what the checks of replicas need, Replica what
// replicas need, Nobody nothing.
const (
	Admin    = "admin"
	Checker  = "checker"
	Replica  = "replica"
	Stranger = "nobody"
	Password = "s3cret!"
)

// accounts are made when a server starts, and stand in no log: each server has its own.
const accounts = `SET sql_log_bin = 0;
CREATE OR REPLACE USER admin@'%' IDENTIFIED BY '$password';
GRANT ALL ON *.* TO admin@'%' WITH GRANT OPTION;
CREATE OR REPLACE USER checker@'%' IDENTIFIED BY '$password';
GRANT REPLICA MONITOR ON *.* TO checker@'%';
CREATE OR REPLACE USER replica@'%' IDENTIFIED BY '$password';
GRANT REPLICATION SLAVE ON *.* TO replica@'%';
CREATE OR REPLACE USER nobody@'%' IDENTIFIED BY '$password';
`

// mariaConfig is for a server of a short life: small, and it waits for no disk.
const mariaConfig = `
[mariadbd]
datadir=$dir/data
socket=$dir/socket
pid_file=$dir/pid
tmpdir=$dir
init_file=$dir/init.sql
skip_name_resolve
innodb_buffer_pool_size=8M
innodb_log_file_size=4M
innodb_flush_log_at_trx_commit=0
innodb_flush_method=nosync
performance_schema=OFF
log_bin=binlog
max_connect_errors=1000000
`

// NewMariaDB writes a configuration into a directory of nobody's, which goes on with further lines, where $dir is
// the directory. The database is a copy of that in template, or new if that is empty.
func NewMariaDB(ctx context.Context, dir, template, further string) (Server, error) {
	path, err := Find("mariadb-server-core", "/usr/sbin/mariadbd")
	if err != nil {
		return Server{}, err
	}
	file := filepath.Join(dir, "my.cnf")
	err = errors.Join(Write(filepath.Join(dir, "init.sql"), accounts, "$password", Password), Write(file, mariaConfig+further, "$dir", dir))
	if err != nil {
		return Server{}, err
	}
	if template == "" {
		err = installMariaDB(ctx, dir, file)
	} else {
		err = CopyMariaDB(ctx, template, dir)
	}
	return Server{Who: Nobody(), Path: path, Args: []string{"--defaults-file=" + file}}, err
}

// installMariaDB makes a new database, which takes some seconds.
func installMariaDB(ctx context.Context, dir, config string) error {
	install, err := Find("mariadb-server-core", "/usr/bin/mariadb-install-db")
	if err != nil {
		return err
	}
	if _, err := Find("mariadb-client-core", "/usr/bin/mariadb"); err != nil {
		return err
	}
	data := filepath.Join(dir, "data")
	if err := errors.Join(os.Mkdir(data, 0o755), Give(data, 0o755)); err != nil {
		return err
	}
	return to(ctx, Nobody(), install, "--defaults-file="+config, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve")
}

// CopyMariaDB copies the database of a server that does not run into another directory, which it makes if need be.
func CopyMariaDB(ctx context.Context, from, dir string) error {
	if err := errors.Join(os.MkdirAll(dir, 0o755), Give(dir, 0o755)); err != nil {
		return err
	}
	return to(ctx, Nobody(), "cp", "-r", filepath.Join(from, "data"), dir)
}
