// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"crypto/md5"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"slices"
	"strings"
)

// credentials answer a server's challenge (RFC 7616 and, for servers without qop, RFC 2069).
type credentials struct {
	user     string
	password Secret
}

// challenge is one of WWW-Authenticate.
type challenge struct {
	scheme string // lower case
	params map[string]string
}

// authorize makes the value of Authorization for the best of the challenges.
func (c credentials) authorize(headers []string, method, uri string) (string, error) {
	var challenges []challenge
	for _, h := range headers {
		challenges = append(challenges, parseChallenge(h))
	}
	for _, algorithm := range []string{"SHA-256", "MD5"} {
		for _, ch := range challenges {
			if ch.scheme == "digest" && strings.EqualFold(orElse(ch.params["algorithm"], "MD5"), algorithm) {
				return c.digest(ch, algorithm, method, uri), nil
			}
		}
	}
	if slices.ContainsFunc(challenges, func(ch challenge) bool { return ch.scheme == "basic" }) {
		return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.user+":"+c.password.value)), nil
	}
	return "", fail(L7STS, 401, "no known way to log in is offered: %s (known: Digest with MD5 or SHA-256, Basic)", excerpt(strings.Join(headers, ", ")))
}

var digestHashes = map[string]func() hash.Hash{"MD5": md5.New, "SHA-256": sha256.New}

func (c credentials) digest(ch challenge, algorithm, method, uri string) string {
	h := func(parts ...string) string {
		sum := digestHashes[algorithm]()
		sum.Write([]byte(strings.Join(parts, ":")))
		return hex.EncodeToString(sum.Sum(nil))
	}
	realm, nonce := ch.params["realm"], ch.params["nonce"]
	ha1, ha2 := h(c.user, realm, c.password.value), h(method, uri)
	fields := fmt.Sprintf(`Digest username=%s, realm=%s, nonce=%s, uri=%s`, quoted(c.user), quoted(realm), quoted(nonce), quoted(uri))
	if ch.params["algorithm"] != "" {
		fields += ", algorithm=" + algorithm
	}
	if ch.params["opaque"] != "" {
		fields += ", opaque=" + quoted(ch.params["opaque"])
	}
	if !hasToken(ch.params["qop"], "auth") {
		return fields + ", response=" + quoted(h(ha1, nonce, ha2))
	}
	const count = "00000001"
	own := rand.Text()
	response := h(ha1, nonce, count, own, "auth", ha2)
	return fields + fmt.Sprintf(`, qop=auth, nc=%s, cnonce=%s, response=%s`, count, quoted(own), quoted(response))
}

func hasToken(list, token string) bool {
	return slices.ContainsFunc(strings.Split(list, ","), func(t string) bool { return strings.EqualFold(strings.TrimSpace(t), token) })
}

// parseChallenge reads: scheme name=value, name="value", …
func parseChallenge(header string) challenge {
	scheme, rest, _ := strings.Cut(strings.TrimSpace(header), " ")
	ch := challenge{strings.ToLower(scheme), make(map[string]string)}
	for rest != "" {
		var name, value string
		name, rest, _ = strings.Cut(rest, "=")
		value, rest = cutValue(strings.TrimSpace(rest))
		ch.params[strings.ToLower(strings.Trim(name, " ,\t"))] = value
	}
	return ch
}

// cutValue takes a token or a quoted string off the front of a list.
func cutValue(text string) (value, rest string) {
	if !strings.HasPrefix(text, `"`) {
		value, rest, _ = strings.Cut(text, ",")
		return strings.TrimSpace(value), rest
	}
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return b.String(), strings.TrimLeft(text[i+1:], " ,")
		case c == '\\' && i+1 < len(text):
			i++
			b.WriteByte(text[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String(), "" // never closed
}
