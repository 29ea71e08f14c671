// SPDX-License-Identifier: Apache-2.0

package stage

import (
	"flag"
	"strconv"
)

// Together lets so many parallel tests run at a time, unless the command line says how many: those that mostly wait need
// not be as few as processors. It is for TestMain, and parses the flags.
func Together(n int) {
	flag.Parse()
	said := false
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "test.parallel" })
	if !said {
		_ = flag.Set("test.parallel", strconv.Itoa(n)) // a number it takes
	}
}
