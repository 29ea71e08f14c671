// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// emulatedTimeout is in seconds. On a machine that does nothing else it takes some two minutes.
const emulatedTimeout = "1200"

// Emulated runs this program with an argument in the machine of tools/vm.sh, whose clock counts
// instructions, and reads the JSON that it prints last.
func Emulated(argument string, into any) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command("tools/vm.sh", self, argument)
	cmd.Env = append(os.Environ(), "VM_COUNT=1", "VM_TIMEOUT="+emulatedTimeout)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("count in the emulated machine: %w\n%s", err, out)
	}
	return lastJSON(out, into)
}

// lastJSON decodes the last line that is an object.
func lastJSON(out []byte, into any) error {
	at := bytes.LastIndex(append([]byte("\n"), out...), []byte("\n{"))
	if at < 0 {
		return errors.New("the emulated machine printed no figures")
	}
	line, _, _ := bytes.Cut(out[at:], []byte("\n"))
	if err := json.Unmarshal(line, into); err != nil {
		return fmt.Errorf("read figures of the emulated machine: %w", err)
	}
	return nil
}
