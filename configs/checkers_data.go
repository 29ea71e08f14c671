// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"time"

	hc "xdplvs/healthcheck"
)

var lagPointObject = object[hc.LagPoint]{
	what: "a mapping with lag and factor",
	fields: []field[hc.LagPoint]{
		option("lag", duration(0, mostCheckTime), func(p *hc.LagPoint) *time.Duration { return &p.Lag },
			"Lag of this point.").must(),
		option("factor", plainNumber(0, 100), func(p *hc.LagPoint) *int { return &p.Factor },
			"Percent of the weight at this lag.").must(),
	},
}

var lagObject = object[hc.LagOptions]{
	what: "a mapping with max and curve",
	fields: []field[hc.LagOptions]{
		option("max", duration(0, mostCheckTime), func(o *hc.LagOptions) *time.Duration { return &o.Max },
			"Lag above which a server is down, in reserve for min_up; any will do if absent."),
		option("curve", elements("points", lagPointObject.kind()), func(o *hc.LagOptions) *[]hc.LagPoint { return &o.Curve },
			"Percent of the weight by the lag, linearly in between; 100 if absent."),
		unknownLag("unknown", func(o *hc.LagOptions) *string { return &o.Unknown },
			"What becomes of a replica that cannot tell its lag: down, reserve (down but for min_up) or up; reserve if absent."),
	},
}

func unknownLag[T any](name string, in func(*T) *string, doc string) field[T] {
	return option(name, oneOf("policy", "down", "reserve", "up"), in, doc)
}

func lagKey[T any](in func(*T) *hc.LagOptions) field[T] {
	return option("lag", lagObject.kind(), in, "What follows from a replica's lag.")
}

func roleKey[T any](in func(*T) *string) field[T] {
	return option("role", oneOf("role", hc.RolePrimary, hc.RoleReplica), in,
		"What the server must be: primary or replica; any if absent.")
}

func queryKeys[T any](query func(*T) *string, expect func(*T) *hc.Pattern) []field[T] {
	return []field[T]{
		option("query", text("a query"), query, "Query that must have a row."),
		option("expect", pattern(), expect, "What the first column of the query's row must contain."),
	}
}

func lagQueryKey[T any](in func(*T) *string) field[T] {
	return option("lag_query", text("a query"), in, "Query whose value is the lag in seconds.")
}

func databaseKey[T any](in func(*T) *string) field[T] {
	return option("database", text("a database"), in, "Database that is used.")
}

var mysqlObject = object[hc.MySQLOptions]{
	what: "a mapping with options of a MySQL check",
	fields: append(queryKeys(func(o *hc.MySQLOptions) *string { return &o.Query }, func(o *hc.MySQLOptions) *hc.Pattern { return &o.Expect }),
		userKey(func(o *hc.MySQLOptions) *string { return &o.User }).must(),
		passwordKey(func(o *hc.MySQLOptions) *hc.Secret { return &o.Password }),
		databaseKey(func(o *hc.MySQLOptions) *string { return &o.Database }),
		securityKey(func(o *hc.MySQLOptions) *hc.Security { return &o.Security }, "plain", "tls"),
		tlsKey(func(o *hc.MySQLOptions) *hc.TLSClient { return &o.TLS }),
		roleKey(func(o *hc.MySQLOptions) *string { return &o.Role }),
		lagKey(func(o *hc.MySQLOptions) *hc.LagOptions { return &o.Lag }),
		lagQueryKey(func(o *hc.MySQLOptions) *string { return &o.LagQuery }),
		unknownLag("stopped", func(o *hc.MySQLOptions) *string { return &o.Stopped },
			"What becomes of a replica whose I/O or SQL thread is stopped: down, reserve or up; as lag.unknown if absent."),
		option("channel", text("a channel"), func(o *hc.MySQLOptions) *string { return &o.Channel },
			"Replication channel that is looked at; the worst of all if absent."),
		option("heartbeat", text("a table"), func(o *hc.MySQLOptions) *string { return &o.Heartbeat },
			"Table with times that the primary writes, as pt-heartbeat does."),
		option("heartbeat_column", text("a column"), func(o *hc.MySQLOptions) *string { return &o.HeartbeatColumn },
			"Column with the time; ts if absent."),
		option("heartbeat_utc", boolean(), func(o *hc.MySQLOptions) *bool { return &o.HeartbeatUTC },
			"The times are UTC, not the server's local time."),
		option("galera", oneOf("state of a node", "synced", "donor"), func(o *hc.MySQLOptions) *string { return &o.Galera },
			"State that a node of a Galera cluster must be in: synced, or donor, which is either; not looked at if absent."),
	),
}

