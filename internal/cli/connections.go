// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"xdplvs/director"
	"xdplvs/internal/api"
	"xdplvs/internal/api/connfilter"
)

const filterHelp = `A FILTER is written in ss's words; all its terms must hold:

  src PREFIX, dst PREFIX, real PREFIX       the client's, virtual, real server's address
  sport = :PORT, dport = …, rport = …       their ports; also != < <= > >=
  state established,syn_recv                any of these states
  service web                               any of these services
  protocol tcp                              any of these protocols

as in: src 10.0.0.0/8 and dport = :443 state established`

// entryKind is a kind of entries of the connection table, and what its commands say.
type entryKind struct {
	of             func(*api.Client) api.Entries
	name           string // in the plural
	list, onDelete string // the commands' long texts
}

var connectionKind = entryKind{
	of:   (*api.Client).Connections,
	name: "connections",
	list: "List connections in the table's order, in the layout of ipvsadm -Lnc.",
	onDelete: "Delete connections from the director's table, and print how many those were. The next\n" +
		"packet of one is that of an unknown connection: a datagram is scheduled as new, a TCP\n" +
		"segment other than a SYN goes to the director's own stack, which resets it.",
}

var templateKind = entryKind{
	of:   (*api.Client).Templates,
	name: "templates",
	list: "List the templates of services with persistence, in the layout of ipvsadm -Lnc. A template\n" +
		"says which real server a client's connections go to; it is ASSURED when one of them was\n" +
		"established. It expires when the client has begun no connection for the service's time and\n" +
		"has none left.",
	onDelete: "Let persistence forget clients, and print how many templates those were. Their connections\n" +
		"go on; the next one that a client begins is scheduled as a new client's.",
}

func (a *app) connectionsCommand() *cobra.Command {
	cmd := a.entriesCommand(connectionKind)
	cmd.Use, cmd.Aliases = "connections [FILTER]", []string{"conns"}
	cmd.AddCommand(a.countCommand(connectionKind), a.deleteCommand(connectionKind))
	return cmd
}

func (a *app) persistenceCommand() *cobra.Command {
	cmd := a.entriesCommand(templateKind)
	cmd.Use = "persistence [FILTER]"
	list := a.entriesCommand(templateKind)
	list.Use = "list [FILTER]"
	cmd.AddCommand(list, a.countCommand(templateKind), a.deleteCommand(templateKind))
	return cmd
}

func (a *app) entriesCommand(kind entryKind) *cobra.Command {
	cmd := &cobra.Command{
		Short: "List " + kind.name,
		Long:  kind.list + "\n\n" + filterHelp,
		Args:  cobra.ArbitraryArgs,
	}
	format := addFormat(cmd, "text", "wide", "json")
	addNumeric(cmd.Flags())
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.listEntries(cmd.Context(), kind, format, args)
	}
	return cmd
}

func (a *app) countCommand(kind entryKind) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "count [FILTER]",
		Short: "Count " + kind.name,
		Long:  "Count " + kind.name + ".\n\n" + filterHelp,
		Args:  cobra.ArbitraryArgs,
	}
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.countEntries(cmd.Context(), kind, format, args)
	}
	return cmd
}

func (a *app) deleteCommand(kind entryKind) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "delete FILTER | --all",
		Short: "Delete " + kind.name,
		Long:  kind.onDelete + "\n\n" + filterHelp,
		Args:  cobra.ArbitraryArgs,
	}
	cmd.Flags().BoolVar(&all, "all", false, "delete all "+kind.name)
	format := addFormat(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.deleteEntries(cmd.Context(), kind, format, args, all)
	}
	return cmd
}

func (a *app) deleteEntries(ctx context.Context, kind entryKind, format *format, args []string, all bool) error {
	filter, err := filterText(args)
	if err != nil {
		return err
	}
	empty := strings.TrimSpace(filter) == ""
	if empty != all {
		return usagef("want a FILTER that says which %s to delete, or --all", kind.name)
	}
	client := a.client()
	defer client.Close()
	var n uint64
	if all {
		n, err = kind.of(client).DeleteAll(ctx)
	} else {
		n, err = kind.of(client).Delete(ctx, filter)
	}
	if err != nil {
		return err
	}
	if format.json() {
		return writeJSON(a.out, map[string]uint64{"deleted": n})
	}
	_, err = fmt.Fprintln(a.out, n)
	return err
}

// filterText joins the arguments and checks them before anybody is asked.
func filterText(args []string) (string, error) {
	text := strings.Join(args, " ")
	if _, err := connfilter.Parse(text); err != nil {
		return "", &usageError{err}
	}
	return text, nil
}

