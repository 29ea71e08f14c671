#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# objects.sh - checks that the committed BPF objects, and the Go code made with them, are what their
# sources give. It works on a copy, so the tree stays as it is.
#
# Another clang makes other objects. The committed ones are made with Debian 12's; with another major
# version there is only a warning.
set -euo pipefail
cd "$(dirname "$0")/.."

want=14
have=$(clang -dumpversion)
if [[ ${have%%.*} != "$want" ]]; then
	echo "warning: the BPF objects are not compared: they are made with clang $want, here is $have"
	exit 0
fi

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r go.mod go.sum bpf "$copy"
rm -f "$copy"/bpf/*_bpfel.*
log=$copy/log
if ! (cd "$copy" && go generate ./bpf) >"$log" 2>&1; then
	cat "$log" >&2
	echo "objects.sh: the BPF programs do not compile" >&2
	exit 1
fi

# differences lists what is only on one side, or differs.
differences() {
	local file
	for file in bpf/*_bpfel.* "$copy"/bpf/*_bpfel.*; do
		file=bpf/${file##*/}
		cmp -s "$file" "$copy/$file" || echo "$file"
	done | sort -u
}
differ=$(differences)
if [[ -n $differ ]]; then
	{
		echo "objects.sh: not what the sources in bpf/ give:"
		while read -r file; do echo "    $file"; done <<<"$differ"
		echo "objects.sh: run 'make generate' and commit these files"
	} >&2
	exit 1
fi
