// SPDX-License-Identifier: Apache-2.0

package api

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Gate decides who may ask over TCP. What it needs it reads from files, again when they have changed; what cannot be read
// then does not count, and what was read before stays in force. Its methods may be called from several goroutines at once.
type Gate struct {
	log     *slog.Logger
	clients *clientTable
	every   time.Duration // how often files are looked at, if anybody asks

	mu      sync.Mutex
	opts    RemoteOptions
	keys    *keys
	stamp   string    // of the files, when they were read
	looked  time.Time // at the files
	refused int       // requests since the last one that was logged
	told    time.Time
}

// NewGate reads the files. The error names all that is wrong with them.
func NewGate(log *slog.Logger, opts RemoteOptions) (*Gate, error) {
	g := &Gate{log: log, clients: newClientTable(), every: time.Second}
	return g, g.Set(opts)
}

// Set lets others in from now on; after an error nothing has changed.
func (g *Gate) Set(opts RemoteOptions) error {
	stamp := stampOf(opts.files())
	k, err := readKeys(opts)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.opts, g.stamp, g.looked = opts, stamp, time.Now()
	g.use(k)
	g.clients.setRate(opts.Rate)
	return nil
}

// use puts keys in force.
func (g *Gate) use(k *keys) {
	g.keys = k
	if end := k.ends; time.Now().After(end) {
		g.log.Warn("certificate of the api has expired", "event", "api_certificate_expired", "file", g.opts.CertFile, "since", end)
	}
}

// current are the keys in force.
func (g *Gate) current() *keys {
	g.mu.Lock()
	defer g.mu.Unlock()
	if now := time.Now(); now.Sub(g.looked) >= g.every {
		g.looked = now
		g.refresh()
	}
	return g.keys
}

// refresh reads the files again if they have changed. Of a pair of files of which only one is new the other will follow.
func (g *Gate) refresh() {
	stamp := stampOf(g.opts.files())
	if stamp == g.stamp {
		return
	}
	g.stamp = stamp
	k, err := readKeys(g.opts)
	if err != nil {
		g.log.Warn("changed files of the api are not used, the former ones are", "event", "api_files_refused", "error", err)
		return
	}
	g.use(k)
	g.log.Info("files of the api are read again", "event", "api_files_read")
}

// configFor is what a handshake goes by.
func (g *Gate) configFor(*tls.ClientHelloInfo) (*tls.Config, error) { return g.current().tls, nil }

// tellRefused logs that somebody was refused, once a second at most.
func (g *Gate) tellRefused(from netip.Addr, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.refused++
	if now := time.Now(); now.Sub(g.told) >= time.Second {
		g.log.Warn("api request refused", "event", "api_refused", "from", from, "error", why, "since_last", g.refused)
		g.told, g.refused = now, 0
	}
}

// Check reads the files. The error names all that is wrong with them.
func (o *RemoteOptions) Check() error {
	_, err := readKeys(*o)
	return err
}

// files are all that are read.
func (o *RemoteOptions) files() []string {
	files := []string{o.CertFile, o.KeyFile}
	if o.ClientCAFile != "" {
		files = append(files, o.ClientCAFile)
	}
	for _, t := range o.Tokens {
		if t.File != "" {
			files = append(files, t.File)
		}
	}
	return files
}

// stampOf is another text when one of the files is another one, or was written.
func stampOf(files []string) string {
	var b strings.Builder
	for _, name := range files {
		info, err := os.Stat(name)
		if err != nil {
			fmt.Fprintf(&b, "%v;", err)
			continue
		}
		fmt.Fprintf(&b, "%d %d", info.Size(), info.ModTime().UnixNano())
		if s, ok := info.Sys().(*syscall.Stat_t); ok {
			fmt.Fprintf(&b, " %d", s.Ino)
		}
		b.WriteByte(';')
	}
	return b.String()
}

// keys are what the files say.
type keys struct {
	tls      *tls.Config
	ends     time.Time // the daemon's certificate
	tokens   []tokenKey
	subjects map[string]role
}

