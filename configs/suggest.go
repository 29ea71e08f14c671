// SPDX-License-Identifier: Apache-2.0

package configs

import "strings"

// knownNote is the end of an error about a text that is none of the known ones.
func knownNote(text string, known []string) string {
	note := " (known: " + strings.Join(known, ", ") + ")"
	if s := suggestion(text, known); s != "" {
		return ", did you mean " + s + "?" + note
	}
	return note
}

// suggestion is the known text that is one or two slips away, one in three letters at most, or empty.
func suggestion(text string, known []string) string {
	if len(text) > 64 {
		return ""
	}
	best, least := "", 3
	for _, k := range known {
		d := distance(strings.ToLower(text), k)
		if d < least && d*3 <= len(k) {
			best, least = k, d
		}
	}
	return best
}

// distance counts the characters to insert, delete, replace or swap with their
// neighbour (optimal string alignment).
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			rows[i][j] = step(rows, a, b, i, j)
		}
	}
	return rows[len(a)][len(b)]
}

func step(rows [][]int, a, b string, i, j int) int {
	replace := rows[i-1][j-1]
	if a[i-1] != b[j-1] {
		replace++
	}
	d := min(rows[i-1][j]+1, rows[i][j-1]+1, replace)
	if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
		d = min(d, rows[i-2][j-2]+1)
	}
	return d
}
