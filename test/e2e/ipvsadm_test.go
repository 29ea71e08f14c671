// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// linkIPVSADM makes the program one that is called ipvsadm, in a directory of its own.
func (f *farm) linkIPVSADM() (dir string) {
	f.t.Helper()
	dir = f.t.TempDir()
	must(f.t, os.Symlink(program, filepath.Join(dir, "ipvsadm")))
	return dir
}

// ipvsadm runs dir's ipvsadm on the director.
func (f *farm) ipvsadm(dir, stdin string, args ...string) result {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := f.director.Command(ctx, filepath.Join(dir, "ipvsadm"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	cmd.Env = append(environment(), "DIRECTOR_SOCKET="+f.socket())
	must(f.t, f.director.Start(cmd))
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		f.t.Fatal(err)
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// TestIPVSADM: a farm is made with ipvsadm's command line only, serves, and is there after kill -9.
func TestIPVSADM(t *testing.T) {
	t.Parallel()
	f := newFarm(t, 2)
	f.configure()
	d := f.start()
	dir := f.linkIPVSADM()
	rules := fmt.Sprintf("-A -t %[1]s:80 -s rr\n-a -t %[1]s:80 -r %[2]s:80 -g -w 1\n-a -t %[1]s:80 -r %[3]s:80 -g -w 1\n", vip4, real4(0), real4(1))
	if r := f.ipvsadm(dir, rules, "-R"); r.code != 0 || r.stderr != "" {
		t.Fatalf("ipvsadm -R: %+v", r)
	}
	f.awaitHops()
	f.expectBoth()
	if r := f.ipvsadm(dir, "", "-Sn"); r.stdout != rules {
		t.Errorf("ipvsadm -Sn:\n%s\nwant\n%s", r.stdout, rules)
	}
	if r := f.ipvsadm(dir, "", "-A", "-t", vip4.String()+":80"); r.code != 255 || r.stderr != "Service already exists\n" {
		t.Errorf("ipvsadm -A: %+v", r)
	}
	list := f.ipvsadm(dir, "", "-Lnc")
	if !strings.Contains(list.stdout, vip4.String()+":80") {
		t.Errorf("ipvsadm -Lnc:\n%s", list.stdout)
	}
	d.kill()
	f.start()
	if r := f.ipvsadm(dir, "", "-Sn"); r.stdout != rules {
		t.Errorf("after kill -9, ipvsadm -Sn:\n%s\nwant\n%s", r.stdout, rules)
	}
	f.expectBoth()
	if r := f.ipvsadm(dir, "", "-C"); r.code != 0 {
		t.Errorf("ipvsadm -C: %+v", r)
	}
	if r := f.ipvsadm(dir, "", "-Ln"); strings.Contains(r.stdout, "TCP") {
		t.Errorf("after ipvsadm -C:\n%s", r.stdout)
	}
}

// expectBoth waits until both of two real servers have answered.
func (f *farm) expectBoth() { f.expectFrom("rs1", "rs2") }

// expectFrom waits until exactly these real servers answer, ten times in a row.
func (f *farm) expectFrom(names ...string) {
	f.t.Helper()
	eventually(f.t, 30*time.Second, func() error {
		seen := map[string]bool{}
		for range 10 {
			name, err := f.fetch(vip4, webPort)
			if err != nil {
				return err
			}
			seen[name] = true
		}
		for _, name := range names {
			if !seen[name] {
				return fmt.Errorf("%s did not answer, only %v", name, seen)
			}
		}
		if len(seen) != len(names) {
			return fmt.Errorf("%v answer, want %v", seen, names)
		}
		return nil
	})
}

// ldirectord of Debian is not changed for this.
const ldirectord = "/usr/sbin/ldirectord"

// startLdirectord runs it in the foreground: in its debug mode it takes the ipvsadm of the directory it is in.
func (f *farm) startLdirectord(dir, config string) (stop func()) {
	f.t.Helper()
	file := filepath.Join(dir, fmt.Sprintf("e2e-%d.cf", os.Getpid()))
	must(f.t, os.WriteFile(file, []byte(config), 0o600))
	log := &lockedBuffer{}
	cmd := f.director.Command(context.Background(), ldirectord, "-d", file, "start")
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.Env = append(environment(), "DIRECTOR_SOCKET="+f.socket())
	must(f.t, f.director.Start(cmd))
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // killed or not, it has ended
		close(ended)
	}()
	f.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-ended
		if f.t.Failed() {
			f.t.Logf("ldirectord said:\n%s", log.tail())
		}
	})
	return func() {
		f.t.Helper()
		must(f.t, cmd.Process.Signal(syscall.SIGTERM))
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			f.t.Fatal("ldirectord does not end")
		}
	}
}

// TestLdirectord: an unmodified ldirectord runs a farm: it makes the service, takes a real server out that
// does not answer rightly, takes it back, and falls back when there is none.
func TestLdirectord(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat(ldirectord); err != nil {
		t.Skipf("ldirectord is missing: %v", err)
	}
	f := newFarm(t, 3)
	f.configure()
	f.start()
	dir := f.linkIPVSADM()
	stop := f.startLdirectord(dir, fmt.Sprintf(`checktimeout=3
checkinterval=1
quiescent=no
logfile="%s/ldirectord.log"
virtual=%s:80
	real=%s:80 gate 2
	real=%s:80 gate 2
	fallback=%s:80 gate
	service=http
	request="/"
	receive="rs"
	scheduler=wrr
	protocol=tcp
`, dir, vip4, real4(0), real4(1), real4(2)))
	f.expectFrom("rs1", "rs2")
	must(t, f.reals[0].http.Close())
	f.expectFrom("rs2")
	must(t, f.reals[1].http.Close())
	f.expectFrom("rs3")
	get(f.reals[0].ServeHTTP("rs1", everywhere(webPort)...))(t)
	f.expectFrom("rs1")
	list := f.ipvsadm(dir, "", "-Ln").stdout
	if want := fmt.Sprintf("TCP  %s:80 wrr\n  -> %s:80 ", vip4, real4(0)); !strings.Contains(list, want) {
		t.Errorf("list:\n%s\nwant\n%s", list, want)
	}
	stop()
	if list := f.ipvsadm(dir, "", "-Ln").stdout; strings.Contains(list, "TCP") {
		t.Errorf("ldirectord has ended, and left\n%s", list)
	}
}
