// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"fmt"
	"strconv"
	"strings"
)

// RedisOptions are those of a check by Redis's protocol.
type RedisOptions struct {
	// Security is plain or tls.
	Security Security
	TLS      TLSClient
	// User and Password log in (AUTH). User "": the default user. No password: no login.
	User     string
	Password Secret
	// Role is primary or replica. "": any.
	Role string
	// Lag judges a replica by the seconds since it last heard of its primary, as INFO replication
	// tells. A replica without its primary, or still loading from it, does not know its lag.
	Lag LagOptions
}

type redisChecker struct {
	identity
	RedisOptions
	client *tlsClient
}

// NewRedis is a checker by Redis's protocol: PING, and INFO replication for role and lag.
func NewRedis(o RedisOptions) (Checker, error) {
	m := mistakes{kind: "redis"}
	c := &redisChecker{RedisOptions: o, client: o.TLS.compile(&m, "tls")}
	c.identity = identify("redis", o, c.client.files)
	m.known("security", string(o.Security), "", string(Plain), string(TLS))
	m.known("role", o.Role, "", RolePrimary, RoleReplica)
	o.Lag.check(&m)
	if o.User != "" && o.Password.IsZero() {
		m.add("password", "missing beside a user")
	}
	return c, m.err()
}

// Check is Checker's.
func (c *redisChecker) Check(ctx context.Context, t Target) Result {
	return run(ctx, t, func(p *probe) (Result, error) {
		p.keep(c.Password)
		s, err := p.talk(c.Security, c.client)
		if err != nil {
			return Result{}, err
		}
		if err := c.login(s); err != nil {
			return Result{}, err
		}
		if pong, err := s.redis("PING"); err != nil {
			return Result{}, err
		} else if pong != "PONG" {
			return Result{}, fail(L7RSP, 0, "answer to PING: %s", excerpt(pong))
		}
		if c.Role != "" || !c.Lag.isZero() {
			return c.replication(s)
		}
		return good(L7OK, "PONG"), nil
	})
}

func (c *redisChecker) login(s *talk) error {
	if c.Password.IsZero() {
		return nil
	}
	words := []string{"AUTH", c.Password.value}
	if c.User != "" {
		words = []string{"AUTH", c.User, c.Password.value}
	}
	_, err := s.redis(words...)
	return err
}

// replication judges role and lag.
func (c *redisChecker) replication(s *talk) (Result, error) {
	text, err := s.redis("INFO", "replication")
	if err != nil {
		return Result{}, err
	}
	info := redisInfo(text)
	role := map[string]string{"master": RolePrimary, "slave": RoleReplica}[info["role"]]
	if role == "" {
		return Result{}, fail(L7RSP, 0, "answer to INFO: unknown role %s", excerpt(info["role"]))
	}
	if err := checkRole(c.Role, role, "role:"+info["role"]); err != nil {
		return Result{}, err
	}
	if role == RolePrimary || c.Lag.isZero() {
		return good(L7OK, "%s", role), nil
	}
	if status := info["master_link_status"]; status != "up" {
		return c.Lag.unknown("master_link_status:" + status)
	}
	if info["master_sync_in_progress"] == "1" {
		return c.Lag.unknown("master_sync_in_progress:1")
	}
	ago, err := strconv.Atoi(info["master_last_io_seconds_ago"])
	if err != nil || ago < 0 {
		return c.Lag.unknown("master_last_io_seconds_ago:" + info["master_last_io_seconds_ago"])
	}
	return c.Lag.judge(seconds(float64(ago)), "master_last_io_seconds_ago")
}

// redisInfo reads the lines key:value of INFO.
func redisInfo(text string) map[string]string {
	info := make(map[string]string)
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			info[key] = value
		}
	}
	return info
}

// maxBulk is the longest value that is read, in bytes.
const maxBulk = 64 << 10

// redis says a command and reads its answer, a simple or a bulk string (RESP).
func (t *talk) redis(words ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if err := t.write(words[0], b.String()); err != nil {
		return "", err
	}
	what := "answer to " + words[0]
	line, err := t.line(what)
	if err != nil {
		return "", err
	}
	kind, rest := "", ""
	if line != "" {
		kind, rest = line[:1], line[1:]
	}
	switch kind {
	case "+":
		return rest, nil
	case "-":
		return "", fail(L7STS, 0, "%s: %s", what, rest)
	case "$":
		return t.redisBulk(what, rest)
	default:
		return "", fail(L7RSP, 0, "%s: no answer of Redis: %s", what, excerpt(line))
	}
}

func (t *talk) redisBulk(what, length string) (string, error) {
	n, err := strconv.Atoi(length)
	if err != nil || n < 0 || n > maxBulk {
		return "", fail(L7RSP, 0, "%s: a value of %s bytes", what, excerpt(length))
	}
	b, err := t.block(what, n+2)
	if err != nil {
		return "", err
	}
	return string(b[:n]), nil
}
