// SPDX-License-Identifier: Apache-2.0

// Package package_test installs, uses and removes the Debian package, in a copy of this machine's root
// whose changes are thrown away (an overlay in a mount namespace of its own).
package package_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// deb builds the package.
func deb(t *testing.T) string {
	t.Helper()
	for _, tool := range []string{"dpkg-deb", "git"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed: this is no Debian")
		}
	}
	cmd := exec.Command("../../tools/deb.sh", t.TempDir())
	cmd.Env = append(os.Environ(), "VERSION=1.2.3")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tools/deb.sh: %v\n%s", err, errs.String())
	}
	return strings.TrimSpace(string(out))
}

// inOverlay runs a script in a copy of the root, where the package lies at /director.deb. It has a
// /run of its own, so that no service manager is there, and a bpffs that only root can pass through.
func inOverlay(t *testing.T, pack, script string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("installing a package needs root")
	}
	dir := t.TempDir()
	const prepare = `
set -eu
mount -t tmpfs none "$1"
mkdir "$1/upper" "$1/work" "$1/root"
if ! mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"; then exit 77; fi
mount -t tmpfs none "$1/root/run"
mount -t proc proc "$1/root/proc"
mount -t sysfs sysfs "$1/root/sys"
mount -t bpf -o mode=0700 bpf "$1/root/sys/fs/bpf"
mount --bind /dev "$1/root/dev"
cp "$2" "$1/root/director.deb"
cp "$3" "$1/root/script"
exec chroot "$1/root" /bin/bash -eu /script
`
	file := filepath.Join(dir, "script")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "--mount", "--net", "--pid", "--fork", "/bin/sh", "-c", prepare, "sh", root, pack, file)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MANPAGER=cat", "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 77 {
		t.Skipf("no overlay file system here: %s", out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// files lists what packages install and leave, but for dpkg's own books and caches.
const files = `files() {
	find /etc /usr /var /opt /srv /run \( -path /var/lib/dpkg -o -path /var/log -o -path /var/cache -o -path /usr/local \) -prune -o -print |
		grep -v -e '^/etc/passwd-' -e '^/etc/shadow-' -e '^/etc/group-' -e '^/etc/gshadow-' -e '^/run/systemd' -e '.lock$' | sort
}
`

// TestInstallUseRemove is the life of a package: afterwards the machine is as it was before.
func TestInstallUseRemove(t *testing.T) {
	out := inOverlay(t, deb(t), files+`
userdel director 2>/dev/null || true
cp /etc/passwd /etc/group /root
files >/root/before
dpkg -i /director.deb >/dev/null
echo "status: $(dpkg-query -W -f '${Status} ${Version}' director)"
echo "verify: $(dpkg -V director)"
echo "user: $(id -nG director) $(stat -c '%U:%G %a' /etc/director)"
director --version | head -1
for page in /usr/share/man/man1/director*.gz; do zcat "$page" | groff -k -man -Tutf8 -ww 2>&1 >/dev/null; done
zcat /usr/share/man/man1/director-list.1.gz | groff -k -man -Tutf8 -P-cbou | grep -e --persistent-conn
bash -ec 'source /usr/share/bash-completion/completions/director; complete -p director'
director check /usr/share/doc/director/examples/minimal.yaml | sed 's/.*: ok/ok/'
systemd-analyze verify director.service 2>&1 | grep director.service | sed 's/^/unit: /'
systemd-analyze security --offline=yes --threshold=30 director.service | tail -1

# The state belongs to the service's user, who can pass through the bpffs but not list it.
/usr/lib/director/prepare-state
setpriv --reuid=director --regid=director --clear-groups --inh-caps=-all --bounding-set=-all sh -c 'touch /sys/fs/bpf/director/x 2>/dev/null; ls /sys/fs/bpf >/dev/null 2>&1 && echo "may list"; ls -d /sys/fs/bpf/director'
echo 'interfaces: [eth0]' >/etc/director/director.yaml
dpkg -i /director.deb >/dev/null # an upgrade keeps what is there
cat /etc/director/director.yaml
dpkg -r director >/dev/null
test ! -e /sys/fs/bpf/director && echo "the state is gone"
test -e /etc/director/director.yaml && echo "the configuration is kept"
rm /etc/director/director.yaml
dpkg -P director >/dev/null
files >/root/after
diff /root/before /root/after && diff /root/passwd /etc/passwd && diff /root/group /etc/group && echo "nothing is left"
`)
	for _, line := range []string{
		"status: install ok installed 1.2.3\n", "verify: \n", "user: director root:director 750\n", "\ndirector ",
		"show how many clients persistence", "ok: 1 service", "-F __start_director director\n", "OK", "/sys/fs/bpf/director\n", "interfaces: [eth0]\n",
		"the state is gone\n", "the configuration is kept\n", "nothing is left\n",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("not said: %q", line)
		}
	}
	for _, line := range []string{"may list", "warning", "unit: "} {
		if strings.Contains(out, line) {
			t.Errorf("said: %q", line)
		}
	}
	if t.Failed() {
		t.Logf("the script printed\n%s", out)
	}
}

// TestEachCommandHasAPage: the pages and completions are those of the program in the package.
func TestEachCommandHasAPage(t *testing.T) {
	pack := deb(t)
	root := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", pack, root).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	pages, err := filepath.Glob(filepath.Join(root, "usr/share/man/man1/*.1.gz"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range pages {
		pages[i] = strings.TrimSuffix(filepath.Base(pages[i]), ".1.gz")
	}
	commands := commandsOf(t, filepath.Join(root, "usr/bin/director"))
	if len(commands) < 10 {
		t.Fatalf("only these commands are listed: %v", commands)
	}
	for _, command := range commands {
		if !slices.Contains(pages, command) {
			t.Errorf("there is no page %s.1 (there are %v)", command, pages)
		}
	}
}

// commandsOf are the names of the pages that the program's own help asks for, director-list and such.
func commandsOf(t *testing.T, program string, words ...string) (names []string) {
	t.Helper()
	out, err := exec.Command(program, append(slices.Clone(words), "--help")...).Output()
	if err != nil {
		t.Fatalf("director %v --help: %v", words, err)
	}
	_, list, ok := strings.Cut(string(out), "Available Commands:\n")
	if !ok {
		return nil
	}
	list, _, _ = strings.Cut(list, "\n\n")
	for _, m := range regexp.MustCompile(`(?m)^  (\S+)`).FindAllStringSubmatch(list, -1) {
		if m[1] == "help" {
			continue
		}
		path := append(slices.Clone(words), m[1])
		names = append(names, fmt.Sprintf("director-%s", strings.Join(path, "-")))
		names = append(names, commandsOf(t, program, path...)...)
	}
	return names
}
