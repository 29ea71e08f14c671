// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// namespace begins every name.
const namespace = "director_"

// family is all series of one name.
type family struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
}

// families are all that were made: what Describe announces.
var families []family

func newFamily(kind prometheus.ValueType, name, help string, labels []string) family {
	f := family{prometheus.NewDesc(namespace+name, help, labels, nil), kind}
	families = append(families, f)
	return f
}

func counter(name, help string, labels ...string) family {
	return newFamily(prometheus.CounterValue, name, help, labels)
}

func gauge(name, help string, labels ...string) family {
	return newFamily(prometheus.GaugeValue, name, help, labels)
}

// sink takes the series of one scrape.
type sink chan<- prometheus.Metric

func (s sink) put(f family, value float64, labels ...string) {
	for i := range labels {
		labels[i] = strings.ToValidUTF8(labels[i], "\uFFFD") // the library refuses anything else
	}
	s <- prometheus.MustNewConstMetric(f.desc, f.kind, value, labels...)
}

func (s sink) count(f family, n uint64, labels ...string) { s.put(f, float64(n), labels...) }

// truth is 1 for yes.
func (s sink) truth(f family, yes bool, labels ...string) {
	value := 0.0
	if yes {
		value = 1
	}
	s.put(f, value, labels...)
}

// moment leaves a time out that never was.
func (s sink) moment(f family, at time.Time, labels ...string) {
	if !at.IsZero() {
		s.put(f, float64(at.UnixMilli())/1000, labels...)
	}
}
