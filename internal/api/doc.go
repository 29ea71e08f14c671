// SPDX-License-Identifier: Apache-2.0

// Package api is the daemon's interface on a unix socket, and over TCP with TLS:
// HTTP/1.1 with JSON, its server and its client.
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
//	GET    /v1/defense                     director.DefenseState
//	PATCH  /v1/defense                     the same, settings changed by a body as {"drop_packet": 3, "am_droprate": 5}
//	GET    /v1/defense/report              director.DefenseReport
//	GET    /v1/addresses                   director.AddressList
//	GET    /v1/health                      director.HealthList
//	GET    /v1/health/history?real=TEXT    a list of director.HealthHistory; with service=TEXT only of that one
//	POST   /v1/health/order                {"ordered": 2} by a body that is a director.HealthOrder
//	POST   /v1/explain                     director.Explanation of a director.Question
//	GET    /v1/trace?filter=TEXT&bytes=N   application/x-ndjson, a director.TraceLine for each packet as it goes by, with so
//	                                       many bytes of its frames; until the reader goes
//	POST   /v1/replay?interface=NAME       likewise for each packet of the body, a file in the format pcap or pcapng, as if
//	                                       they came in now; nothing changes by it
//	GET    /v1/version                     {"version": "v0.1.0"}
//	GET    /v1/openapi.json                all of this, in OpenAPI 3.1
//	POST   /v1/reload                      {} when the configuration is in force
//	GET    /v1/config                      application/yaml, the file with the run-time changes in it
//	PATCH  /v1/config                      {} when the edits of a body as {"edits": [{"op": "edit-real", "service": "web",
//	                                       "real": "10.0.0.1:80", "set": {"weight": 3}}]} are in force, all or none
//	GET    /v1/changes                     director.Changes, what is not as in the file
//	DELETE /v1/changes                     {} when all is as in the file
//	POST   /v1/plan                        director.Preview of a body {"file": "new.yaml", "text": "interfaces: …"}
//	POST   /v1/apply?confirm=2m            {} when that configuration is in force; with confirm until it is confirmed, or
//	                                       the time is over
//	POST   /v1/confirm                     {}
//	POST   /v1/rollback                    {} when the former configuration is in force
//	GET    /v1/watch?since=POSITION        application/x-ndjson, or text/event-stream if that is accepted: a director.Event for
//	                                       each change behind the position, from now on without one
//	POST   /v1/stop                        {}, and the daemon ends; with detach=true all that it added to the host goes, too
//	POST   /v1/zero?service=NAME           {}; counters are shown from 0 on, those of all services without the parameter
//
// Timeouts and settings of defenses that were changed are in force until the configuration is read again.
// A filter is written in ss's words, see package connfilter. An error is
// {"error": "text"} with a status that fits (of an edit also "fault", see director.EditFault, and
// "index"); in a stream that has begun it is
// the last line. Who may ask is decided by the peer's credentials
// (SO_PEERCRED): see ServerOptions; over TCP by a Gate.
//
// With curl: curl --unix-socket /run/director/director.sock http://director/v1/snapshot
package api

