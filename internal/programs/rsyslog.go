// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"path/filepath"
)

const rsyslogConfig = `
global(workDirectory="$dir" net.enableDNS="off")
module(load="imudp")
module(load="imtcp")
template(name="line" type="string" string="%fromhost-ip% %msg%\n")
input(type="imudp" port="514")
input(type="imtcp" port="514")
action(type="omfile" file="$dir/messages" template="line")
`

// NewRsyslog writes a configuration into a directory of nobody's: what comes to port 514, by UDP and TCP, is written
// into the file messages there, each behind the address that it came from.
func NewRsyslog(dir string) (Server, error) {
	path, err := Find("rsyslog", "/usr/sbin/rsyslogd")
	if err != nil {
		return Server{}, err
	}
	config := filepath.Join(dir, "rsyslog.conf")
	err = Write(config, rsyslogConfig, "$dir", dir)
	return Server{Who: Nobody(), Path: path, Args: []string{"-n", "-i", "NONE", "-f", config}}, err
}
