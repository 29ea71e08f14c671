// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sync/errgroup"

	"xdplvs/configs"
	"xdplvs/internal/api"
)

// doors are where the API is served.
type doors struct {
	socket net.Listener
	remote []net.Listener // with TLS
	open   net.Listener   // for anybody, metrics only; nil: nowhere
	opts   api.ServerOptions
}

func (s *doors) close() error {
	errs := []error{s.socket.Close(), closeListener(s.open)}
	for _, l := range s.remote {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// listen opens all of them, or none.
func (d *daemon) listen() (*doors, error) {
	admins, readers, err := d.config.API.Groups()
	if err != nil {
		return nil, err
	}
	group := readers
	if group == 0 {
		group = admins
	}
	s := &doors{opts: api.ServerOptions{AdminGroup: admins, ReadGroup: readers, Journal: d.watched.journal}}
	if s.socket, err = api.Listen(d.config.Socket, api.ListenOptions{Group: group}); err != nil {
		return nil, err
	}
	if s.open, err = d.listenOpen(); err == nil {
		s.remote, err = d.listenRemote()
	}
	if err == nil {
		s.opts.Pages, err = d.pages()
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// listenRemote listens with TLS where the configuration wants it.
func (d *daemon) listenRemote() (all []net.Listener, err error) {
	if len(d.config.API.Listen) == 0 {
		return nil, nil
	}
	if d.gate, err = api.NewGate(d.log, d.config.API.RemoteOptions); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	return api.ListenRemote(d.config.API.Listen)
}

// serve answers everywhere until ctx ends.
func (d *daemon) serve(ctx context.Context, group *errgroup.Group, s *doors) {
	group.Go(func() error { return api.NewServer(d.log, d.backend(), s.opts).Serve(ctx, s.socket) })
	for _, l := range s.remote {
		group.Go(func() error { return api.NewRemoteServer(d.log, d.backend(), s.opts, d.gate).Serve(ctx, l) })
	}
	if s.open != nil {
		group.Go(func() error { return api.NewPageServer(d.log, s.opts).Serve(ctx, s.open) })
	}
}

// setGate lets those in over TCP whom a document names.
func (d *daemon) setGate(doc *document) error {
	if d.gate == nil {
		return nil
	}
	if err := d.gate.Set(doc.config.API.RemoteOptions); err != nil {
		return fmt.Errorf("api: %w", err)
	}
	return nil
}

// checkAPI finds what cannot be read of the files that are named, and what cannot change while the director runs.
func (d *daemon) checkAPI(file string, config *configs.Config) error {
	now, next := &d.config.API, &config.API
	if !slices.Equal(now.Listen, next.Listen) || now.AdminGroup != next.AdminGroup || now.ReadGroup != next.ReadGroup {
		return fmt.Errorf("%s: listen, admin_group and read_group of api are fixed while the director runs: restart it to change them", file)
	}
	return checkRemote(file, next)
}

func checkRemote(file string, a *configs.API) error {
	if len(a.Listen) == 0 {
		return nil
	}
	if err := a.Check(); err != nil {
		return fmt.Errorf("%s: api: %w", file, err)
	}
	return nil
}
