// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// ExpectOptions are those of a check that sends and expects, over TCP or TLS.
type ExpectOptions struct {
	// TLS is spoken from the beginning. nil: plain.
	TLS *TLSClient
	// Steps are made one after the other; there must be one.
	Steps []ExpectStep
}

// ExpectStep sends something, waits for something, or both in this order.
type ExpectStep struct {
	// Send are bytes as they are; line ends are not added. Secret is sent behind it.
	Send   string
	Secret Secret
	// Expect is what the server must say before anything else is sent; Not is impossible. What was said
	// up to the end of the match is gone for the next step.
	Expect Pattern
}

type expectChecker struct {
	identity
	steps  []expectStep
	client *tlsClient
}

// expectStep is a compiled ExpectStep.
type expectStep struct {
	ExpectStep
	expect matcher
}

// NewExpect is a checker that sends and expects.
func NewExpect(o ExpectOptions) (Checker, error) {
	m := mistakes{kind: "expect"}
	c := &expectChecker{}
	files := ""
	if o.TLS != nil {
		c.client = o.TLS.compile(&m, "tls")
		files = c.client.files
	}
	c.identity = identify("expect", o, files)
	if len(o.Steps) == 0 {
		m.add("steps", "missing")
	}
	for i, s := range o.Steps {
		field := fmt.Sprintf("steps[%d]", i)
		expect, err := s.Expect.compile()
		m.try(field+" expect", err)
		if s.Expect.Not {
			m.add(field+" expect", "not is impossible here: one cannot wait for what does not come")
		}
		if s.Expect.isZero() && s.Send == "" && s.Secret.IsZero() {
			m.add(field, "neither sends nor expects")
		}
		c.steps = append(c.steps, expectStep{s, expect})
	}
	return c, m.err()
}

// Check is Checker's.
func (c *expectChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		security := Plain
		if c.client != nil {
			security = TLS
		}
		s, err := p.talk(security, c.client)
		if err != nil {
			return Result{}, err
		}
		var heard []byte
		for i, step := range c.steps {
			p.keep(step.Secret)
			if heard, err = s.step(i+1, step, heard); err != nil {
				return Result{}, err
			}
		}
		return good(L7OK, "%d steps", len(c.steps)), nil
	})
}

// maxHeard is how much of what a server says in one step is looked at, in bytes.
const maxHeard = 64 << 10

// step makes one step; heard is what the server said and no step has used.
func (t *talk) step(number int, s expectStep, heard []byte) ([]byte, error) {
	what := fmt.Sprintf("step %d", number)
	if s.Send != "" || !s.Secret.IsZero() {
		if err := t.write(what, s.Send+s.Secret.value); err != nil {
			return nil, err
		}
	}
	if s.expect.isZero() {
		return heard, nil
	}
	what = fmt.Sprintf("step %d: %s", number, s.expect)
	t.p.enter(layer7, what)
	for {
		if s.expect.found(heard) {
			return heard[s.expect.end(heard):], nil
		}
		if len(heard) >= maxHeard {
			return nil, fail(L7RSP, 0, "%s: not in the first %d bytes: %s", what, maxHeard, excerpt(heard))
		}
		b := make([]byte, min(4096, maxHeard-len(heard)))
		n, err := t.r.Read(b)
		heard = append(heard, b[:n]...)
		if err != nil && !s.expect.found(heard) {
			return nil, missed(what, heard, err)
		}
	}
}

// missed says what was heard instead.
func missed(what string, heard []byte, err error) error {
	switch {
	case len(heard) == 0:
		return err
	case isTimeout(err):
		return fail(L7TOUT, 0, "%s: only %s in time", what, excerpt(heard))
	case errors.Is(err, io.EOF):
		return fail(L7RSP, 0, "%s: the server closed the connection after %s", what, excerpt(heard))
	default:
		return err
	}
}
