// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"

	"xdplvs/director"
)

// ldirectordKeys are those of checks, at the top for all services, or in one.
var ldirectordKeys = []string{"checktimeout", "negotiatetimeout", "checkinterval", "checkcount", "failurecount", "quiescent", "service", "checktype",
	"checkport", "checkcommand", "request", "receive", "httpmethod", "virtualhost", "login", "passwd", "database", "secret"}

// ldirectordValue is what a key is set to.
type ldirectordValue struct {
	line int
	text string
}

// ldirectordCheck is how the real servers of a service are checked.
type ldirectordCheck struct {
	keys map[string]ldirectordValue
	note func(line int, format string, args ...any)
}

func (c *ldirectordCheck) get(key string) string { return c.keys[key].text }

// line is where the check is asked for.
func (c *ldirectordCheck) line(absent int) int {
	return cmp.Or(c.keys["checkcommand"].line, c.keys["checktype"].line, c.keys["service"].line, absent)
}

// with are the same keys, with others for a real server's own request and receive.
func (c *ldirectordCheck) with(line int, request, receive string) *ldirectordCheck {
	keys := maps.Clone(c.keys)
	if keys == nil {
		keys = map[string]ldirectordValue{}
	}
	keys["request"], keys["receive"] = ldirectordValue{line, request}, ldirectordValue{line, receive}
	return &ldirectordCheck{keys, c.note}
}

// ldirectordServices are the services of well-known ports, where none is named.
var ldirectordServices = map[uint16]string{21: "ftp", 25: "smtp", 53: "dns", 80: "http", 110: "pop", 119: "nntp", 143: "imap", 389: "ldap", 443: "https",
	587: "submission", 636: "ldaps", 993: "imaps", 995: "pops", 1521: "oracle", 1812: "radius", 3128: "http_proxy", 3306: "mysql", 5060: "sip", 5432: "pgsql"}

// duration of a key in seconds.
func (c *ldirectordCheck) duration(key string, absent time.Duration) time.Duration {
	v, given := c.keys[key]
	if !given {
		return absent
	}
	d, ok := seconds(v.text)
	if !ok {
		c.note(v.line, "%s cannot be %q", key, v.text)
		return absent
	}
	return d
}

func (c *ldirectordCheck) count(key string) int {
	n, ok := number(cmp.Or(c.get(key), "1"))
	if !ok {
		c.note(c.keys[key].line, "%s cannot be %q", key, c.get(key))
	}
	return max(n, 1)
}

// settings is the check of a service; nil: there is none.
func (c *ldirectordCheck) settings(key director.ServiceKey) settings {
	limit := "checktimeout"
	t := timing{interval: c.duration("checkinterval", 10*time.Second), timeout: c.duration("checktimeout", 5*time.Second), fall: c.count("failurecount")}
	check := settings{}
	if port := c.get("checkport"); port != "" {
		check["port"] = figure(port)
	}
	way := strings.ToLower(cmp.Or(c.get("checktype"), "negotiate"))
	if n, ok := number(way); ok && n > 0 {
		c.note(c.keys["checktype"].line, "each check is a whole one, not only each %s. of them", way)
		way = "negotiate"
	}
	switch way {
	case "off", "on":
		return nil
	case "connect":
		check["tcp"] = settings{}
		if key.Protocol == director.UDP {
			check = settings{"udp": settings{}}
		}
	case "ping":
		check["icmp"], t.fall = settings{}, t.fall*c.count("checkcount")
	case "external", "external-perl":
		words := strings.Fields(c.get("checkcommand"))
		if len(words) == 0 {
			c.note(c.keys["checktype"].line, "there is no checkcommand")
			return nil
		}
		check["external"] = settings{"command": words[0], "args": append([]string{}, words[1:]...), "convention": "ldirectord"}
	case "negotiate":
		limit = "negotiatetimeout"
		t.timeout = c.duration(limit, 30*time.Second)
		if !c.negotiate(check, cmp.Or(strings.ToLower(c.get("service")), ldirectordServices[key.Port], "none")) {
			return nil
		}
	default:
		c.note(c.keys["checktype"].line, "unknown checktype %q", way)
		return nil
	}
	if v, given := c.keys[limit]; given && t.timeout > t.interval {
		c.note(v.line, "a check lasts no longer than the interval, %s", t.interval)
	}
	t.write(check)
	return check
}

