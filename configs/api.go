// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/netip"

	"xdplvs/internal/api"
)

// API says who may ask the daemon.
type API struct {
	api.RemoteOptions
	AdminGroup string // whose members may change things, over the socket; "": root and the daemon's own user only
	ReadGroup  string // whose members may look
}

// apiOptions is API as written.
type apiOptions struct {
	listen                   setting[[]netip.AddrPort]
	cert, key, ca            setting[string]
	minVersion               setting[string]
	tokens                   setting[list[apiToken]]
	clients                  setting[list[apiClient]]
	rate                     setting[int]
	adminGroup, readersGroup setting[string]
}

var apiObject = object[apiOptions]{
	what: "a mapping with listen",
	fields: []field[apiOptions]{
		key("listen", oneOrMore("addresses with ports", listenAddress()), func(a *apiOptions) *setting[[]netip.AddrPort] { return &a.listen },
			"Addresses and ports where the API is served over TCP, with TLS only; the unix socket only if absent."),
		key("cert_file", absolutePath(longestPath), func(a *apiOptions) *setting[string] { return &a.cert },
			"The daemon's certificate in PEM, with those up to its CA. Like all files of api, it is read again when it changes."),
		key("key_file", absolutePath(longestPath), func(a *apiOptions) *setting[string] { return &a.key },
			"Key of the certificate; not everybody may be allowed to read it."),
		key("client_ca_file", absolutePath(longestPath), func(a *apiOptions) *setting[string] { return &a.ca },
			"Certificates in PEM that those of clients are signed by."),
		key("min_version", oneOf("TLS version", "1.2", "1.3"), func(a *apiOptions) *setting[string] { return &a.minVersion },
			"Lowest version of TLS; 1.2 if absent."),
		key("tokens", listOf("tokens", apiTokenObject.kind()), func(a *apiOptions) *setting[list[apiToken]] { return &a.tokens },
			"Tokens, which clients send as Authorization: Bearer."),
		key("clients", listOf("clients", apiClientObject.kind()), func(a *apiOptions) *setting[list[apiClient]] { return &a.clients },
			"What the owners of certificates may do."),
		key("rate", plainNumber(1, 1_000_000), func(a *apiOptions) *setting[int] { return &a.rate },
			"Requests over TCP that one client may make in a second; 50 if absent."),
		key("admin_group", text("a group"), func(a *apiOptions) *setting[string] { return &a.adminGroup },
			"Group whose members may do everything over the unix socket, as root may."),
		key("read_group", text("a group"), func(a *apiOptions) *setting[string] { return &a.readersGroup },
			"Group whose members may look, over the unix socket; the socket's file belongs to it."),
	},
}

// apiToken is api.Token as written.
type apiToken struct {
	name, role, file, env, sha256 setting[string]
}

var apiTokenObject = object[apiToken]{
	what: "a mapping with name, role and file",
	fields: []field[apiToken]{
		key("name", name(), func(t *apiToken) *setting[string] { return &t.name },
			"Whose token it is, for the log.").must(),
		key("role", apiRole(), func(t *apiToken) *setting[string] { return &t.role },
			"What it allows: read or admin.").must(),
		key("file", absolutePath(longestPath), func(t *apiToken) *setting[string] { return &t.file },
			"File whose content is the token, or sha256: and its digest."),
		key("env", text("the name of an environment variable"), func(t *apiToken) *setting[string] { return &t.env },
			"The same, an environment variable of the director."),
		key("sha256", text("64 hexadecimal digits"), func(t *apiToken) *setting[string] { return &t.sha256 },
			"SHA-256 of the token, as sha256sum prints it."),
	},
}

// apiClient is api.ClientCertificate as written.
type apiClient struct{ subject, role setting[string] }

