// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

const postfixMain = `
compatibility_level = 3.6
queue_directory = $dir/spool
data_directory = $dir/data
maillog_file_permissions = 0644
maillog_file = /dev/stdout
smtpd_relay_restrictions = reject_unauth_destination
alias_maps =
smtpd_peername_lookup = no
`

// postfixMaster has the services that every Postfix needs, behind those that listen.
const postfixMaster = `
pickup    unix  n - n 60 1 pickup
cleanup   unix  n - n - 0 cleanup
qmgr      unix  n - n 300 1 qmgr
rewrite   unix  - - n - - trivial-rewrite
proxymap  unix  - - n - - proxymap
anvil     unix  - - n - 1 anvil
tlsmgr    unix  - - n 1000? 1 tlsmgr
local     unix  - n n - - local
virtual   unix  - n n - - virtual
bounce    unix  - - n - 0 bounce
defer     unix  - - n - 0 bounce
error     unix  - - n - - error
retry     unix  - - n - - error
postlog   unix-dgram n - n - 1 postlogd
`

// NewPostfix writes a configuration into the directory, which is made root's: further lines of main.cf, and the
// lines of master.cf of those who listen. $dir is the directory in both.
func NewPostfix(dir, main, listeners string) (Server, error) {
	path, err := Find("postfix", "/usr/sbin/postfix")
	if err != nil {
		return Server{}, err
	}
	if err := postfixDirectories(dir); err != nil {
		return Server{}, err
	}
	config := filepath.Join(dir, "config")
	err = errors.Join(writeRoots(filepath.Join(config, "main.cf"), postfixMain+main, dir), writeRoots(filepath.Join(config, "master.cf"), listeners+postfixMaster, dir))
	return Server{Path: path, Args: []string{"-c", config, "start-fg"}}, err
}

// writeRoots writes a file of root's; Postfix wants its own to be.
func writeRoots(path, text, dir string) error {
	return os.WriteFile(path, []byte(strings.ReplaceAll(text, "$dir", dir)), 0o644)
}

// postfixDirectories makes those that Postfix wants to be its own, or root's.
func postfixDirectories(dir string) error {
	owner, err := user.Lookup("postfix")
	if err != nil {
		return fmt.Errorf("%w: %w", err, ErrMissing)
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return err
	}
	errs := []error{os.Chown(dir, 0, 0)}
	for name, id := range map[string]int{"spool": 0, "data": uid, "config": 0} {
		path := filepath.Join(dir, name)
		errs = append(errs, os.Mkdir(path, 0o755), os.Chown(path, id, 0))
	}
	return errors.Join(errs...)
}

// SignalPostfix signals all processes of the Postfix of a directory, whose master leads a group of its own. None may be there.
func SignalPostfix(dir string, s syscall.Signal) error {
	text, err := os.ReadFile(filepath.Join(dir, "spool", "pid", "master.pid"))
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(-pid, s); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}
