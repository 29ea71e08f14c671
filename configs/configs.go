// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"fmt"
	"io"
	"os"

	"gopkg.in/yaml.v3"

	"xdplvs/director"
	"xdplvs/internal/health"
	"xdplvs/internal/notify"
)

// What is assumed where a file says nothing; director.DefaultLimits and
// director.DefaultTimeouts are the others.
const (
	DefaultFile      = "/etc/director/director.yaml"
	DefaultSocket    = "/run/director/director.sock"
	DefaultStateDir  = "/sys/fs/bpf/director"
	DefaultScheduler = "wrr"
	DefaultWeight    = 1
)

// MaxFileSize is the largest file that is read, in bytes.
const MaxFileSize = 64 << 20

// Config is what a file says, built and checked.
type Config struct {
	Desired  director.Desired
	Limits   director.Limits
	Socket   string // Unix socket of the daemon
	StateDir string // directory in a bpffs where maps and links are pinned

	Addresses []director.Address // who has the services' addresses, as far as the file says
	Announce  director.Announcing
	Metrics   Metrics
	API       API

	Health []health.Service // of all services, checked or not
	checks *yaml.Node       // the checks that the file names, for services that come at run time
	Notify []notify.Target
	Notes  Errors     // what is no fault, and may not be meant
	lists  []listFile // not read yet
}

// Default is the configuration of a file that says nothing. It is not one to run:
// it has no interface.
func Default() *Config {
	return &Config{
		Desired:  director.Desired{Timeouts: director.DefaultTimeouts, Locals: director.LocalEnds{Ports: director.DefaultLocalPorts}, Defense: director.DefaultDefense},
		Limits:   director.DefaultLimits,
		Socket:   DefaultSocket,
		StateDir: DefaultStateDir,
		Announce: director.DefaultAnnouncing,
	}
}

// Load reads and checks a file. The error is *Errors if its content is at fault;
// then there is no Config.
func Load(file string) (*Config, error) {
	data, err := Read(file)
	if err != nil {
		return nil, err
	}
	c, err := Parse(file, data)
	if err != nil {
		return nil, err
	}
	if err := c.ReadLists(); err != nil {
		return nil, err
	}
	return c, nil
}

// Read is the content of a file, for Parse. It stops one byte after MaxFileSize, which is what Parse
// refuses.
func Read(file string) ([]byte, error) {
	data, err := readLimited(file)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return data, nil
}

func readLimited(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, MaxFileSize+1))
}

// Parse checks the content of a file, whose name is for messages only; files of prefixes that it names are
// not read. The error
// is always *Errors and has all faults; then there is no Config.
func Parse(file string, data []byte) (*Config, error) {
	doc := &document{file: file}
	b := newBuilder(doc)
	if top, ok := doc.parse(data); ok {
		if r, ok := rootObject.decode(top); ok {
			b.root(r)
		}
	}
	if err := doc.report(); err != nil {
		return nil, err
	}
	return b.config, nil
}
