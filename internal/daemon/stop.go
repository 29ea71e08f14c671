// SPDX-License-Identifier: Apache-2.0

package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"xdplvs/bpf"
	"xdplvs/configs"
	"xdplvs/internal/api"
	"xdplvs/internal/arpnd"
	"xdplvs/internal/atomicfile"
	"xdplvs/internal/door"
	"xdplvs/internal/vip"
)

// runFiles are what a daemon writes beside its socket, but for its lock. The first tells, without the
// configuration, what there is to remove: it is the last to go.
var runFiles = []string{dataPlaneFile, "addresses.json", "changes.json", "health.json", "generations"}

const dataPlaneFile = "data-plane.json"

// dataPlaneRecord is the content of that file.
type dataPlaneRecord struct {
	StateDir string `json:"state_dir"`
}

// recordDataPlane says where the state is, for those who have to remove it without a daemon.
func recordDataPlane(socket, stateDir string) error {
	text, err := json.Marshal(dataPlaneRecord{stateDir})
	if err == nil {
		err = atomicfile.Write(filepath.Join(filepath.Dir(socket), dataPlaneFile), append(text, '\n'))
	}
	if err != nil {
		return fmt.Errorf("write where the data plane is: %w", err)
	}
	return nil
}

// StopOptions say which director to stop, and how.
type StopOptions struct {
	ConfigFile string // that it was started with; empty: the daemon wrote beside its socket what is needed
	Socket     string // empty: as the configuration says, or where daemons usually listen
	Detach     bool   // nothing of it stays: see Options
	Log        *slog.Logger
}

// stopPatience is how long a daemon may take to end.
const stopPatience = 30 * time.Second

// Stop ends the daemon. With Detach it removes all that the director added to this host, also what a
// daemon that died has left. It tells what was done; that there was nothing to do is no error.
func Stop(ctx context.Context, opts StopOptions) (done string, err error) {
	at, err := opts.places()
	if err != nil {
		return "", err
	}
	ended, err := at.endDaemon(ctx, opts.Detach)
	switch {
	case err != nil:
		return "", err
	case !opts.Detach && ended:
		return "stopped: the data plane forwards on (director stop --detach removes it)", nil
	case !opts.Detach:
		return "no daemon runs", nil
	case ended && !at.left():
		return removedAll, nil
	}
	found, err := at.remove(opts.Log)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return "", fmt.Errorf("%w (root may remove the data plane, and an administrator of the daemon while that runs)", err)
	case err != nil:
		return "", err
	case ended || found:
		return removedAll, nil
	}
	return "nothing was left to remove", nil
}

const removedAll = "removed: programs, tables, addresses, rules and interfaces of the director"

// places are where a director has what outlives it.
type places struct{ socket, stateDir string }

// places are as the configuration says; without one, as the daemon has written.
func (o StopOptions) places() (at places, err error) {
	if o.ConfigFile != "" {
		config, err := configs.Load(o.ConfigFile)
		if err != nil {
			return at, err
		}
		return places{cmp.Or(o.Socket, config.Socket), config.StateDir}, nil
	}
	at = places{cmp.Or(o.Socket, configs.DefaultSocket), configs.DefaultStateDir}
	text, err := os.ReadFile(at.file(dataPlaneFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
		return at, fmt.Errorf("find the data plane: %w", err)
	}
	var record dataPlaneRecord
	if err == nil {
		if err := json.Unmarshal(text, &record); err != nil || record.StateDir == "" {
			return at, fmt.Errorf("find the data plane: %s does not say where it is: name the configuration with -c FILE", at.file(dataPlaneFile))
		}
		at.stateDir = record.StateDir
	}
	return at, nil
}

func (at places) file(name string) string { return filepath.Join(filepath.Dir(at.socket), name) }

// left reports whether a daemon that was to remove everything did not come to the end of it.
func (at places) left() bool {
	_, err := os.Lstat(at.file(dataPlaneFile))
	return !errors.Is(err, fs.ErrNotExist)
}

// endDaemon asks the daemon to end, and waits until it has; false: there is none.
func (at places) endDaemon(ctx context.Context, detach bool) (ended bool, err error) {
	client := api.Dial(at.socket)
	defer client.Close()
	err = client.Stop(ctx, detach)
	var connect *api.ConnectError
	if errors.As(err, &connect) && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED)) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	for at.running() {
		select {
		case <-ctx.Done():
			return false, fmt.Errorf("the daemon was asked to end, and runs still: %s", holder(at.file(lockName)))
		case <-time.After(20 * time.Millisecond):
		}
	}
	return true, nil
}

// running reports whether a daemon holds its lock. Everybody may ask.
func (at places) running() bool {
	f, err := os.Open(at.file(lockName))
	if err != nil {
		return false
	}
	defer f.Close()
	return errors.Is(unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// remove removes what a daemon has left that does not run any more. found: there was something.
func (at places) remove(log *slog.Logger) (found bool, err error) {
	made := !exists(filepath.Dir(at.socket))
	hold, err := lock(at.socket)
	if err != nil {
		return false, err
	}
	defer hold.release()
	found = exists(at.stateDir) || !made && anyOf(at)
	state, err := lockState(at.stateDir)
	if err == nil {
		defer state.release()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return found, err
	}
	addresses := vip.New(vip.Options{Log: log, Answers: tornDown{}, File: at.file("addresses.json")})
	keeper := door.New(door.Options{Log: log})
	// The addresses first: they bring packets here.
	if err := errors.Join(addresses.Release(), keeper.Remove(), bpf.Remove(at.stateDir)); err != nil {
		return found, fmt.Errorf("remove data plane: %w", err)
	}
	return found, at.forget()
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

func anyOf(at places) bool {
	for _, name := range runFiles {
		if exists(at.file(name)) {
			return true
		}
	}
	return false
}

// forget removes what daemons write, and their directory if nothing else is in it. Its caller holds the lock.
func (at places) forget() error {
	names := []string{filepath.Base(at.socket), filepath.Base(at.socket) + ".lock"}
	for i := range runFiles {
		names = append(names, runFiles[len(runFiles)-1-i])
	}
	for _, name := range append(names, lockName) {
		if err := os.RemoveAll(at.file(name)); err != nil {
			return fmt.Errorf("remove what is no more needed: %w", err)
		}
	}
	// One that holds something else, or lies in a directory of somebody else's, stays.
	err := os.Remove(filepath.Dir(at.socket))
	if err != nil && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, fs.ErrPermission) && !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("remove run directory: %w", err)
	}
	return nil
}

// tornDown is the table of addresses that are answered for, of a data plane that goes as a whole.
type tornDown struct{}

// Answered implements vip.Answers.
func (tornDown) Answered() (map[vip.Place]arpnd.MAC, error) { return nil, nil }

// SetAnswered implements vip.Answers.
func (tornDown) SetAnswered(vip.Place, arpnd.MAC) error { return nil }

// DeleteAnswered implements vip.Answers.
func (tornDown) DeleteAnswered(vip.Place) error { return nil }

// Stop implements api.Backend.
func (b backend) Stop(detach bool) {
	b.d.log.Info("the daemon was asked to end", "event", "stopping", "detach", detach)
	if detach {
		b.d.detach.Store(true)
	}
	b.d.finish()
}
