// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"xdplvs/director"
)

// sortServices orders as ipvsadm's manual says: services by address family,
// protocol, address and port, real servers by address and port. ipvsadm itself
// compares addresses by a difference of 32 bits that overflows, so that
// 192.0.2.1 comes before 10.0.0.1; here it does not.
func sortServices(services []director.ServiceState) {
	slices.SortFunc(services, func(a, b director.ServiceState) int { return a.Key.Compare(b.Key) })
	for i := range services {
		for _, reals := range [][]director.RealState{services[i].Reals, services[i].Sorry} {
			slices.SortFunc(reals, func(a, b director.RealState) int {
				return cmp.Or(a.Key.Addr.Compare(b.Key.Addr), cmp.Compare(a.Key.Port, b.Key.Port))
			})
		}
	}
}

// maxNamesInError bounds how many services an error names.
const maxNamesInError = 10

// selectServices are those that the texts name, all if there are none. A
// service is named by its name or by ADDRESS:PORT, which may mean several protocols.
func selectServices(services []director.ServiceState, texts []string) ([]director.ServiceState, error) {
	if len(texts) == 0 {
		return services, nil
	}
	used := make([]bool, len(texts))
	var selected []director.ServiceState
	for _, s := range services {
		wanted := false
		for i, text := range texts {
			if text == s.Name || text == serviceRef(s.Key) {
				wanted, used[i] = true, true
			}
		}
		if wanted {
			selected = append(selected, s)
		}
	}
	if i := slices.Index(used, false); i >= 0 {
		return nil, fmt.Errorf("no service %q (known: %s)", texts[i], serviceNames(services))
	}
	return selected, nil
}

// serviceRef is what a service without a name is called on the command line.
func serviceRef(k director.ServiceKey) string {
	if k.Mark != 0 {
		return k.String()
	}
	return addrPort(k.Addr, k.Port)
}

func serviceName(s *director.ServiceState) string { return cmp.Or(s.Name, serviceRef(s.Key)) }

func serviceNames(services []director.ServiceState) string {
	if len(services) == 0 {
		return "none"
	}
	var names []string
	for i, s := range services {
		if i == maxNamesInError {
			names = append(names, fmt.Sprintf("… %d more", len(services)-i))
			break
		}
		names = append(names, serviceName(&s))
	}
	return strings.Join(names, ", ")
}
