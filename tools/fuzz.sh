#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# fuzz.sh TIME - fuzzes every fuzz target for TIME each, as go test -fuzztime has it. An input that
# breaks a target stays in its testdata/fuzz, and go test tries it for ever after.
set -euo pipefail
cd "$(dirname "$0")/.."

time=$1
list=$(go test -list '^Fuzz' ./...)
failed=0
while read -r package target; do
	echo "== $package $target, $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" || failed=1
done < <(awk '/^Fuzz/ { found[n++] = $1 } /^ok/ { for (i = 0; i < n; i++) print $2, found[i]; n = 0 }' <<<"$list")
exit "$failed"
