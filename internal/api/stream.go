// SPDX-License-Identifier: Apache-2.0

package api

import (
	"encoding/json"
	"net/http"

	"xdplvs/director"
)

// streamChunk is how many bytes are gathered before they are sent.
const streamChunk = 64 << 10

// stream writes connections as NDJSON and holds one chunk of them at most.
type stream struct {
	server *Server
	w      http.ResponseWriter
	rc     *http.ResponseController
	buf    []byte
	kind   string
	begun  bool // something was sent: the status cannot change any more
}

func (s *Server) newStream(w http.ResponseWriter) *stream {
	return &stream{server: s, w: w, rc: http.NewResponseController(w), kind: "application/x-ndjson", buf: make([]byte, 0, streamChunk+1024)}
}

// push sends what there is without waiting for more.
func (st *stream) push() error {
	if err := st.flush(); err != nil {
		return err
	}
	return st.rc.Flush()
}

// add appends one connection; the error means that the reader is gone.
func (st *stream) add(c *director.Conn) error {
	st.buf = append(AppendConn(st.buf, c), '\n')
	if len(st.buf) < streamChunk {
		return nil
	}
	return st.flush()
}

func (st *stream) flush() error {
	if !st.begun {
		st.w.Header().Set("Content-Type", st.kind)
		st.begun = true
	}
	st.server.extendDeadline(st.rc)
	_, err := st.w.Write(st.buf)
	st.buf = st.buf[:0]
	return err
}

// finish sends the rest. An error becomes the answer if nothing was sent yet,
// else the last line: without it the reader would believe that it has all.
func (st *stream) finish(err error) error {
	if err != nil && !st.begun {
		return err
	}
	if err != nil {
		line, _ := json.Marshal(errorBody{Error: err.Error()}) // a string always encodes
		st.buf = append(append(st.buf, line...), '\n')
	}
	if err := st.flush(); err != nil {
		st.server.log.Debug("api stream", "error", err)
	}
	return nil
}
