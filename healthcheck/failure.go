// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// failure is an error that knows its result.
type failure struct{ Result }

func (f *failure) Error() string { return f.Text }

// fail is a server that is down for this reason.
func fail(code Code, status int, format string, args ...any) *failure {
	return &failure{Result{Verdict: Down, Code: code, Status: status, Text: fmt.Sprintf(format, args...)}}
}

// draining is a server that wants no new connections.
func draining(code Code, status int, format string, args ...any) *failure {
	return &failure{Result{Verdict: Up, Drain: true, Code: code, Status: status, Text: fmt.Sprintf(format, args...)}}
}

// unsent is a probe that says nothing about the server.
func unsent(format string, args ...any) *failure {
	return &failure{Result{Verdict: Unknown, Code: SOCKERR, Text: fmt.Sprintf(format, args...)}}
}

// layer is how far a probe has come.
type layer uint8

const (
	layer4 layer = iota
	layer6
	layer7
)

// timeoutCodes and errorCodes are by layer.
var (
	timeoutCodes = [...]Code{L4TOUT, L6TOUT, L7TOUT}
	errorCodes   = [...]Code{L4CON, L6RSP, L7RSP}
)

// fault turns the error that ended a probe into its result.
func (p *probe) fault(err error) Result {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.Result
	}
	at, doing := p.progress()
	switch {
	case errors.Is(context.Cause(p.ctx), context.Canceled):
		return unsent("%s: the check was cancelled", doing).Result
	case isTimeout(err) || p.ctx.Err() != nil:
		return fail(timeoutCodes[at], 0, "%s: no answer in time", doing).Result
	case p.isLocal(at, err):
		return unsent("%s: %s", doing, cause(err)).Result
	default:
		return fail(errorCodes[at], 0, "%s: %s", doing, cause(err)).Result
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// The errors of this host, whoever is asked: descriptors, memory, ports, permissions, options.
var localErrors = []error{
	unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM, unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EPERM, unix.EINVAL,
	unix.ENETDOWN, unix.ENODEV, unix.ENXIO, unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.EAGAIN,
}

// The errors that are either the host's own routing table's or what a router answered (ICMP).
var routeErrors = []error{unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EACCES}

// isLocal tells whether a probe did not leave this host.
func (p *probe) isLocal(at layer, err error) bool {
	is := func(target error) bool { return errors.Is(err, target) }
	switch {
	case at != layer4:
		return false
	case slices.ContainsFunc(localErrors, is):
		return true
	case slices.ContainsFunc(routeErrors, is):
		return !p.hasRoute()
	default:
		return false
	}
}

// hasRoute looks the route up by connecting a UDP socket, which sends nothing.
func (p *probe) hasRoute() bool {
	address := p.target.Address
	if address.Port() == 0 {
		address = addrPort(address.Addr(), 9)
	}
	c, err := p.target.dialer().DialContext(p.ctx, "udp", address.String())
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// cause is the error in the fewest words: what was done is said already.
func cause(err error) string {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err
		if op.Op == "remote error" { // TLS: the server says so, not we
			err = op
		}
	}
	if call, ok := errors.AsType[*os.SyscallError](err); ok {
		err = call.Err
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "the server closed the connection"
	}
	return strings.TrimSpace(err.Error())
}
