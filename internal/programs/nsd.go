// SPDX-License-Identifier: Apache-2.0

package programs

import (
	"errors"
	"path/filepath"
)

const nsdConfig = `
server:
  zonesdir: "$dir"
  database: ""
  username: ""
  chroot: ""
  pidfile: "$dir/pid"
  xfrdfile: "$dir/xfrd.state"
  xfrdir: "$dir"
  zonelistfile: "$dir/zone.list"
  logfile: ""
$further
remote-control:
  control-enable: no
zone:
  name: $zone
  zonefile: $zone.zone
`

// NewNSD writes a configuration into a directory of nobody's, with further lines of its server section, and a zone.
func NewNSD(dir, zone, records, further string) (Server, error) {
	path, err := Find("nsd", "/usr/sbin/nsd")
	if err != nil {
		return Server{}, err
	}
	config := filepath.Join(dir, "nsd.conf")
	err = errors.Join(Write(filepath.Join(dir, zone+".zone"), "$ORIGIN "+zone+".\n"+records),
		Write(config, nsdConfig, "$dir", dir, "$zone", zone, "$further", further))
	return Server{Who: Nobody(), Path: path, Args: []string{"-d", "-c", config}}, err
}