// negotiate adds how a service is asked. It returns false if that is not known here.
func (c *ldirectordCheck) negotiate(check settings, service string) bool {
	if service == "none" { // ldirectord holds them for up, too
		return false
	}
	make, ok := ldirectordWays[service]
	if !ok {
		line := max(c.keys["service"].line, c.keys["checktype"].line)
		if line > 0 {
			c.note(line, "there is no check of %s (known: %s)", service, strings.Join(slices.Sorted(maps.Keys(ldirectordWays)), ", "))
		}
		return false
	}
	name, options := make(c)
	check[name] = options
	return true
}

// ldirectordWays are the services that can be asked.
var ldirectordWays = map[string]func(*ldirectordCheck) (string, settings){
	"http":       func(c *ldirectordCheck) (string, settings) { return "http", c.web() },
	"https":      func(c *ldirectordCheck) (string, settings) { return "https", c.web() },
	"smtp":       func(*ldirectordCheck) (string, settings) { return "smtp", settings{} },
	"submission": func(*ldirectordCheck) (string, settings) { return "smtp", settings{} },
	"ftp": func(c *ldirectordCheck) (string, settings) {
		o := c.login()
		o.put("file", c.get("request"))
		return "ftp", c.receive(o, "content")
	},
	"pop":  func(c *ldirectordCheck) (string, settings) { return "pop3", c.login() },
	"pops": func(c *ldirectordCheck) (string, settings) { return "pop3", secured(c.login()) },
	"imap": func(c *ldirectordCheck) (string, settings) { return "imap", c.login() },
	"imaps": func(c *ldirectordCheck) (string, settings) {
		return "imap", secured(c.login())
	},
	"ldap":  func(c *ldirectordCheck) (string, settings) { return "ldap", c.ldap() },
	"ldaps": func(c *ldirectordCheck) (string, settings) { return "ldap", secured(c.ldap()) },
	"dns": func(c *ldirectordCheck) (string, settings) {
		o := settings{"type": "A"}
		o.put("name", c.get("request"))
		return "dns", c.receive(o, "match")
	},
	"mysql": func(c *ldirectordCheck) (string, settings) { return "mysql", c.database() },
	"pgsql": func(c *ldirectordCheck) (string, settings) { return "postgres", c.database() },
	"sip": func(c *ldirectordCheck) (string, settings) {
		o := settings{}
		o.put("user", c.get("login"))
		return "sip", o
	},
	"radius": func(c *ldirectordCheck) (string, settings) {
		o := c.login()
		o["secret"] = c.get("secret")
		return "radius", o
	},
	"simpletcp": func(c *ldirectordCheck) (string, settings) {
		step := settings{}
		step.put("send", c.get("request"))
		return "expect", settings{"steps": []settings{c.receive(step, "expect")}}
	},
}

// receive adds what the answer must match.
func (c *ldirectordCheck) receive(o settings, key string) settings {
	if text := c.get("receive"); text != "" {
		o[key] = pattern(text)
	}
	return o
}

func (c *ldirectordCheck) login() settings {
	o := settings{}
	o.put("user", c.get("login"))
	o.put("password", c.get("passwd"))
	return o
}

func secured(o settings) settings {
	o["security"] = "tls"
	return o
}

// web asks for a path; a whole URL names its host.
func (c *ldirectordCheck) web() settings {
	o := c.login()
	path := c.get("request")
	if _, rest, isURL := strings.Cut(path, "://"); isURL {
		host, below, _ := strings.Cut(rest, "/")
		o["host"], path = host, below
	}
	o["path"] = "/" + strings.TrimPrefix(path, "/")
	o.put("host", c.get("virtualhost"))
	o.put("method", strings.ToUpper(c.get("httpmethod")))
	return c.receive(o, "body")
}

func (c *ldirectordCheck) ldap() settings {
	o := settings{}
	o.put("bind_dn", c.get("login"))
	o.put("password", c.get("passwd"))
	o.put("base", c.get("request"))
	return o
}

func (c *ldirectordCheck) database() settings {
	o := c.login()
	o.put("database", c.get("database"))
	o.put("query", c.get("request"))
	return c.receive(o, "expect")
}

// server is the check of a real server that has its own request and receive, as "REQUEST", "RECEIVE".
func (c *ldirectordCheck) server(line int, words []string, key director.ServiceKey) settings {
	request, receive := words[0], ""
	for _, word := range words[1:] {
		if word = strings.TrimPrefix(word, ","); word != "" {
			receive = word
		}
	}
	return c.with(line, strings.TrimSuffix(request, ","), receive).settings(key)
}
