// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"encoding/hex"
	"math"
	"time"

	hc "xdplvs/healthcheck"
)

var rtspObject = object[hc.RTSPOptions]{
	what: "a mapping with options of an RTSP check",
	fields: []field[hc.RTSPOptions]{
		option("tls", whole(&tlsClientObject), func(o *hc.RTSPOptions) **hc.TLSClient { return &o.TLS },
			"Options of TLS, which make it rtsps."),
		option("path", text("a path"), func(o *hc.RTSPOptions) *string { return &o.Path },
			"Stream that is described after OPTIONS."),
		option("host", text("a host"), func(o *hc.RTSPOptions) *string { return &o.Host },
			"Host in the URL; the real server's address if absent."),
		userKey(func(o *hc.RTSPOptions) *string { return &o.User }),
		passwordKey(func(o *hc.RTSPOptions) *hc.Secret { return &o.Password }),
		option("status", text("status codes such as 200"), func(o *hc.RTSPOptions) *string { return &o.Status },
			"Status codes and ranges that will do; 200-299 if absent."),
		option("description", pattern(), func(o *hc.RTSPOptions) *hc.Pattern { return &o.Description },
			"What the stream's description must contain."),
	},
}

var sipObject = object[hc.SIPOptions]{
	what: "a mapping with options of a SIP check",
	fields: []field[hc.SIPOptions]{
		option("transport", oneOf("transport", "udp", "tcp", "tls"), func(o *hc.SIPOptions) *string { return &o.Transport },
			"udp, tcp or tls; udp if absent."),
		tlsKey(func(o *hc.SIPOptions) *hc.TLSClient { return &o.TLS }),
		option("user", text("a user"), func(o *hc.SIPOptions) *string { return &o.User },
			"User in the URI that is asked; none if absent."),
		option("domain", text("a domain"), func(o *hc.SIPOptions) *string { return &o.Domain },
			"Domain in the URI; the real server's address if absent."),
		option("status", text("status codes such as 200"), func(o *hc.SIPOptions) *string { return &o.Status },
			"Status codes and ranges that will do; 200-299 if absent."),
	},
}

var dnsObject = object[hc.DNSOptions]{
	what: "a mapping with options of a DNS check",
	fields: []field[hc.DNSOptions]{
		option("name", text("a domain name"), func(o *hc.DNSOptions) *string { return &o.Name },
			"Name that is asked for; the root if absent."),
		option("type", text("a type of record"), func(o *hc.DNSOptions) *string { return &o.Type },
			"Type of record that is asked for; SOA if absent."),
		option("tcp", boolean(), func(o *hc.DNSOptions) *bool { return &o.TCP },
			"Asks over TCP; over UDP if absent."),
		option("recursive", boolean(), func(o *hc.DNSOptions) *bool { return &o.Recursive },
			"Wants recursion, which the server must offer."),
		option("authoritative", boolean(), func(o *hc.DNSOptions) *bool { return &o.Authoritative },
			"Wants an authoritative answer."),
		option("codes", oneOrMore("response codes", text("a response code")), func(o *hc.DNSOptions) *[]string { return &o.Codes },
			"Response codes that will do; NOERROR if absent."),
		option("answers", oneOrMore("records", text("a record")), func(o *hc.DNSOptions) *[]string { return &o.Answers },
			"Records that must be in the answer, as zone files have them."),
		option("match", pattern(), func(o *hc.DNSOptions) *hc.Pattern { return &o.Match },
			"What the records of the answer, each a line, must contain."),
		option("empty", boolean(), func(o *hc.DNSOptions) *bool { return &o.Empty },
			"An answer without a record will do."),
	},
}

var radiusObject = object[hc.RADIUSOptions]{
	what: "a mapping with options of a RADIUS check",
	fields: []field[hc.RADIUSOptions]{
		option("secret", secret(), func(o *hc.RADIUSOptions) *hc.Secret { return &o.Secret },
			"Secret shared with the server.").must(),
		userKey(func(o *hc.RADIUSOptions) *string { return &o.User }),
		passwordKey(func(o *hc.RADIUSOptions) *hc.Secret { return &o.Password }),
		option("nas_identifier", text("a name"), func(o *hc.RADIUSOptions) *string { return &o.NASIdentifier },
			"What the director calls itself; director if absent."),
		option("reject", boolean(), func(o *hc.RADIUSOptions) *bool { return &o.Reject },
			"Access-Reject will do, too."),
	},
}

var udpObject = object[hc.UDPOptions]{
	what: "a mapping with options of a UDP check",
	fields: []field[hc.UDPOptions]{
		option("send", octets(text("a text")), func(o *hc.UDPOptions) *[]byte { return &o.Send },
			"Datagram, as text; empty if absent."),
		option("send_hex", fromHex(), func(o *hc.UDPOptions) *[]byte { return &o.Send },
			"Datagram, in hexadecimal digits, in the place of send."),
		option("reply", boolean(), func(o *hc.UDPOptions) *bool { return &o.Reply },
			"An answer must come; else it is enough that no ICMP error does."),
		option("expect", pattern(), func(o *hc.UDPOptions) *hc.Pattern { return &o.Expect },
			"What the answer must contain."),
		option("min_length", plainNumber(0, math.MaxUint16), func(o *hc.UDPOptions) *int { return &o.MinLength },
			"Least length of the answer in bytes."),
		option("max_length", plainNumber(0, math.MaxUint16), func(o *hc.UDPOptions) *int { return &o.MaxLength },
			"Largest length of the answer in bytes; 4096 if absent."),
		option("wait", duration(0, mostCheckTime), func(o *hc.UDPOptions) *time.Duration { return &o.Wait },
			"How long an ICMP error is waited for if no answer must come; 4s if absent."),
	},
}

