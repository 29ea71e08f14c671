#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# vm-tests.sh - runs in the machine of vm.sh: the tests that this kernel is needed for, compiled before
# into build/vm/tests. A test of the list that is skipped has failed: nowhere else could it run.
# The argument devices means those with VLANs, bonds and tunnels, roads full-size traffic over VLANs, by one method if a
# second one names it; a directory and a pattern mean others, as in vm-tests.sh test/e2e 'TestBond$'.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
root=$PWD
export E2E_DIRECTOR=$root/build/director E2E_SLOWNESS=10
failed=0

# tests PACKAGE PATTERN [OPTION...] runs a package's tests, one at a time: they have deadlines, and the machine is slow.
tests() {
	local package=$1 pattern=$2 begun=$SECONDS status=0 log
	log=$(mktemp)
	(cd "$package" && "$root/build/vm/tests/${package##*/}.test" -test.v -test.parallel 1 -test.timeout 20m "${@:3}" -test.run "$pattern") >"$log" 2>&1 || status=$?
	if ((status == 0)) && grep -q -e '^ *--- SKIP' "$log"; then
		echo "skipped, where they should run:"
		status=1
	fi
	if ((status == 0)) && ! grep -q '^--- PASS' "$log"; then
		echo "no test of $package is named so"
		status=1
	fi
	if ((status != 0)); then
		cat "$log"
		failed=1
		echo "FAIL $package $pattern ($((SECONDS - begun)) s)"
	else
		echo "ok   $package $pattern, $(grep -c '^--- PASS' "$log") tests ($((SECONDS - begun)) s)"
	fi
	rm -f "$log"
}

echo "Linux $(uname -r)"
case ${1:-} in
"")
	# Every program is accepted, and does on this kernel what it does elsewhere.
	tests bpf '^Test(ObjectsLoad|Program|States|Strays|NAT.*|SCTP.*|AttachModes|FullTable)$'
	tests internal/nexthop '^TestVLANDeviceOfTheKernel$'
	;;
devices)
	# Devices that this kernel has, whatever the host's does. Each start of the director takes a minute here.
	for name in Bond VLAN TunnelDevices; do
		tests test/e2e "^Test$name" -test.short -test.timeout 50m
	done
	;;
roads) tests test/e2e "^TestVLANRoads\$/^${2:-}" -test.timeout 3h ;;
*) tests "$@" ;;
esac
exit "$failed"
