// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"xdplvs/configs"
	"xdplvs/director"
	"xdplvs/internal/atomicfile"
	"xdplvs/internal/door"
	"xdplvs/internal/health"
)

// document is what is in force: a file, and what was changed of its services at run time. The
// changes are in a file of their own, so that they are there when the daemon comes back, however it
// ended. Like the tables, that file does not outlive the machine.
type document struct {
	text     []byte // of the file
	config   *configs.Config
	changes  director.Changes
	services []director.Service // of the file, with the changes
	health   []health.Service   // how they are checked
}

// newDocument puts changes upon the file's services. What the file says itself is no change any more.
// The error tells what contradicts itself.
func newDocument(text []byte, config *configs.Config, changes director.Changes) (document, error) {
	services := changes.Apply(config.Desired.Services)
	doc := document{text: text, config: config, changes: director.Diff(config.Desired.Services, services), services: services}
	var err error
	doc.health, err = config.HealthOf(services, doc.changes)
	return doc, errors.Join(doc.check(), err)
}

// check finds what a file and changes may have, each rightly, but not together.
func (doc *document) check() error {
	if doc.changes.Empty() {
		return nil
	}
	names := map[string]director.ServiceKey{}
	var errs []error
	for i := range doc.services {
		s := &doc.services[i]
		if other, taken := names[s.Name]; taken && s.Name != "" {
			errs = append(errs, fmt.Errorf("name %s is that of service %s and, changed at run time, of %s", s.Name, other, s.Key))
		}
		names[s.Name] = s.Key
		errs = append(errs, s.Validate())
	}
	return errors.Join(errs...)
}

// desired is all that is wanted.
func (doc *document) desired() director.Desired {
	want := doc.config.Desired
	want.Services = doc.services
	return want
}

// probes are the families in which real servers are asked as by clients.
func (doc *document) probes() door.Marks { return door.Families(health.ByService(doc.health)) }

// addresses are those of services that there are.
func (doc *document) addresses() []director.Address {
	served := make(map[netip.Addr]bool, len(doc.services))
	for i := range doc.services {
		served[doc.services[i].Key.Addr] = true
	}
	return slices.DeleteFunc(slices.Clone(doc.config.Addresses), func(a director.Address) bool { return !served[a.Addr] })
}

// changesFile is the content of the file of changes.
type changesFile struct {
	Version int `json:"version"`
	director.Changes
}

const changesVersion = 1

// readChanges reads the file of changes; without one there are none.
func readChanges(path string) (director.Changes, error) {
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return director.Changes{}, nil
	}
	var f changesFile
	if err == nil {
		err = json.Unmarshal(text, &f)
	}
	if err == nil && f.Version != changesVersion {
		err = fmt.Errorf("version is %d, want %d", f.Version, changesVersion)
	}
	if err != nil {
		return director.Changes{}, fmt.Errorf("read run-time changes (if you remove %s, they are lost): %w", path, err)
	}
	return f.Changes, nil
}

// keepChanges writes the file of changes.
func (d *daemon) keepChanges(c director.Changes) error {
	if c.Empty() {
		if err := os.Remove(d.changesFile); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("remove run-time changes: %w", err)
		}
		return nil
	}
	text, err := json.Marshal(changesFile{changesVersion, c})
	if err == nil {
		err = atomicfile.Write(d.changesFile, text)
	}
	if err != nil {
		return fmt.Errorf("write run-time changes: %w", err)
	}
	return nil
}

// put puts a document in force and on record, or leaves everything as it was. Timeouts stay those in
// force, unless the document has some of its own.
func (d *daemon) put(ctx context.Context, doc document, timeouts director.Timeouts) error {
	want := doc.desired()
	want.Timeouts = timeouts
	if !sameChecks(d.doc.health, doc.health) {
		d.health.Prepare(doc.health)
	}
	set := func(want director.Desired) error { return d.director.Set(ctx, want) }
	if err := d.enforce(want, doc.probes(), set); err != nil {
		return err
	}
	changes := doc.changes
	if d.unconfirmed != nil { // a start finds the former file
		changes = d.unconfirmed.changes(doc.services)
	}
	if err := d.keepChanges(changes); err != nil {
		former := d.doc.desired()
		former.Timeouts = timeouts
		return errors.Join(err, d.enforce(former, d.doc.probes(), set))
	}
	d.watched.changed(&d.doc, &doc)
	d.doc = doc
	if err := errors.Join(d.setHealth(&doc), d.setGate(&doc)); err != nil {
		return err
	}
	return d.holdAddresses(ctx, &d.doc)
}

// edit changes services at run time.
func (d *daemon) edit(ctx context.Context, edits []director.Edit) error {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	services, err := d.doc.config.Edit(d.doc.services, edits)
	if err != nil {
		return err
	}
	return d.change(ctx, director.Diff(d.doc.config.Desired.Services, services))
}

// change puts the file with other changes in force.
func (d *daemon) change(ctx context.Context, changes director.Changes) error {
	timeouts, err := d.director.Timeouts(ctx)
	if err != nil {
		return err
	}
	doc, err := newDocument(d.doc.text, d.doc.config, changes)
	if err != nil {
		return err
	}
	return d.put(ctx, doc, timeouts)
}

// Edit implements api.Backend.
func (b backend) Edit(ctx context.Context, edits []director.Edit) error {
	return b.d.edit(ctx, edits)
}

// Changes implements api.Backend.
func (b backend) Changes() director.Changes {
	b.d.reloading.Lock()
	defer b.d.reloading.Unlock()
	return configs.Hide(b.d.doc.changes)
}

// DiscardChanges implements api.Backend.
func (b backend) DiscardChanges(ctx context.Context) error {
	b.d.reloading.Lock()
	defer b.d.reloading.Unlock()
	return b.d.change(ctx, director.Changes{})
}

// Config implements api.Backend.
func (b backend) Config() ([]byte, error) {
	b.d.reloading.Lock()
	doc := b.d.doc
	b.d.reloading.Unlock()
	text, err := configs.Rewrite(doc.text, doc.config, doc.services)
	if err != nil {
		return nil, err
	}
	return configs.HideSecrets(text)
}
