// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"xdplvs/internal/netlab"
)

const labPrefix = "docs"

// patience is how long a command of the document may take to print what the document says.
const patience = 30 * time.Second

// step is a command of the document, where it is given, and what it prints: … stands for anything.
type step struct {
	host, command string
	want          []string
}

// promptLine is a command, as in "    rs1# ip link set eth0 up".
var promptLine = regexp.MustCompile(`^    ([a-z0-9]+)[#$] (.*)$`)

// stepsOf are the commands of a document in their order.
func stepsOf(text string) (steps []step) {
	printing := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		m := promptLine.FindStringSubmatch(line)
		switch {
		case m != nil:
			steps = append(steps, step{host: m[1], command: m[2]})
		case printing && strings.HasPrefix(line, "    "):
			last := &steps[len(steps)-1]
			last.want = append(last.want, line)
		}
		printing = m != nil || printing && strings.HasPrefix(line, "    ")
	}
	return steps
}

// printed says whether an output is as the document has it: the same, or with … the lines in their order
// among others. Spaces only part words.
func printed(output string, want []string) bool {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	if all := strings.Join(want, "\n"); !strings.Contains(all, "…") {
		return squeeze(output) == squeeze(all)
	}
	for _, w := range want {
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(squeeze(w)), "…", ".*") + "$")
		for len(lines) > 0 && !pattern.MatchString(squeeze(lines[0])) {
			lines = lines[1:]
		}
		if len(lines) == 0 {
			return false
		}
		lines = lines[1:]
	}
	return true
}

func squeeze(text string) string { return strings.Join(strings.Fields(text), " ") }

// rehearsal is the network of the document.
type rehearsal struct {
	t     *testing.T
	lab   *netlab.Lab
	hosts map[string]*netlab.Host
	dir   string
	tried int
}

// newRehearsal makes the machines of the document's table. The real servers' names are their pages.
func newRehearsal(t *testing.T) *rehearsal {
	t.Helper()
	must(t, netlab.CleanStale(labPrefix))
	lab, err := netlab.New(labPrefix)
	must(t, err)
	t.Cleanup(func() { must(t, lab.Close()) })
	r := &rehearsal{t: t, lab: lab, hosts: map[string]*netlab.Host{}, dir: t.TempDir()}
	sw, err := lab.Switch("switch")
	must(t, err)
	for name, number := range map[string]string{"client": "1", "director": "2", "rs1": "11", "rs2": "12"} {
		h, err := lab.Host(name)
		must(t, err)
		_, err = h.Connect(sw, "eth0", netip.MustParsePrefix("192.0.2."+number+"/24"), netip.MustParsePrefix("2001:db8::"+number+"/64"))
		must(t, err)
		r.hosts[name] = h
	}
	everywhere := []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:80"), netip.MustParseAddrPort("[::]:80")}
	for _, name := range []string{"rs1", "rs2"} {
		_, err := r.hosts[name].ServeHTTP(name, everywhere...)
		must(t, err)
	}
	must(t, os.Mkdir(r.pins(), 0o755))
	must(t, syscall.Mount("bpf", r.pins(), "bpf", 0, ""))
	t.Cleanup(func() { must(t, syscall.Unmount(r.pins(), 0)) })
	out, err := exec.Command("go", "build", "-o", filepath.Join(r.dir, "director"), "xdplvs/cmd/director").CombinedOutput()
	if err != nil {
		t.Fatalf("build director: %v\n%s", err, out)
	}
	return r
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (r *rehearsal) pins() string { return filepath.Join(r.dir, "bpffs") }

// script makes a command one of this machine's, in a mount namespace of its own: the configuration and what
// is pinned lie elsewhere, ssh is a way into a namespace.
func (r *rehearsal) script(command string) string {
	prelude := "set -eo pipefail\nmount -t sysfs sysfs /sys\nmount --bind " + r.pins() + " /sys/fs/bpf\n"
	for name, h := range r.hosts {
		prelude += fmt.Sprintf("namespace_%s=/run/netns/%s\n", name, h.NSName())
	}
	prelude += "ssh() { local namespace=namespace_$1; shift; nsenter --net=\"${!namespace}\" \"$@\"; }\n"
	return prelude + strings.ReplaceAll(command, "/etc/director/", r.dir+"/")
}

// bash prepares a command at its machine.
func (r *rehearsal) bash(ctx context.Context, s step) *exec.Cmd {
	r.t.Helper()
	h := r.hosts[s.host]
	if h == nil {
		r.t.Fatalf("%s: there is no machine %s", s.command, s.host)
	}
	cmd := h.Command(ctx, "unshare", "--mount", "bash", "-c", r.script(s.command))
	cmd.Env = append(os.Environ(), "NO_COLOR=1", "PATH="+r.dir+":"+os.Getenv("PATH"), "DIRECTOR_SOCKET="+filepath.Join(r.dir, "director.sock"))
	cmd.WaitDelay = time.Second
	return cmd
}

// try gives a command. What prints something is asked until it prints what it should.
func (r *rehearsal) try(s step) {
	r.t.Helper()
	r.tried++
	if strings.HasPrefix(s.command, "director run") {
		r.background(s)
		return
	}
	var output string
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(50 * time.Millisecond) {
		var out bytes.Buffer
		cmd := r.bash(r.t.Context(), s)
		cmd.Stdout, cmd.Stderr = &out, &out
		must(r.t, r.hosts[s.host].Start(cmd))
		err := cmd.Wait() // the doctor fails where the document wants it to
		output = strings.ReplaceAll(out.String(), r.dir+"/", "/etc/director/")
		if s.want == nil && err != nil {
			r.t.Fatalf("%s# %s: %v\n%s", s.host, s.command, err, output)
		}
		if s.want == nil || printed(output, s.want) {
			return
		}
	}
	r.t.Fatalf("%s# %s prints\n%s\nwant\n%s", s.host, s.command, output, strings.Join(s.want, "\n"))
}

// background runs the director until the test ends.
func (r *rehearsal) background(s step) {
	r.t.Helper()
	log := filepath.Join(r.dir, "log")
	file, err := os.Create(log)
	must(r.t, err)
	defer file.Close() // the director has it
	s.command = "exec " + s.command + " --log-format text"
	cmd := r.bash(context.Background(), s)
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(r.t, r.hosts[s.host].Start(cmd))
	r.t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		must(r.t, cmd.Wait())
	})
	for begun := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		text, err := os.ReadFile(log)
		must(r.t, err)
		if printed(string(text), s.want) {
			return
		}
		if time.Since(begun) > patience {
			r.t.Fatalf("%s prints\n%s\nwant\n%s", s.command, text, strings.Join(s.want, "\n"))
		}
	}
}

// TestGettingStarted gives every command of the document in a network as it describes.
func TestGettingStarted(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces and XDP")
	}
	text := read(t, "docs/getting-started.md")
	r := newRehearsal(t)
	config := regexp.MustCompile("(?s)Write `/etc/director/(director.yaml)`:\n\n```yaml\n(.*?)```").FindStringSubmatch(text)
	if config == nil {
		t.Fatal("the document has no configuration")
	}
	must(t, os.WriteFile(filepath.Join(r.dir, config[1]), []byte(config[2]), 0o644))
	for _, s := range stepsOf(text) {
		r.try(s)
	}
	if r.tried < 20 {
		t.Errorf("tried %d commands: the pattern is wrong", r.tried)
	}
}
