// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"xdplvs/bpf"
)

const metricsPort = 9500

// httpOf is a client whose connections dial makes.
func httpOf(t *testing.T, dial func(ctx context.Context, network, address string) (net.Conn, error)) *http.Client {
	client := &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: 30 * time.Second}
	t.Cleanup(client.CloseIdleConnections)
	return client
}

// socketClient asks over the director's socket.
func (f *farm) socketClient() *http.Client {
	return httpOf(f.t, func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", f.socket())
	})
}

func page(t *testing.T, client *http.Client, url string) (status int, text string) {
	t.Helper()
	answer := get(client.Get(url))(t)
	defer answer.Body.Close()
	return answer.StatusCode, string(get(io.ReadAll(answer.Body))(t))
}

// series finds a value by the name with its labels; fails if it is not there.
func series(t *testing.T, text, name string) float64 {
	t.Helper()
	_, rest, ok := strings.Cut(text, "\n"+name+" ")
	if !ok {
		t.Fatalf("no series %s in\n%s", name, text)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return get(strconv.ParseFloat(value, 64))(t)
}

// What Prometheus is told after some traffic is what happened, over TCP and over the socket.
func TestMetrics(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.writeConfig(f.config("eth0", standard("rr", 1, 1, 3)...) + fmt.Sprintf("metrics: {listen: %q}\n", fmt.Sprintf("%s:%d", director4, metricsPort)))
	f.start()
	f.mustSpread(f.fetch, vip4, webPort, map[string]int{"rs1": 3, "rs2": 3})

	tcp := f.client.HTTPClient(patience)
	base := fmt.Sprintf("http://%s:%d", director4, metricsPort)
	web := fmt.Sprintf(`protocol="tcp",%%sservice="web4",virtual="%s:%d"`, vip4, webPort)
	service := "{" + fmt.Sprintf(web, "") + "}"
	rs1 := "{" + fmt.Sprintf(web, fmt.Sprintf("real=\"%s:%d\",", real4(0), webPort)) + "}"
	eventually(t, patience, func() error { // entries are counted by the next pass of the sweep
		_, text := page(t, tcp, base+"/metrics")
		if !strings.Contains(text, "\n"+`director_table_entries{state="FIN_WAIT",table="connections4"} 6`+"\n") {
			return fmt.Errorf("not 6 closed connections in\n%s", text)
		}
		return nil
	})
	_, text := page(t, tcp, base+"/metrics")
	for name, want := range map[string]float64{
		"director_service_connections_total" + service:                  6,
		"director_real_connections_total" + rs1:                         3,
		"director_service_real_servers" + service:                       3,
		"director_service_usable_real_servers" + service:                2,
		"director_real_weight" + rs1:                                    1,
		"director_connections_total":                                    6,
		`director_verdict_packets_total{verdict="tx_new"}`:              6,
		`director_table_entries{state="FIN_WAIT",table="connections4"}`: 6,
		`director_table_used_places{table="connections4"}`:              6,
		`director_table_places{table="connections4"}`:                   16 << 10,
		`director_table_used_places{table="services"}`:                  6,
		"director_ready":                         1,
		"director_config_last_reload_successful": 1,
		`director_omitted{kind="service"}`:       0,
	} {
		if got := series(t, text, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, verdict := range bpf.VerdictNames() {
		series(t, text, fmt.Sprintf("director_verdict_packets_total{verdict=%q}", verdict))
	}
	if packets := series(t, text, "director_service_incoming_packets_total"+service); packets < 18 {
		t.Errorf("%v packets of 6 connections", packets)
	}
	f.mustPassPromtool(text)
	if _, same := page(t, f.socketClient(), "http://director/metrics"); series(t, same, "director_connections_total") != 6 {
		t.Errorf("over the socket:\n%s", same)
	}
}

func (f *farm) mustPassPromtool(text string) {
	f.t.Helper()
	if _, err := exec.LookPath("promtool"); err != nil {
		return // checked in package metrics
	}
	cmd := exec.Command("promtool", "check", "metrics")
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		f.t.Errorf("promtool: %v\n%s", err, out)
	}
}

// Who comes over TCP gets metrics and health, and nothing that is for administrators.
func TestPages(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 1)
	f.writeConfig(f.config("eth0", standard("rr", 1)...) + fmt.Sprintf("metrics: {listen: \"[::]:%d\"}\n", metricsPort))
	f.start()
	tcp, socket := f.client.HTTPClient(patience), f.socketClient()
	base := fmt.Sprintf("http://[%s]:%d", director6, metricsPort)
	for _, c := range []struct {
		client *http.Client
		url    string
		status int
		text   string
	}{
		{tcp, base + "/healthz", 200, "ok\n"},
		{tcp, base + "/readyz", 200, "ok\n"},
		{tcp, base + "/debug/pprof/", 404, "unknown path"},
		{tcp, base + "/v1/snapshot", 404, "unknown path"},
		{socket, "http://director/readyz", 200, "ok\n"},
		{socket, "http://director/debug/pprof/goroutine?debug=1", 200, "goroutine profile"},
	} {
		if status, text := page(t, c.client, c.url); status != c.status || !strings.Contains(text, c.text) {
			t.Errorf("%s: %d %q, want %d %q", c.url, status, text, c.status, c.text)
		}
	}
	get(f.director.Run(t.Context(), "ip", "link", "delete", "eth0"))(t)
	eventually(t, patience, func() error {
		if status, text := page(t, socket, "http://director/readyz"); status != 503 || !strings.HasPrefix(text, "interface eth0: ") {
			return fmt.Errorf("readyz without the interface: %d %q", status, text)
		}
		return nil
	})
	if status, _ := page(t, socket, "http://director/healthz"); status != 200 {
		t.Errorf("healthz without the interface: %d", status)
	}
}
