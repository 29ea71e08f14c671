// SPDX-License-Identifier: Apache-2.0

package importer

import (
	"cmp"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// keepalivedTiming are keepalived's defaults; a service's settings are those of its checks.
var keepalivedTiming = timing{interval: time.Minute, timeout: 5 * time.Second, again: time.Second, fall: 2}

// keepalivedChecker is one of keepalived's checks while it is read.
type keepalivedChecker struct {
	*keepalivedVirtual
	timing timing
	check  settings // ours
	host   string   // of requests, unless they have their own
}

// keepalivedCheckers are the ways to check, by the block's name.
var keepalivedCheckers = map[string]func(*keepalivedChecker, *statement){
	"TCP_CHECK":  func(c *keepalivedChecker, s *statement) { c.simple("tcp", s) },
	"PING_CHECK": func(c *keepalivedChecker, s *statement) { c.simple("icmp", s) },
	"HTTP_GET":   func(c *keepalivedChecker, s *statement) { c.http("http", s) },
	"SSL_GET":    func(c *keepalivedChecker, s *statement) { c.http("https", s) },
	"SMTP_CHECK": (*keepalivedChecker).smtp,
	"DNS_CHECK":  (*keepalivedChecker).dns,
	"MISC_CHECK": (*keepalivedChecker).misc,
	"UDP_CHECK":  (*keepalivedChecker).udp,
}

// checker reads one.
func (v *keepalivedVirtual) checker(s *statement, host string, t timing) settings {
	c := &keepalivedChecker{keepalivedVirtual: v, timing: t, check: settings{}, host: host}
	if s.words[0] == "DNS_CHECK" {
		c.timing.fall = 4 // its own default
	} else if s.words[0] == "MISC_CHECK" {
		c.timing.fall = 1
	}
	keepalivedCheckers[s.words[0]](c, s)
	c.timing.write(c.check)
	return c.check
}

// timingKey takes a key about time, of a check, a real server or a service.
func (v *keepalivedVirtual) timingKey(t *timing, k *statement) bool {
	d, ok := seconds(k.word(1))
	switch k.words[0] {
	case "delay_loop":
		t.interval = d
	case "connect_timeout", "misc_timeout":
		t.timeout = d
	case "delay_before_retry":
		t.again = d
	case "warmup":
		t.spread = d
	case "retry", "nb_get_retry":
		n, isNumber := number(k.word(1))
		t.fall, ok = n+1, isNumber
	default:
		return false
	}
	if !ok {
		v.note(k.line, "%s cannot be %q", k.words[0], k.word(1))
	}
	return true
}

// common takes a key that all checks have.
func (c *keepalivedChecker) common(k *statement) {
	if c.timingKey(&c.timing, k) {
		return
	}
	value := k.word(1)
	switch k.words[0] {
	case "connect_ip":
		c.check["address"] = value
	case "connect_port":
		c.check["port"] = figure(value)
	case "bindto":
		c.check["source"] = value
	case "bind_if":
		c.check["interface"] = value
	case "fwmark":
		c.check["mark"] = figure(value)
	case "alpha": // nobody gets connections here before his first good result
	default:
		c.refuse(k, keepalivedCheck)
	}
}

// keepalivedCheck is why keys of checks are not carried over.
var keepalivedCheck = map[string]string{
	"bind_port": "probes come from a port of the system's choice", "log_all_failures": "director health history shows all results",
	"omega": notifyScripts,
}

func (c *keepalivedChecker) simple(way string, s *statement) {
	c.check[way] = settings{}
	for _, k := range s.block {
		c.common(k)
	}
}

func (c *keepalivedChecker) http(way string, s *statement) {
	options, urls := settings{}, []settings{}
	c.check[way] = options
	options.put("host", c.host)
	for _, k := range s.block {
		switch k.words[0] {
		case "url":
			urls = append(urls, c.url(k))
		case "virtualhost":
			options["host"] = k.word(1)
		case "enable_sni": // the host is the name that is sent
		case "http_protocol":
			if k.word(1) != "1.1" && k.word(1) != "1.1C" && k.word(1) != "1.1K" && k.word(1) != "1.0" {
				c.note(k.line, "http_protocol cannot be %q", k.word(1))
			}
		default:
			c.common(k)
		}
	}
	if len(urls) > 0 {
		options["urls"] = urls
	}
}

// url reads url { … }.
func (c *keepalivedChecker) url(s *statement) settings {
	url := settings{"path": "/"}
	status := []string{}
	for _, k := range s.block {
		value := strings.Join(k.words[1:], " ")
		switch k.words[0] {
		case "path":
			url["path"] = k.word(1)
		case "digest":
			url["digest"] = "md5:" + k.word(1)
		case "status_code":
			status = append(status, k.words[1:]...)
		case "virtualhost":
			url["host"] = k.word(1)
		case "regex":
			url["body"] = pattern(value)
		default:
			c.refuse(k, map[string]string{"regex_no_match": "write body: {regex: …, not: true}", "regex_options": regexOptions, "regex_stack": regexOptions,
				"regex_min_offset": regexOptions, "regex_max_offset": regexOptions, "tls_compliant": "TLS is as Go has it"})
		}
	}
	if len(status) > 0 {
		url["status"] = strings.Join(status, " ")
	}
	return url
}

const regexOptions = "regular expressions are those of Go's package regexp"

func (c *keepalivedChecker) smtp(s *statement) {
	options := settings{}
	c.check["smtp"] = options
	for _, k := range s.block {
		switch k.words[0] {
		case "helo_name":
			options["hello"] = k.word(1)
		case "host":
			for _, inner := range k.block {
				c.common(inner)
			}
		default:
			c.common(k)
		}
	}
}

func (c *keepalivedChecker) dns(s *statement) {
	options := settings{}
	c.check["dns"] = options
	for _, k := range s.block {
		switch k.words[0] {
		case "name", "type":
			options[k.words[0]] = k.word(1)
		default:
			c.common(k)
		}
	}
}

func (c *keepalivedChecker) misc(s *statement) {
	options := settings{}
	c.check["external"] = options
	for _, k := range s.block {
		switch k.words[0] {
		case "misc_path":
			words := strings.Fields(strings.Join(k.words[1:], " "))
			if len(words) > 0 {
				options["command"] = words[0]
			}
			if len(words) > 1 {
				options["args"] = words[1:]
			}
		case "misc_dynamic":
			options["convention"] = "keepalived-dynamic"
		case "user":
			options.put("user", k.word(1))
			options.put("group", k.word(2))
		default:
			c.common(k)
		}
	}
	c.timing.timeout = cmp.Or(c.timing.timeout, c.timing.interval)
}

func (c *keepalivedChecker) udp(s *statement) {
	options := settings{}
	c.check["udp"] = options
	for _, k := range s.block {
		value := strings.Join(k.words[1:], " ")
		switch k.words[0] {
		case "payload":
			if _, err := hex.DecodeString(strings.ReplaceAll(value, " ", "")); err == nil {
				options["send_hex"] = strings.ReplaceAll(value, " ", "")
			} else {
				options["send"] = value
			}
		case "require_reply":
			options["reply"] = true
			if value != "" {
				options["expect"] = value
			}
		case "min_reply_length", "max_reply_length":
			n, err := strconv.Atoi(value)
			if err != nil {
				c.note(k.line, "%s cannot be %q", k.words[0], value)
				continue
			}
			options[strings.Replace(k.words[0], "_reply", "", 1)] = n
		default:
			c.common(k)
		}
	}
}
