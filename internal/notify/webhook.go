// SPDX-License-Identifier: Apache-2.0

package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"xdplvs/healthcheck"
	"xdplvs/internal/health"
)

// Webhook posts {"events": […]} as JSON.
type Webhook struct {
	URL    string
	Token  healthcheck.Secret // sent as Authorization: Bearer; zero: none
	Header map[string]healthcheck.Secret
	CAs    healthcheck.CAs // who may have signed the server's certificate
}

func (w *Webhook) name() string { return "webhook " + redact(w.URL) }

// redact leaves out what may be secret: path and query, which are all that some webhooks know their users by, and a password.
func redact(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "(not parsed)"
	}
	u.RawQuery, u.Path, u.RawPath = "", "", ""
	return u.Redacted()
}

func (w *Webhook) gather() time.Duration { return 100 * time.Millisecond }

func (w *Webhook) send(ctx context.Context, events []health.Event) error {
	var body struct {
		Events []message `json:"events"`
	}
	for i := range events {
		body.Events = append(body.Events, messageOf(&events[i]))
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.URL, bytes.NewReader(text))
	if err != nil {
		return withoutURL(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for name, value := range w.Header {
		req.Header.Set(name, value.Reveal())
	}
	if !w.Token.IsZero() {
		req.Header.Set("Authorization", "Bearer "+w.Token.Reveal())
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	defer transport.CloseIdleConnections()
	transport.TLSClientConfig = &tls.Config{RootCAs: w.CAs.Pool()}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return withoutURL(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return fmt.Errorf("the webhook answers %s", resp.Status)
	}
	return nil
}

// withoutURL takes the URL out of an error: it may hold a token.
func withoutURL(err error) error {
	var outer *url.Error
	if errors.As(err, &outer) {
		return outer.Err
	}
	return err
}
