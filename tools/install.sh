#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# install.sh SET... - installs the Debian packages that make targets need and this machine lacks.
# It is quiet, and quick, when nothing is missing. Without root or apt it names the packages.
#
#   test    a C compiler for the race detector; as root also what the tests run in namespaces, the servers that
#           health checks are tested with, Prometheus's checker, and ldirectord, which runs a farm by ipvsadm's
#           command line: their services are neither started nor enabled
#   check   what compiles the BPF programs, and shellcheck
#   demo    what the commands that make demo KEEP=1 prints need
#   uses    the programs that make demo USE=NAME shows; a part of test, too
#   vm      what boots another kernel
#   peers   what the director is measured beside: it is neither started nor enabled
set -euo pipefail

missing=()
services=() # of the missing packages

# need PACKAGE CONDITION... - the package is missing unless the condition holds.
need() {
	local package=$1
	shift
	"$@" >/dev/null 2>&1 || missing+=("$package")
}

# need_server PACKAGE SERVICE PATH - need, of a server at this path, which nobody wants to have started.
need_server() {
	if ! compgen -G "$3" >/dev/null; then
		missing+=("$1")
		services+=("$2")
	fi
}

have() { PATH=$PATH:/usr/sbin:/sbin command -v "$1"; }

has_header() { [[ -e /usr/include/$1 || -e /usr/include/$(uname -m)-linux-gnu/$1 ]]; }

# What only the tests run, beside the programs of uses.
need_servers() {
	need_server freeradius freeradius /usr/sbin/freeradius
	need_server ldirectord ldirectord /usr/sbin/ldirectord
	need_server prometheus prometheus /usr/bin/promtool
	need_server postgresql postgresql '/usr/lib/postgresql/*/bin/initdb'
	need_server redis-server redis-server /usr/bin/redis-server
	need_server slapd slapd /usr/sbin/slapd
	need_server vsftpd vsftpd /usr/sbin/vsftpd
}

# The programs of test/uses, servers and clients.
need_uses() {
	need bind9-dnsutils have dig
	need curl have curl
	need_server dovecot-imapd dovecot /usr/lib/dovecot/imap
	need_server dovecot-pop3d dovecot /usr/lib/dovecot/pop3
	need iproute2 have ip
	need libio-socket-inet6-perl perl -MIO::Socket::INET6 -e 1
	need libusrsctp-examples test -e /usr/lib/usrsctp/echo_server
	need mariadb-client-core test -e /usr/bin/mariadb
	need mariadb-server-core test -e /usr/sbin/mariadbd
	need_server nginx-light nginx /usr/sbin/nginx
	need_server nsd nsd /usr/sbin/nsd
	need_server postfix postfix /usr/sbin/postfix
	need_server rsyslog rsyslog /usr/sbin/rsyslogd
	need swaks have swaks
	need nftables have nft
	# RTSP: GStreamer's server, and a client.
	need gir1.2-gst-rtsp-server-1.0 compgen -G '/usr/lib/*/girepository-1.0/GstRtspServer-1.0.typelib'
	need gstreamer1.0-plugins-good compgen -G '/usr/lib/*/gstreamer-1.0/libgstrtsp.so'
	need gstreamer1.0-tools have gst-launch-1.0
	need python3-gi test -e /usr/lib/python3/dist-packages/gi
}

need_for() {
	case $1 in
	test)
		need gcc have gcc
		need libc6-dev has_header stdlib.h
		need groff-base have groff
		if ((EUID == 0)); then
			need iproute2 have ip
			need iptables have iptables-nft
			need nftables have nft
			need iputils-ping have ping
			need tcpdump have tcpdump
			need_servers
			need_uses
		fi
		;;
	check)
		need clang have clang
		need llvm have llvm-strip
		need libbpf-dev has_header bpf/bpf_helpers.h
		need linux-libc-dev has_header asm/types.h
		need shellcheck have shellcheck
		;;
	demo)
		need iproute2 have ip
		need curl have curl
		;;
	uses) need_uses ;;
	vm)
		need qemu-system-x86 have qemu-system-x86_64
		need iproute2 have ip
		need iputils-ping have ping
		;;
	peers)
		need ipvsadm have ipvsadm
		need nftables have nft
		need_server haproxy haproxy /usr/sbin/haproxy
		need_server nginx-light nginx /usr/sbin/nginx
		need libnginx-mod-stream test -e /usr/lib/nginx/modules/ngx_stream_module.so
		;;
	*)
		echo "install.sh: unknown set $1 (known: test, check, demo, uses, vm, peers)" >&2
		exit 2
		;;
	esac
}

# quietly COMMAND... - shows what the command printed only if it fails.
quietly() {
	local log status=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 || status=$?
	if ((status != 0)); then
		cat "$log" >&2
		echo "install.sh: $* failed" >&2
	fi
	rm -f "$log"
	return "$status"
}

for set in "$@"; do
	need_for "$set"
done
if ((${#missing[@]} == 0)); then
	exit 0
fi
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if ((EUID != 0)) || ! have apt-get >/dev/null; then
	echo "install.sh: missing: ${missing[*]} (as Debian calls them)" >&2
	echo "install.sh: install them with: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
# without_starting COMMAND... - packages that it installs do not start their services (policy-rc.d(8)).
without_starting() {
	local policy=/usr/sbin/policy-rc.d status=0
	if [[ -e $policy ]]; then # the administrator's own
		"$@"
		return
	fi
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	"$@" || status=$?
	rm -f "$policy"
	return "$status"
}

echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
quietly apt-get -o DPkg::Lock::Timeout=120 update
without_starting quietly apt-get -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "${missing[@]}"
if ((${#services[@]} > 0)) && [[ -d /run/systemd/system ]]; then
	quietly systemctl disable "${services[@]}"
fi
