// SPDX-License-Identifier: Apache-2.0

package netlab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// owner identifies a process for as long as the machine runs: a pid alone is used again.
type owner struct {
	pid   int
	start uint64 // start time in clock ticks since boot, /proc/PID/stat field 22
}

// ownerOf reads the identity of a process. The error wraps os.ErrNotExist if there is none.
func ownerOf(pid int) (owner, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, unix.ESRCH) { // it ended between open and read
		err = os.ErrNotExist
	}
	if err != nil {
		return owner{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	// Field 2, the command in parentheses, may itself hold blanks and parentheses.
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const startField = 22 - 3 // what follows the command begins with field 3
	if len(fields) <= startField {
		return owner{}, fmt.Errorf("read process %d: stat has only %d fields", pid, len(fields)+2)
	}
	start, err := strconv.ParseUint(string(fields[startField]), 10, 64)
	if err != nil {
		return owner{}, fmt.Errorf("read process %d: start time: %w", pid, err)
	}
	return owner{pid: pid, start: start}, nil
}

// alive tells whether the process still runs. In doubt it does.
func (o owner) alive() bool {
	now, err := ownerOf(o.pid)
	if err != nil {
		return !errors.Is(err, os.ErrNotExist)
	}
	return now == o
}

// namespaceName is the inverse of parseNamespaceName.
func namespaceName(prefix string, o owner, random, host string) string {
	return fmt.Sprintf("%s.%d.%s.%s.%s", prefix, o.pid, strconv.FormatUint(o.start, 36), random, host)
}

// parseNamespaceName returns prefix and owner of a namespace, or false if its name is none of ours.
func parseNamespaceName(nsName string) (prefix string, o owner, ok bool) {
	fields := strings.Split(nsName, ".")
	if len(fields) != 5 {
		return "", owner{}, false
	}
	pid, err := strconv.Atoi(fields[1])
	if err != nil || pid <= 0 {
		return "", owner{}, false
	}
	start, err := strconv.ParseUint(fields[2], 36, 64)
	if err != nil {
		return "", owner{}, false
	}
	return fields[0], owner{pid: pid, start: start}, true
}

// CleanStale removes the namespaces, and kills the processes in them, that labs with this prefix
// left behind because their owner was killed. Those of a running owner are spared. It goes on after
// an error and returns all of them joined.
func CleanStale(prefix string) error {
	names, err := staleNamespaces(prefix)
	if err != nil {
		return fmt.Errorf("clean stale labs %q: %w", prefix, err)
	}
	errs := []error{killInside(names)}
	for _, name := range names {
		errs = append(errs, removeNamespace(name))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean stale labs %q: %w", prefix, err)
	}
	return nil
}

// staleNamespaces lists the namespaces with the prefix whose owner no longer runs.
func staleNamespaces(prefix string) ([]string, error) {
	entries, err := os.ReadDir(namespaceDir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var stale []string
	for _, entry := range entries {
		p, o, ok := parseNamespaceName(entry.Name())
		if ok && p == prefix && !o.alive() {
			stale = append(stale, entry.Name())
		}
	}
	return stale, nil
}

// killWait bounds how long killInside waits for killed processes to end.
const killWait = 2 * time.Second

// killInside kills the processes inside the named namespaces, this one excepted, and returns when
// they are gone. It repeats, because a process may fork while it is looked for.
func killInside(nsNames []string) error {
	inodes := namespaceInodes(nsNames)
	deadline := time.Now().Add(killWait)
	for {
		pids := pidsInside(inodes)
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("kill processes in namespaces: %v still run after %v", pids, killWait)
		}
		for _, pid := range pids {
			if err := killIfInside(pid, inodes); err != nil {
				return err
			}
		}
		time.Sleep(time.Millisecond)
	}
}

// killIfInside kills a process if it is in one of the namespaces. The descriptor holds on to the
// process, so that a pid that was given away meanwhile harms nobody.
func killIfInside(pid int, inodes map[inode]bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !isInside(pid, inodes) {
		return nil
	}
	// ESRCH: it ended by itself, which is what we want.
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", pid, err)
	}
	return nil
}

// isInside tells whether the process runs in one of the namespaces. A zombie runs in none.
func isInside(pid int, inodes map[inode]bool) bool {
	id, err := inodeOf(fmt.Sprintf("/proc/%d/ns/net", pid))
	return err == nil && inodes[id]
}

// inode is the identity of a namespace.
type inode struct{ dev, ino uint64 }

func inodeOf(path string) (inode, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return inode{}, err
	}
	return inode{dev: st.Dev, ino: st.Ino}, nil
}

// namespaceInodes returns the identities of those namespaces that exist. The file of one that was
// never mounted has an inode too, on another device than any namespace, and so matches no process.
// The machine's own namespace is never among them, whatever is mounted there.
func namespaceInodes(nsNames []string) map[inode]bool {
	inodes := make(map[inode]bool, len(nsNames))
	for _, name := range nsNames {
		if id, err := inodeOf(namespacePath(name)); err == nil {
			inodes[id] = true
		}
	}
	if id, err := inodeOf("/proc/1/ns/net"); err == nil {
		delete(inodes, id)
	}
	return inodes
}

// pidsInside lists the processes that run in one of the namespaces, without this one.
func pidsInside(inodes map[inode]bool) []int {
	if len(inodes) == 0 {
		return nil
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*") // fails on a bad pattern only
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err == nil && pid != os.Getpid() && isInside(pid, inodes) {
			pids = append(pids, pid)
		}
	}
	return pids
}
