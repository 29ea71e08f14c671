// SPDX-License-Identifier: Apache-2.0

package healthcheck

import (
	"context"
	"regexp"
	"strconv"
	"strings"
)

// sqlServer is a database that is logged in to.
type sqlServer interface {
	query(ctx context.Context, text string) ([]sqlRow, error)
}

// sqlRow is a row of an answer; a value of nil is NULL.
type sqlRow struct {
	columns []string
	values  []*string
}

// get gives the value of the first of those columns that there is.
func (r sqlRow) get(names ...string) *string {
	for _, name := range names {
		for i, column := range r.columns {
			if strings.EqualFold(column, name) {
				return r.values[i]
			}
		}
	}
	return nil
}

// text is get for people: NULL and columns that are not there are so called.
func (r sqlRow) text(names ...string) string {
	if v := r.get(names...); v != nil {
		return *v
	}
	return "NULL"
}

// sqlQuery is a query that must have an answer.
type sqlQuery struct {
	text   string
	expect matcher
}

// run asks; the first column of the first row is judged.
func (q sqlQuery) run(p *probe, s sqlServer) error {
	if q.text == "" {
		return nil
	}
	p.enter(layer7, "query")
	rows, err := s.query(p.ctx, q.text)
	if err != nil {
		return err
	}
	if len(rows) == 0 || len(rows[0].values) == 0 {
		return fail(L7STS, 0, "the query has no row: %s", excerpt(oneLine(q.text)))
	}
	value := "NULL"
	if v := rows[0].values[0]; v != nil {
		value = *v
	}
	if wrong := q.expect.judge([]byte(value)); wrong != "" {
		return fail(L7STS, 0, "the query's value %s", wrong)
	}
	return nil
}

// lagOf asks a query for a lag in seconds and judges it.
func lagOf(p *probe, s sqlServer, o LagOptions, query, told string) (Result, error) {
	p.enter(layer7, told)
	rows, err := s.query(p.ctx, query)
	if err != nil {
		return Result{}, err
	}
	if len(rows) == 0 || len(rows[0].values) == 0 || rows[0].values[0] == nil {
		return o.unknown(told + " has no value")
	}
	lag, err := strconv.ParseFloat(*rows[0].values[0], 64)
	if err != nil || lag != lag || lag > maxLag {
		return Result{}, fail(L7RSP, 0, "%s: %s is no number of seconds", told, excerpt(*rows[0].values[0]))
	}
	return o.judge(seconds(lag), told)
}

// maxLag is the longest lag that is believed, in seconds: a hundred years.
const maxLag = 100 * 365 * 86400

var identifier = regexp.MustCompile(`^[A-Za-z0-9_$]+(\.[A-Za-z0-9_$]+)?$`)

// quoteName quotes a name, or a name with its schema.
func quoteName(name, quote string) string {
	return quote + strings.ReplaceAll(name, ".", quote+"."+quote) + quote
}

// checkName notes names that would have to be quoted.
func checkName(m *mistakes, field, name string) {
	if name != "" && !identifier.MatchString(name) {
		m.add(field, "%q is no name (known: letters, digits, _ and $, with the schema and a dot in front)", name)
	}
}