var apiClientObject = object[apiClient]{
	what: "a mapping with subject and role",
	fields: []field[apiClient]{
		key("subject", text("a subject"), func(c *apiClient) *setting[string] { return &c.subject },
			"Subject of a certificate as RFC 2253 has it (openssl x509 -subject -nameopt RFC2253), or its common name.").must(),
		key("role", apiRole(), func(c *apiClient) *setting[string] { return &c.role },
			"What it allows: read or admin.").must(),
	},
}

const adminRole = "admin"

func apiRole() kind[string] { return oneOf("role", "read", adminRole) }

func (b *builder) api(s setting[apiOptions]) {
	a := s.value
	to := &b.config.API
	to.AdminGroup, to.ReadGroup = a.adminGroup.value, a.readersGroup.value
	to.Listen, to.CertFile, to.KeyFile, to.ClientCAFile, to.Rate = a.listen.value, a.cert.value, a.key.value, a.ca.value, a.rate.value
	if a.minVersion.value == "1.3" {
		to.MinVersion = tls.VersionTLS13
	}
	to.Tokens, to.Clients = apiTokens(a.tokens.value), apiClients(a.clients.value)
	switch {
	case !s.ok || a.listen.wrong():
	case a.listen.given():
		a.checkRemote(s.at)
	case a.cert.given() || a.key.given() || a.ca.given() || a.tokens.given() || a.clients.given():
		s.at.failf("key listen is missing: certificates and tokens are for TCP")
	}
}

// checkRemote finds what is missing for TCP.
func (a *apiOptions) checkRemote(at cursor) {
	if !a.cert.given() || !a.key.given() {
		at.failf("keys cert_file and key_file are needed: over TCP there is TLS only")
	}
	switch {
	case a.tokens.value.len() == 0 && a.clients.value.len() == 0:
		at.failf("nobody could ask: tokens or clients are missing")
	case a.clients.value.len() > 0 && !a.ca.given():
		at.failf("key client_ca_file is missing: whose certificates are those of clients?")
	case a.clients.value.len() == 0 && a.ca.given():
		a.ca.at.failf("no certificate allows anything: clients are missing")
	}
}

func apiTokens(all list[apiToken]) (tokens []api.Token) {
	var seen registry[string]
	for _, s := range all.all {
		t := s.value
		if !s.ok || !t.name.ok || !t.role.ok {
			continue
		}
		if line, taken := seen.taken(t.name.value, t.name.at); taken {
			t.name.at.failf("name %s is already in line %d", t.name.value, line)
		}
		given := 0
		for _, way := range []setting[string]{t.file, t.env, t.sha256} {
			if way.given() {
				given++
			}
		}
		if given != 1 {
			s.at.failf("expected one of file, env and sha256, found %d", given)
		}
		tokens = append(tokens, api.Token{Name: t.name.value, Admin: t.role.value == adminRole, File: t.file.value, Env: t.env.value, SHA256: t.sha256.value})
	}
	return tokens
}

func apiClients(all list[apiClient]) (clients []api.ClientCertificate) {
	var seen registry[string]
	for _, s := range all.all {
		c := s.value
		if !s.ok || !c.subject.ok || !c.role.ok {
			continue
		}
		if line, taken := seen.taken(c.subject.value, c.subject.at); taken {
			c.subject.at.failf("subject %s is already in line %d", quote(c.subject.value), line)
		}
		clients = append(clients, api.ClientCertificate{Subject: c.subject.value, Admin: c.role.value == adminRole})
	}
	return clients
}

// Groups are those of the socket's users; 0: there is none.
func (a *API) Groups() (admins, readers uint32, err error) {
	if admins, err = groupOf(a.AdminGroup); err == nil {
		readers, err = groupOf(a.ReadGroup)
	}
	return admins, readers, err
}

func groupOf(text string) (uint32, error) {
	if text == "" {
		return 0, nil
	}
	gid, err := api.LookupGroup(text)
	if err == nil && gid == 0 {
		err = errors.New("the group of root is nobody's to share")
	}
	if err != nil {
		return 0, fmt.Errorf("api: %w", err)
	}
	return gid, nil
}