import (
	"context"
	"io"
	"time"

	"xdplvs/director"
	"xdplvs/internal/api/connfilter"
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
	// Defense is what the defenses do.
	Defense(ctx context.Context) (director.DefenseState, error)
	// SetDefense changes settings, and returns what the defenses do then. The change is valid.
	SetDefense(ctx context.Context, change director.DefenseChange) (director.DefenseState, error)
	// DefenseReport tells who has sent most, and what became of it.
	DefenseReport(ctx context.Context) (director.DefenseReport, error)
	// Addresses are the virtual addresses as they are held.
	Addresses() director.AddressList
	// Health is that of the services that are checked.
	Health() director.HealthList
	// HealthHistory is what became of the real servers that a text means, of one service or, if that is empty, all.
	HealthHistory(real, service string) ([]director.HealthHistory, error)
	// OrderHealth sets the condition of real servers by hand, and returns of how many.
	OrderHealth(director.HealthOrder) (int, error)
	// Marks are the rules that mark packets, as they are in force.
	Marks(ctx context.Context) (director.MarkList, error)
	// ExplainMark tells which rule marks a packet, and which service takes it.
	ExplainMark(ctx context.Context, q director.MarkQuestion) (director.MarkAnswer, error)
	// Explain tells what would become of a packet; nothing changes by it.
	Explain(ctx context.Context, q director.Question) (*director.Explanation, error)
	// Trace gives packets that the filter lets through, with so many bytes of their frames, until ctx ends or
	// yield fails; and how many are missing so far. The first call has none: from then on they are seen.
	Trace(ctx context.Context, filter *connfilter.Packets, bytes int, yield func(batch []director.Traced, lost uint64) error) error
	// Replay tells what would become of the packets of a capture; nothing changes by it. An error is an *Error
	// if the capture is at fault.
	Replay(ctx context.Context, capture io.Reader, in string, yield func(*director.TraceLine) error) error
	// Reload reads the configuration again and puts it in force. The error is
	// what the user sees, one line for each mistake; nothing changed then.
	Reload(ctx context.Context) error
	// Config is the text of a configuration file that is what is in force.
	Config() ([]byte, error)
	// Edit changes services until the changes are discarded. Either all edits are made, or none and the
	// error is a *director.EditError, or what the user sees.
	Edit(ctx context.Context, edits []director.Edit) error
	// Changes are those that edits made of the configuration.
	Changes() director.Changes
	// DiscardChanges makes everything as the configuration says.
	DiscardChanges(ctx context.Context) error
	// Preview tells what a configuration would change.
	Preview(ctx context.Context, file string, text []byte) (director.Preview, error)
	// Apply puts a configuration in force and in the place of the daemon's file; with confirm above 0, until
	// that time is over, or for good if Confirm is called before.
	Apply(ctx context.Context, file string, text []byte, confirm time.Duration) error
	// Confirm makes a configuration stay that waits for it.
	Confirm(ctx context.Context) error
	// Rollback returns to the former configuration.
	Rollback(ctx context.Context) error
	// Zero lets the counters of a service, or of all, begin at 0.
	Zero(ctx context.Context, service string) error
	// Stop ends the daemon, which takes a moment; detach: with all that it added to the host.
	Stop(detach bool)
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
	pathDefense     = "/v1/defense"
	pathReport      = "/v1/defense/report"
	pathAddresses   = "/v1/addresses"
	pathHealth      = "/v1/health"
	pathHistory     = "/v1/health/history"
	pathOrder       = "/v1/health/order"
	pathMarks       = "/v1/marks"
	pathExplainMark = "/v1/marks/explain"
	pathExplain     = "/v1/explain"
	pathTrace       = "/v1/trace"
	pathReplay      = "/v1/replay"
	pathVersion     = "/v1/version"
	pathOpenAPI     = "/v1/openapi.json"
	pathReload      = "/v1/reload"
	pathConfig      = "/v1/config"
	pathChanges     = "/v1/changes"
	pathZero        = "/v1/zero"
	pathPlan        = "/v1/plan"
	pathApply       = "/v1/apply"
	pathConfirm     = "/v1/confirm"
	pathRollback    = "/v1/rollback"
	pathWatch       = "/v1/watch"
	pathStop        = "/v1/stop"
)

// The bodies of the small answers.
type (
	errorBody struct {
		Error string             `json:"error"`
		Fault director.EditFault `json:"fault,omitempty"`
		Index int                `json:"index,omitempty"`
	}
	fileBody struct {
		File string `json:"file"`
		Text string `json:"text"`
	}
	editsBody struct {
		Edits []director.Edit `json:"edits"`
	}
	countBody struct {
		Count uint64 `json:"count"`
	}
	deletedBody struct {
		Deleted uint64 `json:"deleted"`
	}
	orderedBody struct {
		Ordered int `json:"ordered"`
	}
	versionBody struct {
		Version string `json:"version"`
	}
)
