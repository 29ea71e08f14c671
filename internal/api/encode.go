// SPDX-License-Identifier: Apache-2.0

package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"xdplvs/director"
)

// writeSnapshot writes what encoding/json makes of a snapshot, one service after the other: all of it at once
// would take many times the memory that the daemon needs otherwise.
func writeSnapshot(w http.ResponseWriter, s *director.Snapshot) error {
	without := *s
	without.Services = nil
	text, err := json.Marshal(&without)
	if err != nil {
		return fmt.Errorf("encode snapshot: %w", err)
	}
	begin, end, found := bytes.Cut(text, []byte(`"services":null`)) // no string has it: its quotes would be escaped
	if !found {
		return writeJSON(w, s)
	}
	w.Header().Set("Content-Type", "application/json")
	b := bufio.NewWriterSize(w, 1<<16)
	b.Write(begin) // what goes wrong is told when it is flushed
	b.WriteString(`"services":[`)
	for i := range s.Services {
		if i > 0 {
			b.WriteByte(',')
		}
		text, err := json.Marshal(&s.Services[i])
		if err != nil {
			return fmt.Errorf("encode service %s: %w", s.Services[i].Name, err)
		}
		b.Write(text)
	}
	b.WriteByte(']')
	b.Write(end)
	b.WriteByte('\n')
	if err := b.Flush(); err != nil {
		return fmt.Errorf("send answer: %w", err)
	}
	return nil
}

// AppendConn appends c as encoding/json writes it, several times as fast.
func AppendConn(dst []byte, c *director.Conn) []byte {
	dst = append(dst, `{"protocol":`...)
	dst = appendString(dst, c.Protocol.String())
	dst = append(dst, `,"client":`...)
	dst = appendAddrPort(dst, c.Client)
	dst = append(dst, `,"virtual":`...)
	dst = appendAddrPort(dst, c.Virtual)
	dst = append(dst, `,"real":`...)
	dst = appendAddrPort(dst, c.Real)
	if c.Local != (netip.AddrPort{}) {
		dst = append(dst, `,"local":`...)
		dst = appendAddrPort(dst, c.Local)
	}
	dst = append(dst, `,"state":`...)
	dst = appendString(dst, c.State)
	dst = append(dst, `,"expires":`...)
	dst = strconv.AppendInt(dst, int64(c.Expires), 10)
	if c.Service != "" {
		dst = append(dst, `,"service":`...)
		dst = appendString(dst, c.Service)
	}
	dst = appendNumber(dst, `,"mark":`, c.Mark)
	dst = appendNumber(dst, `,"controls":`, c.Controls)
	if c.CallID != "" {
		dst = append(dst, `,"call_id":`...)
		dst = appendString(dst, c.CallID)
	}
	return append(dst, '}')
}

// appendNumber leaves 0 out.
func appendNumber(dst []byte, key string, n uint32) []byte {
	if n == 0 {
		return dst
	}
	return strconv.AppendUint(append(dst, key...), uint64(n), 10)
}

func appendAddrPort(dst []byte, a netip.AddrPort) []byte {
	if a.Addr().Zone() != "" || a.Addr().Is4In6() { // neither is a connection's; be right all the same
		text, _ := a.MarshalText() // never fails
		return appendString(dst, string(text))
	}
	dst = append(dst, '"')
	if a.IsValid() {
		dst = a.AppendTo(dst)
	}
	return append(dst, '"')
}

// appendString leaves all that needs an escape to encoding/json.
func appendString(dst []byte, s string) []byte {
	for i := range len(s) {
		if !plain[s[i]] {
			text, _ := json.Marshal(s) // a string always encodes
			return append(dst, text...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, s...)
	return append(dst, '"')
}

// plain are the bytes that encoding/json writes in a string as they are.
var plain = func() (table [256]bool) {
	for b := byte(' '); b < 0x7f; b++ {
		table[b] = !strings.ContainsRune(`"\<>&`, rune(b))
	}
	return table
}()
