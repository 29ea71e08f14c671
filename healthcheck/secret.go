// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
)

// maxSecret bounds what is read of a file, in bytes.
const maxSecret = 4096

// Secret is a password or a key. However it is printed, it shows nothing. The zero value is no secret.
type Secret struct{ value string }

// NewSecret is a secret from the text itself.
func NewSecret(value string) Secret { return Secret{value} }

// SecretFromFile reads a file; a line break at its end does not belong to the secret.
func SecretFromFile(path string) (Secret, error) {
	f, err := os.Open(path)
	if err != nil {
		return Secret{}, fmt.Errorf("read secret: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
	switch {
	case err != nil:
		return Secret{}, fmt.Errorf("read secret: %w", err)
	case len(text) > maxSecret:
		return Secret{}, fmt.Errorf("read secret: %s has more than %d bytes", path, maxSecret)
	}
	value := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	if value == "" {
		return Secret{}, fmt.Errorf("read secret: %s is empty", path)
	}
	return Secret{value}, nil
}

// SecretFromEnv takes an environment variable.
func SecretFromEnv(name string) (Secret, error) {
	value := os.Getenv(name)
	if value == "" {
		return Secret{}, fmt.Errorf("read secret: environment variable %s is not set", name)
	}
	return Secret{value}, nil
}

// IsZero tells whether there is none.
func (s Secret) IsZero() bool { return s.value == "" }

const redacted = "(secret)"

// String shows that there is a secret, or nothing.
func (s Secret) String() string {
	if s.IsZero() {
		return ""
	}
	return redacted
}

// GoString is String, for %#v.
func (s Secret) GoString() string { return s.String() }

// Format is String, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText is String, for JSON and others.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue is String, for slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// hide takes secrets out of a text that a server may have repeated.
func hide(text string, secrets ...Secret) string {
	for _, s := range secrets {
		if !s.IsZero() {
			text = strings.ReplaceAll(text, s.value, redacted)
		}
	}
	return text
}

// Reveal is the text itself, for who must send it.
func (s Secret) Reveal() string { return s.value }
