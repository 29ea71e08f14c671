// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"time"

	"xdplvs/director"
)

// The forms of stats and rate with -o json. list shows the snapshot itself.
type (
	statsJSON struct {
		Time     time.Time          `json:"time"`
		Services []serviceStatsJSON `json:"services"`
		Total    director.Counters  `json:"total"`
	}
	serviceStatsJSON struct {
		Name      string              `json:"name,omitempty"`
		Key       director.ServiceKey `json:"service"`
		Counters  director.Counters   `json:"counters"`
		NoReal    uint64              `json:"no_real"`
		Untracked uint64              `json:"untracked"`
		Reals     []realStatsJSON     `json:"reals"`
		Sorry     []realStatsJSON     `json:"sorry_servers,omitempty"`
	}
	realStatsJSON struct {
		Name     string            `json:"name,omitempty"`
		Key      director.RealKey  `json:"real"`
		Counters director.Counters `json:"counters"`
	}

	ratesJSON struct {
		Time     time.Time          `json:"time"`
		Services []serviceRatesJSON `json:"services"`
		Total    director.Rates     `json:"total"`
	}
	serviceRatesJSON struct {
		Name  string              `json:"name,omitempty"`
		Key   director.ServiceKey `json:"service"`
		Rates director.Rates      `json:"rates"`
		Reals []realRatesJSON     `json:"reals"`
		Sorry []realRatesJSON     `json:"sorry_servers,omitempty"`
	}
	realRatesJSON struct {
		Name  string           `json:"name,omitempty"`
		Key   director.RealKey `json:"real"`
		Rates director.Rates   `json:"rates"`
	}

	verdictsJSON struct {
		Time     time.Time         `json:"time"`
		Verdicts map[string]uint64 `json:"verdicts"`
	}
)

func statsOf(s *director.Snapshot) statsJSON {
	stats := statsJSON{Time: s.Time, Total: s.Total, Services: make([]serviceStatsJSON, len(s.Services))}
	for i, service := range s.Services {
		stats.Services[i] = serviceStatsJSON{service.Name, service.Key, service.Counters, service.NoReal, service.Untracked,
			realStats(service.Reals), realStats(service.Sorry)}
	}
	return stats
}

func realStats(reals []director.RealState) []realStatsJSON {
	stats := make([]realStatsJSON, len(reals))
	for i, r := range reals {
		stats[i] = realStatsJSON{r.Name, r.Key, r.Counters}
	}
	return stats
}

func ratesOf(s *director.Snapshot) ratesJSON {
	rates := ratesJSON{Time: s.Time, Total: s.Rates, Services: make([]serviceRatesJSON, len(s.Services))}
	for i, service := range s.Services {
		rates.Services[i] = serviceRatesJSON{service.Name, service.Key, service.Rates, realRates(service.Reals), realRates(service.Sorry)}
	}
	return rates
}

func realRates(reals []director.RealState) []realRatesJSON {
	rates := make([]realRatesJSON, len(reals))
	for i, r := range reals {
		rates[i] = realRatesJSON{r.Name, r.Key, r.Rates}
	}
	return rates
}
