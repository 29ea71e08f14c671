// SPDX-License-Identifier: Apache-2.0

package configs

import (
	"bytes"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"gopkg.in/yaml.v3"
)

const benchServices = 10000

// shortForm is services with 4 real servers each, a line for each service.
func shortForm(services int) []byte {
	b := bytes.NewBufferString("interfaces: [eth0]\nservices:\n")
	for i := range services {
		hi, lo := i/250, i%250
		fmt.Fprintf(b, "  - {name: s%d, virtual: 192.0.%d.%d:80, scheduler: wrr, reals: [10.0.%[2]d.%[3]d, 10.1.%[2]d.%[3]d, 10.2.%[2]d.%[3]d, 10.3.%[2]d.%[3]d]}\n",
			i, hi, lo)
	}
	return b.Bytes()
}

// longForm is the same with a line for each key.
func longForm(services int) []byte {
	b := bytes.NewBufferString("interfaces: [eth0]\nservices:\n")
	for i := range services {
		hi, lo := i/250, i%250
		fmt.Fprintf(b, "  - name: s%d\n    address: 192.0.%d.%d\n    port: 80\n    scheduler: wrr\n    reals:\n", i, hi, lo)
		for j := range 4 {
			fmt.Fprintf(b, "      - address: 10.%d.%d.%d\n        port: 80\n        weight: 1\n", j, hi, lo)
		}
	}
	return b.Bytes()
}

// BenchmarkParse tells what a file of 4 x 10,000 real servers costs, and which share
// of it is the YAML library's.
func BenchmarkParse(b *testing.B) {
	for name, text := range map[string][]byte{"short": shortForm(benchServices), "long": longForm(benchServices)} {
		b.Run(name+"/all", func(b *testing.B) { benchParse(b, text) })
		b.Run(name+"/yaml", func(b *testing.B) { benchYAML(b, text) })
	}
}

func benchParse(b *testing.B, text []byte) {
	benchmark(b, text, func() error {
		config, err := Parse("bench.yaml", text)
		if err == nil && len(config.Desired.Services) != benchServices {
			return errors.New("services are missing")
		}
		return err
	})
}

func benchYAML(b *testing.B, text []byte) {
	benchmark(b, text, func() error { return yaml.Unmarshal(text, new(yaml.Node)) })
}

// benchmark also reports CPU time, which says more where others use the machine.
func benchmark(b *testing.B, text []byte, do func() error) {
	b.ReportAllocs()
	b.SetBytes(int64(len(text)))
	start := cpuTime(b)
	for b.Loop() {
		if err := do(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N)/1e6, "cpu-ms/op")
}

func cpuTime(b *testing.B) int64 {
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		b.Fatal(err)
	}
	return use.Utime.Nano() + use.Stime.Nano()
}

// TestFormsAgree has the benchmark's two files say the same.
func TestFormsAgree(t *testing.T) {
	short, long := mustParse(t, string(shortForm(500))), mustParse(t, string(longForm(500)))
	if got, want := written(short), written(long); got != want {
		t.Error("the short form and the long form differ")
	}
}
