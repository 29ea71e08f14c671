// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"xdplvs/director"
	"xdplvs/internal/atomicfile"
)

// trial is a configuration that is in force until it is confirmed, or its time is over. The file is
// written when it is confirmed: so whatever ends the daemon before, the former one is back.
type trial struct {
	former document
	begun  []director.Service // of the trial, before anything was changed at run time
	back   *time.Timer
}

// changes are those upon the former file: what was changed before the trial, and since then. What the
// trial's file says is none, although it may say the same.
func (t *trial) changes(now []director.Service) director.Changes {
	want := director.Diff(t.begun, now).Apply(t.former.services)
	return director.Diff(t.former.config.Desired.Services, want)
}

var (
	errUnconfirmed = errors.New("a configuration waits for its confirmation: director confirm, or director rollback")
	errNoTrial     = errors.New("no configuration waits for its confirmation")
	errNoFormer    = errors.New("no former configuration is kept")
)

// mostGenerations is how many former texts of the file are kept.
const mostGenerations = 10

func (d *daemon) generationsDir() string {
	return filepath.Join(filepath.Dir(d.changesFile), "generations")
}

// generations are the files of former texts, the oldest first.
func (d *daemon) generations() []string {
	files, _ := filepath.Glob(filepath.Join(d.generationsDir(), "[0-9]*.yaml")) // the error is for bad patterns
	slices.Sort(files)
	return files
}

// remember keeps a text that is in force no more. That it cannot be kept stops nobody.
func (d *daemon) remember(former []byte) {
	if bytes.Equal(former, d.doc.text) {
		return
	}
	files, next := d.generations(), 1
	if len(files) > 0 {
		_, _ = fmt.Sscanf(filepath.Base(files[len(files)-1]), "%d", &next) // its name begins with a digit
		next++
	}
	err := os.MkdirAll(d.generationsDir(), 0o700)
	if err == nil {
		err = atomicfile.Write(filepath.Join(d.generationsDir(), fmt.Sprintf("%08d.yaml", next)), former)
	}
	for err == nil && len(files) >= mostGenerations {
		err, files = os.Remove(files[0]), files[1:]
	}
	if err != nil {
		d.log.Error("keep former configuration", "event", "generation_failed", "error", err)
	}
}

// Preview implements api.Backend.
func (b backend) Preview(ctx context.Context, file string, text []byte) (director.Preview, error) {
	b.d.reloading.Lock()
	defer b.d.reloading.Unlock()
	doc, err := b.d.read(file, text)
	if err != nil {
		return director.Preview{}, err
	}
	s, err := b.d.director.Snapshot(ctx)
	if err != nil {
		return director.Preview{}, err
	}
	return preview(&b.d.doc, &doc, s), nil
}

// Apply implements api.Backend.
func (b backend) Apply(ctx context.Context, file string, text []byte, confirm time.Duration) error {
	d := b.d
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.unconfirmed != nil {
		return errUnconfirmed
	}
	doc, err := d.read(file, text)
	if err != nil {
		return err
	}
	former := d.doc
	if confirm > 0 {
		d.unconfirmed = &trial{former: former, begun: doc.services}
	}
	if err := d.use(ctx, doc); err != nil {
		d.unconfirmed = nil
		return err
	}
	if confirm == 0 {
		return d.keep(ctx, former)
	}
	t := d.unconfirmed
	t.back = time.AfterFunc(confirm, func() { d.expire(t) })
	return nil
}

// keep writes what is in force to the daemon's file. If it cannot be written, the former is back.
func (d *daemon) keep(ctx context.Context, former document) error {
	err := atomicfile.Replace(d.opts.ConfigFile, d.doc.text)
	if err == nil {
		err = d.keepChanges(d.doc.changes) // those upon this file
	}
	if err != nil {
		return errors.Join(fmt.Errorf("write configuration: %w", err), d.use(ctx, former))
	}
	d.remember(former.text)
	d.log.Info("configuration applied", "event", "applied", "file", d.opts.ConfigFile)
	return nil
}

// expire returns to the former configuration of a trial that nobody has confirmed.
func (d *daemon) expire(t *trial) {
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.unconfirmed != t {
		return
	}
	d.log.Warn("configuration was not confirmed: the former one is back", "event", "not_confirmed")
	if err := d.giveUp(context.Background()); err != nil && !errors.Is(err, director.ErrStopped) {
		d.log.Error("return to the former configuration", "event", "return_failed", "error", err)
	}
}

// giveUp ends a trial with the former configuration.
func (d *daemon) giveUp(ctx context.Context) error {
	t := d.unconfirmed
	t.back.Stop()
	d.unconfirmed = nil
	doc, err := newDocument(t.former.text, t.former.config, t.changes(d.doc.services))
	if err != nil {
		return err
	}
	return d.use(ctx, doc)
}

// Confirm implements api.Backend.
func (b backend) Confirm(ctx context.Context) error {
	d := b.d
	d.reloading.Lock()
	defer d.reloading.Unlock()
	t := d.unconfirmed
	if t == nil {
		return errNoTrial
	}
	t.back.Stop()
	d.unconfirmed = nil
	return d.keep(ctx, t.former)
}

// Rollback implements api.Backend.
func (b backend) Rollback(ctx context.Context) error {
	d := b.d
	d.reloading.Lock()
	defer d.reloading.Unlock()
	if d.unconfirmed != nil {
		return d.giveUp(ctx)
	}
	files := d.generations()
	if len(files) == 0 {
		return errNoFormer
	}
	last := files[len(files)-1]
	text, err := os.ReadFile(last)
	if err != nil {
		return fmt.Errorf("read former configuration: %w", err)
	}
	undone := d.doc
	if err := d.take(ctx, last, text); err != nil {
		return err
	}
	if err := atomicfile.Replace(d.opts.ConfigFile, text); err != nil {
		return errors.Join(fmt.Errorf("write configuration: %w", err), d.use(ctx, undone))
	}
	d.log.Info("rolled back", "event", "rolled_back", "file", d.opts.ConfigFile)
	return errors.Join(os.Remove(last), atomicfile.Write(filepath.Join(d.generationsDir(), "undone.yaml"), undone.text))
}
