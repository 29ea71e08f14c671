// SPDX-License-Identifier: Apache-2.0

package api

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
)

// Page is something that is served beside the API's routes and makes its answers itself.
type Page struct {
	Path    string // with a slash at its end: all below it, too
	Admin   bool   // for those who may change things only, and never without credentials
	Handler http.Handler
}

// pageFor finds the page of a path; nil if there is none.
func (o *ServerOptions) pageFor(path string) *Page {
	for i := range o.Pages {
		p := &o.Pages[i]
		if p.Path == path || strings.HasSuffix(p.Path, "/") && strings.HasPrefix(path, p.Path) {
			return p
		}
	}
	return nil
}

// serve checks the request, and lets the page answer it.
func (p *Page) serve(w http.ResponseWriter, r *http.Request) error {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		return failure(http.StatusMethodNotAllowed, "%s wants GET, not %s", r.URL.Path, r.Method)
	}
	if r.ContentLength != 0 {
		w.Header().Set("Connection", "close") // or the server would wait for the body
		return failure(http.StatusRequestEntityTooLarge, "%s takes no body", r.URL.Path)
	}
	p.Handler.ServeHTTP(w, r)
	return nil
}

func servePage(w http.ResponseWriter, r *http.Request, p *Page, who *caller) error {
	if p.Admin {
		if err := who.must(admin); err != nil {
			return err
		}
	}
	return p.serve(w, r)
}

// NewPageServer makes a server for listeners whose peers nobody knows: it has the pages that are not
// for administrators, and nothing of the API.
func NewPageServer(log *slog.Logger, opts ServerOptions) *Server {
	s := NewServer(log, nil, opts)
	s.dispatch = s.dispatchOpen
	s.connContext = func(ctx context.Context, c net.Conn) context.Context {
		limited, ok := c.(*limitedConn)
		return context.WithValue(ctx, connKey{}, &connInfo{refused: ok && limited.refused})
	}
	return s
}

func (s *Server) dispatchOpen(w http.ResponseWriter, r *http.Request) error {
	info, ok := r.Context().Value(connKey{}).(*connInfo)
	if !ok {
		return errors.New("a connection without its context")
	}
	if info.refused {
		return s.full(w)
	}
	p := s.opts.pageFor(r.URL.Path)
	if p == nil || p.Admin {
		return failure(http.StatusNotFound, "unknown path %q (known: %s)", r.URL.Path, strings.Join(s.openPaths(), ", "))
	}
	return p.serve(w, r)
}

func (s *Server) openPaths() (paths []string) {
	for _, p := range s.opts.Pages {
		if !p.Admin {
			paths = append(paths, p.Path)
		}
	}
	return paths
}