func octets(k kind[string]) kind[[]byte] {
	return mapped(k, func(_ cursor, v string) ([]byte, bool) { return []byte(v), true })
}

func fromHex() kind[[]byte] {
	return parsed("an even number of hexadecimal digits", schema{"type": []string{"string", "integer"}}, func(text string) ([]byte, string, bool) {
		b, err := hex.DecodeString(text)
		return b, "", err == nil
	})
}

// udpChecker wants an answer where something is known about it.
func udpChecker(o hc.UDPOptions) (hc.Checker, error) {
	o.Reply = o.Reply || o.MinLength > 0 || o.MaxLength > 0
	return hc.NewUDP(o)
}

var icmpObject = object[hc.ICMPOptions]{
	what: "a mapping with options of an ICMP check",
	fields: []field[hc.ICMPOptions]{
		option("size", plainNumber(8, 1400), func(o *hc.ICMPOptions) *int { return &o.Size },
			"Bytes of data; 56 if absent."),
	},
}

var stepObject = object[hc.ExpectStep]{
	what: "a mapping with send and expect",
	fields: []field[hc.ExpectStep]{
		option("send", text("a text"), func(s *hc.ExpectStep) *string { return &s.Send },
			"What is sent, as it is: line ends are not added."),
		option("secret", secret(), func(s *hc.ExpectStep) *hc.Secret { return &s.Secret },
			"What is sent behind it, and never shown."),
		option("expect", pattern(), func(s *hc.ExpectStep) *hc.Pattern { return &s.Expect },
			"What the server must say before the next step."),
	},
}

var expectObject = object[hc.ExpectOptions]{
	what: "a mapping with steps",
	fields: []field[hc.ExpectOptions]{
		option("tls", whole(&tlsClientObject), func(o *hc.ExpectOptions) **hc.TLSClient { return &o.TLS },
			"Options of TLS, which is spoken from the beginning."),
		option("steps", elements("steps", stepObject.kind()), func(o *hc.ExpectOptions) *[]hc.ExpectStep { return &o.Steps },
			"What is sent and waited for, one after the other.").must(),
	},
}

var fileObject = object[hc.FileOptions]{
	what: "a mapping with path",
	fields: []field[hc.FileOptions]{
		option("path", text("an absolute path"), func(o *hc.FileOptions) *string { return &o.Path },
			"The file; {address} and {port} stand for the real server's.").must(),
		option("mode", oneOf("mode", "maintenance", "required", "weight"), func(o *hc.FileOptions) *string { return &o.Mode },
			"maintenance: where the file is, the server drains; required: where it is not; weight: its first line is a percentage. maintenance if absent."),
		option("down", boolean(), func(o *hc.FileOptions) *bool { return &o.Down },
			"A server that is flagged is down, instead of draining."),
	},
}

var fileKind = either("a path, or a mapping with path", mapped(text("a path"), func(_ cursor, path string) (hc.FileOptions, bool) {
	return hc.FileOptions{Path: path}, true
}), fileObject.kind())

var externalObject = object[hc.ExternalOptions]{
	what: "a mapping with command",
	fields: []field[hc.ExternalOptions]{
		option("command", absolutePath(longestPath), func(o *hc.ExternalOptions) *string { return &o.Command },
			"The command; there is no shell.").must(),
		option("args", elements("arguments", text("an argument")), func(o *hc.ExternalOptions) *[]string { return &o.Args },
			"Its arguments; {address} and {port} stand for the real server's."),
		option("convention", oneOf("convention", "ldirectord", "keepalived", "keepalived-dynamic"), func(o *hc.ExternalOptions) *string { return &o.Convention },
			"What the command is told and what its exit status says, as ldirectord, keepalived's MISC_CHECK, or with misc_dynamic; keepalived if absent."),
		option("user", text("a user"), func(o *hc.ExternalOptions) *string { return &o.User },
			"User who runs it; the director's, or nobody if that is root, if absent."),
		option("group", text("a group"), func(o *hc.ExternalOptions) *string { return &o.Group },
			"Group that runs it; the user's if absent."),
		option("env", elements("variables", text("NAME=value")), func(o *hc.ExternalOptions) *[]string { return &o.Env },
			"Further variables of its environment, as NAME=value."),
	},
}

var externalKind = either("a path, or a mapping with command", mapped(absolutePath(longestPath), func(_ cursor, path string) (hc.ExternalOptions, bool) {
	return hc.ExternalOptions{Command: path}, true
}), externalObject.kind())

// externalChecker tells the command whom it is for.
func externalChecker(o hc.ExternalOptions, whom asked) (hc.Checker, error) {
	o.VirtualAddress, o.VirtualPort = whom.address, whom.port
	if o.Convention == "keepalived-dynamic" {
		o.Weight = int(whom.weight)
	}
	return hc.NewExternal(o)
}
