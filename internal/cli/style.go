// SPDX-License-Identifier: Apache-2.0

package cli

// style marks text on a terminal; the zero style leaves it plain.
type style struct{ on bool }

// styleFor follows no-color.org: NO_COLOR with any text turns colours off.
func styleFor(env Env) style {
	noColor, _ := env.LookupEnv("NO_COLOR")
	term, _ := env.LookupEnv("TERM")
	return style{on: env.StdoutIsTerminal && noColor == "" && term != "dumb"}
}

func (s style) bold(text string) string   { return s.mark("1", text) }
func (s style) green(text string) string  { return s.mark("32", text) }
func (s style) red(text string) string    { return s.mark("31", text) }
func (s style) yellow(text string) string { return s.mark("33", text) }

// mark puts an SGR sequence (ECMA-48 8.3.117) around text.
func (s style) mark(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}
