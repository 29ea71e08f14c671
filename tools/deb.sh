#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# deb.sh DIRECTORY - builds director_VERSION_ARCHITECTURE.deb in the directory, and prints its path.
# VERSION of the environment is the package's; else it is made of the last tag and the revision.
# The same sources give the same package: its files bear the time of the revision.
set -euo pipefail

out=$(mkdir -p "$1" && cd "$1" && pwd)
cd "$(dirname "$0")/.."

# version is Debian's way to write what git describe says; a package before the first tag is older than it.
version() {
	local tag
	if tag=$(git describe --tags --match 'v[0-9]*' 2>/dev/null); then
		tag=${tag#v}
		echo "${tag/-/+}"
	else
		git log -1 --date=format:%Y%m%d%H%M --format='0~git%cd.%h'
	fi
}

VERSION=${VERSION:-$(version)}
architecture=$(dpkg --print-architecture)
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { install -D -m "$1" "$2" "$root/$3"; }

put_program() {
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o build/deb/director ./cmd/director
	put 755 build/deb/director usr/bin/director
	put 755 contrib/systemd/prepare-state usr/lib/director/prepare-state
	put 644 contrib/systemd/director.service usr/lib/systemd/system/director.service
	put 644 contrib/systemd/director.sysusers usr/lib/sysusers.d/director.conf
	install -d -m 755 "$root/etc/director"
}

put_completions() {
	local shell path
	for shell in bash zsh fish; do
		case $shell in
		bash) path=usr/share/bash-completion/completions/director ;;
		zsh) path=usr/share/zsh/vendor-completions/_director ;;
		fish) path=usr/share/fish/vendor_completions.d/director.fish ;;
		esac
		install -d -m 755 "$root/$(dirname "$path")"
		build/deb/director completion "$shell" >"$root/$path"
		chmod 644 "$root/$path"
	done
}

put_documents() {
	local file documents=usr/share/doc/director
	go run ./internal/cli/manual "$root/usr/share/man/man1"
	chmod 644 "$root"/usr/share/man/man1/*
	gzip -9n "$root"/usr/share/man/man1/*
	for file in README.md CHANGELOG.md docs/*.md; do
		put 644 "$file" "$documents/$(basename "$file")"
	done
	for file in docs/uses/*; do
		put 644 "$file" "$documents/uses/$(basename "$file")"
	done
	for file in configs/*.yaml contrib/prometheus/alerts.yaml contrib/grafana/director.json; do
		put 644 "$file" "$documents/examples/$(basename "$file")"
	done
	put 644 LICENSE "$documents/copyright"
}

put_control() {
	local script
	install -d -m 755 "$root/DEBIAN"
	cat >"$root/DEBIAN/control" <<-EOF
		Package: director
		Version: $VERSION
		Architecture: $architecture
		Maintainer: The director authors <director@localhost>
		Section: net
		Priority: optional
		Depends: passwd
		Recommends: systemd
		Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
		Description: layer-4 director of the LVS kind, on XDP
		 Spreads the connections of virtual services over real servers. Packets are
		 forwarded by an eBPF program in the network driver's receive path, which goes
		 on while the daemon is stopped or upgraded. Linux 6.1 or later is needed.
	EOF
	for script in postinst prerm postrm; do
		put 755 "contrib/debian/$script" "DEBIAN/$script"
	done
}

mkdir -p build/deb
put_program
put_completions
put_documents
put_control
find "$root" -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +
package=$out/director_${VERSION}_$architecture.deb
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
