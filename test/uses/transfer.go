// SPDX-License-Identifier: Apache-2.0

package uses

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"xdplvs/internal/programs"
)

// transferBytes are a download's, and an upload's.
const transferBytes = 6 << 20

// transfer is a large download or upload of curl's.
type transfer struct {
	*visitor
	name    string // of the file
	up      bool
	local   string // path of the client's file
	process *programs.Process
}

// tellTransfers has large downloads and uploads on all real servers, of which one drains meanwhile and one is killed.
func (s *Stage) tellTransfers(ctx context.Context, webs []*web, visitors []*visitor) error {
	data := make([]byte, transferBytes)
	rand.NewChaCha8([32]byte{}).Read(data)
	source := filepath.Join(s.Dir, "source")
	errs := []error{programs.Write(source, string(data))}
	for _, w := range webs {
		errs = append(errs, programs.Write(w.file("large"), string(data)))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	draining, killed := s.Reals[0].Name(), s.Reals[1].Name()
	s.Screen.Step("Transfers, while "+draining+" drains and "+killed+" is killed", fmt.Sprintf("Each client downloads and uploads %d MiB by HTTP/2, some of a second connection that is kept alive.", transferBytes>>20))
	patient := visitors[slices.IndexFunc(visitors, func(v *visitor) bool { return v.home == draining })]
	kept := newKeepAlive(s.Client, patient)
	if err := kept.goesOn(ctx, patient); err != nil {
		return err
	}
	transfers, err := s.beginAll(ctx, visitors, source)
	if err != nil {
		return err
	}
	for _, service := range webServices {
		if err := s.Show(ctx, "real", "set", service.name, s.Addrs(service.vip, 0)[0].String(), "weight=0"); err != nil {
			return err
		}
	}
	s.Screen.Command("kill -9 nginx # on "+killed, "")
	webs[1].Kill()
	if err := s.awaitWebs(ctx, 2); err != nil {
		return err
	}
	if err := kept.goesOn(ctx, patient); err != nil {
		return err
	}
	failed, err := s.endAll(transfers, webs, data, killed)
	if err != nil {
		return err
	}
	if err := s.tellSecondTry(ctx, failed, webs, data); err != nil {
		return err
	}
	return s.tellReturn(ctx, webs, visitors)
}

// beginAll returns when all downloads have begun.
func (s *Stage) beginAll(ctx context.Context, visitors []*visitor, source string) (all []*transfer, err error) {
	for i, v := range visitors {
		for _, up := range []bool{false, true} {
			t := &transfer{visitor: v, name: fmt.Sprintf("file%d", i), up: up, local: source}
			if !up {
				t.local = filepath.Join(s.Dir, t.name)
			}
			if err := s.begin(t); err != nil {
				return nil, err
			}
			all = append(all, t)
		}
	}
	return all, Await(ctx, func() error {
		for _, t := range all {
			if info, err := os.Stat(t.local); err != nil || info.Size() == 0 {
				return errors.Join(err, fmt.Errorf("download of %v from %s has not begun: %s", t.source, t.home, t.process.Log))
			}
		}
		return nil
	})
}

// begin starts a transfer, which takes some seconds.
func (s *Stage) begin(t *transfer) error {
	args := []string{"-gsSkf", "--http2", "--interface", t.source.String(), "--max-time", "60"}
	if t.up {
		args = append(args, "--limit-rate", transferRate, "-T", t.local, url("https", t.vip, "/files/"+t.name))
	} else {
		args = append(args, "-o", t.local, url("https", t.vip, "/files/large"))
	}
	var err error
	t.process, err = s.Run(s.Client, nil, "curl", args...)
	return err
}

// end waits for the end of a transfer.
func (t *transfer) end() error {
	<-t.process.Done
	if t.process.Err != nil {
		return fmt.Errorf("%w: %s", t.process.Err, strings.TrimSpace(t.process.Log.String()))
	}
	return nil
}

// endAll waits for all transfers. Those of the killed real server have failed, or were through before; all others are whole.
func (s *Stage) endAll(all []*transfer, webs []*web, data []byte, killed string) (failed []*transfer, err error) {
	whole := 0
	for _, t := range all {
		err := t.end()
		if err == nil {
			err = t.compare(webs, data)
		} else if t.home == killed {
			failed = append(failed, t)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%s of %v by %s: %w", t.what(), t.source, t.home, err)
		}
		whole++
	}
	if len(failed) == 0 {
		return nil, fmt.Errorf("no transfer noticed that %s was killed: the story tells nothing", killed)
	}
	s.Screen.Block(fmt.Sprintf("%d transfers are whole, %d of %s broke:\n%s\n", whole, len(failed), killed, failed[0].process.Log))
	return failed, nil
}

func (t *transfer) what() string {
	if t.up {
		return "upload"
	}
	return "download"
}

// compare tells whether the file that came over is the one that was sent.
func (t *transfer) compare(webs []*web, data []byte) error {
	path := t.local
	if t.up {
		home := slices.IndexFunc(webs, func(w *web) bool { return w.real.Name() == t.home })
		path = webs[home].file(t.name)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, data) {
		return fmt.Errorf("%d bytes with SHA-256 %x, want %d with %x", len(got), sha256.Sum256(got), len(data), sha256.Sum256(data))
	}
	return nil
}

// tellSecondTry has those who lost their transfer try again: one real server is left.
func (s *Stage) tellSecondTry(ctx context.Context, failed []*transfer, webs []*web, data []byte) error {
	last := s.Reals[2].Name()
	for _, t := range failed {
		if err := s.findHome(ctx, t.visitor); err != nil {
			return err
		}
		if t.home != last {
			return fmt.Errorf("client %v of the killed real server got %s, want %s", t.source, t.home, last)
		}
		if err := s.begin(t); err != nil {
			return err
		}
	}
	for _, t := range failed {
		if err := errors.Join(t.end(), t.compare(webs, data)); err != nil {
			return fmt.Errorf("second %s of %v by %s: %w", t.what(), t.source, t.home, err)
		}
	}
	s.Screen.Block(fmt.Sprintf("%d transfers, tried again, are whole by %s\n", len(failed), last))
	return nil
}

// tellReturn has both real servers back, and clients on all of them.
func (s *Stage) tellReturn(ctx context.Context, webs []*web, visitors []*visitor) (err error) {
	s.Screen.Step("They come back", "nginx runs again, and the weight is 1: new clients go there, too.")
	if webs[1], err = s.startWeb(s.Reals[1], transferRate); err != nil {
		return err
	}
	for _, service := range webServices {
		if err := s.Show(ctx, "real", "set", service.name, s.Addrs(service.vip, 0)[0].String(), "weight=1"); err != nil {
			return err
		}
	}
	if err := s.awaitWebs(ctx, 0, 1, 2); err != nil {
		return err
	}
	// Nobody is forgotten before the time of persistence, but all may be.
	if err := s.Show(ctx, "persistence", "delete", "--all"); err != nil {
		return err
	}
	for _, v := range visitors {
		if err := s.findHome(ctx, v); err != nil {
			return err
		}
	}
	return s.allServe(visitors)
}