func (a *app) countEntries(ctx context.Context, kind entryKind, format *format, args []string) error {
	filter, err := filterText(args)
	if err != nil {
		return err
	}
	client := a.client()
	defer client.Close()
	n, err := kind.of(client).Count(ctx, filter)
	if err != nil {
		return err
	}
	if format.json() {
		return writeJSON(a.out, map[string]uint64{"count": n})
	}
	_, err = fmt.Fprintln(a.out, n)
	return err
}

func (a *app) listEntries(ctx context.Context, kind entryKind, format *format, args []string) error {
	filter, err := filterText(args)
	if err != nil {
		return err
	}
	client := a.client()
	defer client.Close()
	p := &connPrinter{w: a.out, line: connLine(format)}
	if !format.json() {
		p.buf = append(p.buf, a.connHeader()...)
	}
	err = kind.of(client).List(ctx, filter, p.add)
	if err != nil && !p.begun { // a header alone would look like an empty table
		return err
	}
	return cmp.Or(err, p.flush())
}

// connChunk is how many bytes are gathered before they are written.
const connChunk = 64 << 10

// connPrinter prints connections as they come.
type connPrinter struct {
	w     io.Writer
	line  func([]byte, *director.Conn) []byte
	buf   []byte
	begun bool // there was a connection
}

func (p *connPrinter) add(c *director.Conn) error {
	p.begun = true
	if p.buf = p.line(p.buf, c); len(p.buf) < connChunk {
		return nil
	}
	return p.flush()
}

func (p *connPrinter) flush() error {
	_, err := p.w.Write(p.buf)
	p.buf = p.buf[:0]
	return err
}

func (a *app) connHeader() string {
	return "IPVS connection entries\n" + a.style.bold("pro expire state       source             virtual            destination") + "\n"
}

// connLine is the function that appends a connection in this format.
func connLine(format *format) func([]byte, *director.Conn) []byte {
	switch {
	case format.json():
		return func(dst []byte, c *director.Conn) []byte { return append(api.AppendConn(dst, c), '\n') }
	case format.wide():
		return func(dst []byte, c *director.Conn) []byte {
			return append(appendConnExtra(appendConn(dst, c), c), '\n')
		}
	default:
		return func(dst []byte, c *director.Conn) []byte { return append(appendConn(dst, c), '\n') }
	}
}

// appendConn appends a line as ipvsadm -Lnc prints it; a field that is too
// long shifts what follows.
func appendConn(dst []byte, c *director.Conn) []byte {
	dst = appendColumn(dst, protocolLabel(c.Protocol), 3)
	dst = pad(appendExpire(dst, c.Expires), len(dst), 6)
	dst = appendColumn(dst, c.State, 11)
	dst = pad(appendAddrPort(dst, c.Client), len(dst), 18)
	dst = pad(appendAddrPort(dst, c.Virtual), len(dst), 18)
	return appendAddrPort(dst, c.Real)
}

// appendConnExtra appends what ipvsadm has no column for.
func appendConnExtra(dst []byte, c *director.Conn) []byte {
	if c.Service != "" {
		dst = append(append(dst, "  service="...), c.Service...)
	}
	if c.Local.IsValid() {
		dst = appendAddrPort(append(dst, "  local="...), c.Local)
	}
	if c.Mark != 0 {
		dst = strconv.AppendUint(append(dst, "  fwmark="...), uint64(c.Mark), 10)
	}
	if c.Controls != 0 {
		dst = strconv.AppendUint(append(dst, "  controls="...), uint64(c.Controls), 10)
	}
	if c.CallID != "" {
		dst = append(append(dst, "  call-id="...), c.CallID...)
	}
	return dst
}

func appendColumn(dst []byte, text string, width int) []byte {
	return pad(append(dst, text...), len(dst), width)
}

// pad fills the column that began at start, and adds the blank between columns.
func pad(dst []byte, start, width int) []byte {
	for len(dst) < start+width {
		dst = append(dst, ' ')
	}
	return append(dst, ' ')
}

// appendExpire appends minutes and seconds, as mm:ss; minutes may need more
// than two digits. Parts of a second are cut off.
func appendExpire(dst []byte, d time.Duration) []byte {
	seconds := max(int64(d/time.Second), 0)
	dst = appendTwoDigits(dst, seconds/60)
	dst = append(dst, ':')
	return appendTwoDigits(dst, seconds%60)
}

func appendTwoDigits(dst []byte, n int64) []byte {
	if n < 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, n, 10)
}

func appendAddrPort(dst []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(dst, '-')
	}
	return a.AppendTo(dst)
}
