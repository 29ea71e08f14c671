// SPDX-License-Identifier: Apache-2.0

// Package api is the daemon's interface on a unix socket: HTTP/1.1 with JSON,
// its server and its client.
//
//	GET    /v1/snapshot                    director.Snapshot
//	GET    /v1/connections?filter=TEXT     application/x-ndjson, one director.Conn a line
//	DELETE /v1/connections?filter=TEXT     {"deleted": 12}; with all=true in the filter's place: all
//	GET    /v1/connections/count?filter=…  {"count": 12}
//	GET    /v1/persistence?filter=TEXT     the same for the templates of persistence, a director.Conn each
//	DELETE /v1/persistence?filter=TEXT     likewise
//	GET    /v1/persistence/count?filter=…  likewise
//	GET    /v1/timeouts                    {"tcp": "15m", "tcpfin": "2m", …}, all that are in force
//	PATCH  /v1/timeouts                    the same, changed by a body as {"tcp": "10m", "udp": 30}
//	GET    /v1/addresses                   director.AddressList
//	POST   /v1/explain                     director.Explanation of a director.Question
//	GET    /v1/version                     {"version": "v0.1.0"}
//	GET    /v1/openapi.json                all of this, in OpenAPI 3.1
//	POST   /v1/reload                      {} when the configuration is in force
//
// Timeouts that were changed are in force until the configuration is read again.
// A filter is written in ss's words, see package connfilter. An error is
// {"error": "text"} with a status that fits; in a stream that has begun it is
// the last line. Who may ask is decided by the peer's credentials
// (SO_PEERCRED): see ServerOptions.
//
// With curl: curl --unix-socket /run/director/director.sock http://director/v1/snapshot
package api

import (
	"context"

	"xdplvs/director"
)

// DefaultSocket is where the daemon listens unless its configuration says otherwise.
const DefaultSocket = "/run/director/director.sock"

// Backend is what the daemon offers. Its methods are called from several
// goroutines at once.
type Backend interface {
	// Snapshot is the newest state; nil before there is one.
	Snapshot() *director.Snapshot
	// Connections calls yield for each connection, in the table's order. It
	// stops at yield's first error, and when ctx ends, and returns that error.
	// Yield blocks as long as a slow reader does, so no lock may be held
	// around it; it does not keep the connection.
	Connections(ctx context.Context, yield func(*director.Conn) error) error
	// DeleteConnections ends the connections that match, and returns how many. It
	// stops at the first error, and when ctx ends. Match does not keep the connection.
	DeleteConnections(ctx context.Context, match func(*director.Conn) bool) (uint64, error)
	// Templates is Connections for the templates of persistence.
	Templates(ctx context.Context, yield func(*director.Conn) error) error
	// DeleteTemplates is DeleteConnections for them.
	DeleteTemplates(ctx context.Context, match func(*director.Conn) bool) (uint64, error)
	// Timeouts are those in force.
	Timeouts(ctx context.Context) (director.Timeouts, error)
	// SetTimeouts changes those that are not 0, and returns all in force then.
	SetTimeouts(ctx context.Context, change director.Timeouts) (director.Timeouts, error)
	// Addresses are the virtual addresses as they are held.
	Addresses() director.AddressList
	// Explain tells what would become of a packet; nothing changes by it.
	Explain(ctx context.Context, q director.Question) (*director.Explanation, error)
	// Reload reads the configuration again and puts it in force. The error is
	// what the user sees, one line for each mistake; nothing changed then.
	Reload(ctx context.Context) error
	// Version is the daemon's version.
	Version() string
}

// The paths. The version is in the path; a change that breaks a reader is a new one.
const (
	pathSnapshot    = "/v1/snapshot"
	pathConnections = "/v1/connections"
	pathCount       = "/v1/connections/count"
	pathPersistence = "/v1/persistence"
	pathTemplates   = "/v1/persistence/count"
	pathTimeouts    = "/v1/timeouts"
	pathAddresses   = "/v1/addresses"
	pathExplain     = "/v1/explain"
	pathVersion     = "/v1/version"
	pathOpenAPI     = "/v1/openapi.json"
	pathReload      = "/v1/reload"
)

// The bodies of the small answers.
type (
	errorBody struct {
		Error string `json:"error"`
	}
	countBody struct {
		Count uint64 `json:"count"`
	}
	deletedBody struct {
		Deleted uint64 `json:"deleted"`
	}
	versionBody struct {
		Version string `json:"version"`
	}
)
