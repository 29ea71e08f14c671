// SPDX-License-Identifier: Apache-2.0

package doctor

import "fmt"

// Level is how bad a Finding is.
type Level string

// The levels. With a warning the director works, if not as well as it could, or as was meant.
const (
	OK      Level = "ok"
	Warning Level = "warning"
	Failure Level = "failure"
)

// A Finding is the result of one check of one thing.
type Finding struct {
	Level   Level  `json:"level"`
	Check   string `json:"check"`
	Subject string `json:"subject,omitempty"` // interface, address or real server
	Text    string `json:"text"`              // one line
	Advice  string `json:"advice,omitempty"`  // what to do about it
}

// A Report is all Findings.
type Report struct {
	Failures int       `json:"failures"`
	Warnings int       `json:"warnings"`
	Findings []Finding `json:"findings"`
}

// Judge makes the Report of what was found out.
func Judge(f *Facts) *Report {
	r := &Report{Findings: []Finding{}}
	for _, check := range []func(*Facts, *Report){
		checkKernel, checkProgram, checkCapabilities, checkPins,
		checkMemory, checkLimits, checkCPUs, checkClock,
		checkInterfaces, checkPaths, checkSystem, checkDoor, checkVIPs, checkClaims,
	} {
		check(f, r)
	}
	return r
}

// Summary counts the findings.
func (r *Report) Summary() string {
	return plural(len(r.Findings), "check") + ": " + plural(r.Failures, "failure") + ", " + plural(r.Warnings, "warning")
}

func (r *Report) add(f Finding) {
	switch f.Level {
	case Warning:
		r.Warnings++
	case Failure:
		r.Failures++
	}
	r.Findings = append(r.Findings, f)
}

// A topic is a check of one subject.
type topic struct {
	r       *Report
	check   string
	subject string
}

func (r *Report) topic(check, subject string) topic { return topic{r, check, subject} }

func (t topic) ok(format string, args ...any) { t.add(OK, "", format, args...) }

func (t topic) warn(advice, format string, args ...any) { t.add(Warning, advice, format, args...) }

func (t topic) fail(advice, format string, args ...any) { t.add(Failure, advice, format, args...) }

func (t topic) add(level Level, advice, format string, args ...any) {
	t.r.add(Finding{Level: level, Check: t.check, Subject: t.subject, Text: fmt.Sprintf(format, args...), Advice: advice})
}