var postgresObject = object[hc.PostgresOptions]{
	what: "a mapping with options of a PostgreSQL check",
	fields: append(queryKeys(func(o *hc.PostgresOptions) *string { return &o.Query }, func(o *hc.PostgresOptions) *hc.Pattern { return &o.Expect }),
		userKey(func(o *hc.PostgresOptions) *string { return &o.User }).must(),
		passwordKey(func(o *hc.PostgresOptions) *hc.Secret { return &o.Password }),
		databaseKey(func(o *hc.PostgresOptions) *string { return &o.Database }),
		securityKey(func(o *hc.PostgresOptions) *hc.Security { return &o.Security }, "plain", "tls"),
		tlsKey(func(o *hc.PostgresOptions) *hc.TLSClient { return &o.TLS }),
		roleKey(func(o *hc.PostgresOptions) *string { return &o.Role }),
		lagKey(func(o *hc.PostgresOptions) *hc.LagOptions { return &o.Lag }),
		lagQueryKey(func(o *hc.PostgresOptions) *string { return &o.LagQuery }),
	),
}

var redisObject = object[hc.RedisOptions]{
	what: "a mapping with options of a Redis check",
	fields: []field[hc.RedisOptions]{
		securityKey(func(o *hc.RedisOptions) *hc.Security { return &o.Security }, "plain", "tls"),
		tlsKey(func(o *hc.RedisOptions) *hc.TLSClient { return &o.TLS }),
		userKey(func(o *hc.RedisOptions) *string { return &o.User }),
		passwordKey(func(o *hc.RedisOptions) *hc.Secret { return &o.Password }),
		roleKey(func(o *hc.RedisOptions) *string { return &o.Role }),
		lagKey(func(o *hc.RedisOptions) *hc.LagOptions { return &o.Lag }),
	},
}

var ldapObject = object[hc.LDAPOptions]{
	what: "a mapping with options of an LDAP check",
	fields: []field[hc.LDAPOptions]{
		securityKey(func(o *hc.LDAPOptions) *hc.Security { return &o.Security }, withStartTLS...),
		tlsKey(func(o *hc.LDAPOptions) *hc.TLSClient { return &o.TLS }),
		option("bind_dn", text("a distinguished name"), func(o *hc.LDAPOptions) *string { return &o.BindDN },
			"Who binds; anonymous if absent."),
		passwordKey(func(o *hc.LDAPOptions) *hc.Secret { return &o.Password }),
		option("base", text("a distinguished name"), func(o *hc.LDAPOptions) *string { return &o.Base },
			"Where the search after the bind begins; there is none without base and filter."),
		option("filter", text("a filter"), func(o *hc.LDAPOptions) *string { return &o.Filter },
			"Filter of the search; (objectClass=*) if absent."),
		option("scope", oneOf("scope", "base", "one", "sub"), func(o *hc.LDAPOptions) *string { return &o.Scope },
			"Scope of the search: base, one or sub; base if absent."),
		option("attribute", text("an attribute"), func(o *hc.LDAPOptions) *string { return &o.Attribute },
			"Attribute that an entry must have."),
		option("expect", pattern(), func(o *hc.LDAPOptions) *hc.Pattern { return &o.Expect },
			"What a value of the attribute must contain."),
	},
}