// tokenKey is a token without the token.
type tokenKey struct {
	name   string
	role   role
	digest [sha256.Size]byte
}

func readKeys(o RemoteOptions) (*keys, error) {
	k := &keys{subjects: map[string]role{}}
	errs := []error{k.readCertificates(o)}
	for _, t := range o.Tokens {
		digest, err := t.read()
		if err != nil {
			errs = append(errs, fmt.Errorf("token %s: %w", t.Name, err))
		}
		k.tokens = append(k.tokens, tokenKey{t.Name, roleFor(t.Admin), digest})
	}
	for _, c := range o.Clients {
		k.subjects[c.Subject] = roleFor(c.Admin)
	}
	return k, errors.Join(errs...)
}

func roleFor(isAdmin bool) role {
	if isAdmin {
		return admin
	}
	return reader
}

// readCertificates makes what handshakes go by. Sessions are not resumed: whoever comes again is looked at again.
func (k *keys) readCertificates(o RemoteOptions) error {
	pair, err := readPair(o.CertFile, o.KeyFile)
	if err != nil {
		return err
	}
	k.ends = pair.Leaf.NotAfter
	k.tls = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: max(o.MinVersion, tls.VersionTLS12),
		NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true}
	if o.ClientCAFile != "" {
		k.tls.ClientAuth = tls.VerifyClientCertIfGiven
		k.tls.ClientCAs, err = readCAs(o.ClientCAFile)
	}
	return err
}

// readPair reads a certificate and its key.
func readPair(certFile, keyFile string) (tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read certificate: %w", err)
	}
	key, err := readPrivate(keyFile)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("read key: %w", err)
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return pair, fmt.Errorf("certificate %s and key %s: %w", certFile, keyFile, err)
	}
	return pair, nil
}

func readCAs(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("read CA: %s has no certificate in PEM", file)
	}
	return pool, nil
}

// The sizes of secrets in bytes: a token that is shorter could be guessed, a file that is longer is none.
const (
	leastToken  = 16
	mostPrivate = 64 << 10
)

// readPrivate reads a file that not everybody may read or write.
func readPrivate(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return nil, fmt.Errorf("%s: permissions %#o are too open: everybody can get at it (chmod o= %s)", name, mode, name)
	}
	text, err := io.ReadAll(io.LimitReader(f, mostPrivate+1))
	if err == nil && len(text) > mostPrivate {
		err = fmt.Errorf("%s has more than %d bytes", name, mostPrivate)
	}
	return text, err
}

// read is the token's digest.
func (t *Token) read() (digest [sha256.Size]byte, err error) {
	if t.SHA256 != "" {
		return parseDigest(t.SHA256)
	}
	text := os.Getenv(t.Env)
	if t.File != "" {
		var content []byte
		if content, err = readPrivate(t.File); err != nil {
			return digest, err
		}
		text = string(content)
	}
	text = strings.TrimSpace(text)
	if written, ok := strings.CutPrefix(text, "sha256:"); ok {
		return parseDigest(written)
	}
	if len(text) < leastToken {
		return digest, fmt.Errorf("%s has a token of %d characters, which is less than %d", t.where(), len(text), leastToken)
	}
	return sha256.Sum256([]byte(text)), nil
}

func (t *Token) where() string {
	if t.File != "" {
		return t.File
	}
	return "environment variable " + t.Env
}

func parseDigest(text string) (digest [sha256.Size]byte, err error) {
	n, err := hex.Decode(digest[:], []byte(text[:min(len(text), 2*sha256.Size)]))
	if err != nil || n != sha256.Size || len(text) != 2*sha256.Size {
		return digest, fmt.Errorf("a SHA-256 has %d hexadecimal digits", 2*sha256.Size)
	}
	return digest, nil
}

// find is the token's owner; nil if there is none. It takes the same time whichever it is.
func (k *keys) find(token string) (found *tokenKey) {
	digest := sha256.Sum256([]byte(token))
	for i := range k.tokens {
		if subtle.ConstantTimeCompare(digest[:], k.tokens[i].digest[:]) == 1 {
			found = &k.tokens[i]
		}
	}
	return found
}
