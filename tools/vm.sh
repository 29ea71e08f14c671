#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# vm.sh COMMAND [ARG...] - boots the kernel of Debian 12, Linux 6.1, in QEMU and runs the command
# there, as root and in this directory. The exit status is the command's; 125: the machine failed.
#
# The machine has this one's files. It can change them, but for nobody else: what it writes is
# gone when it ends. Kernel and modules are fetched once, from Debian, into build/vm. As root, it
# installs QEMU if that is missing.
#
# It is emulated in software, which works everywhere, and takes some ten times as long.
# Environment: VM_CPUS (2), VM_MEMORY (2048, MiB), VM_TIMEOUT (600, seconds); VM_COUNT=1: its clock
# counts the processor's instructions, one a nanosecond, whatever this machine does meanwhile.
set -euo pipefail
tools=$(cd "$(dirname "$0")" && pwd)
vm=$(dirname "$tools")/build/vm
# suite is the Debian release whose kernel is Linux 6.1.
suite=bookworm

fail() {
	echo "vm.sh: $*" >&2
	exit 125
}

# mirror is where this machine has its packages from, if that is Debian.
mirror() {
	local uri
	# shellcheck disable=SC2016 # it is apt-get that expands them
	uri=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' | awk '$1 == "Debian" { print $2; exit }')
	echo "${uri:-http://deb.debian.org/debian}"
}

# apt PROGRAM COMMAND... is apt-get or apt-cache with lists of its own: of the suite, whatever this machine has.
apt() {
	"$1" -qq -o Dir::Etc::SourceList="$vm/apt/sources.list" -o Dir::Etc::SourceParts=- -o Dir::State="$vm/apt" \
		-o Dir::State::Status=/dev/null -o Dir::Cache="$vm/apt/cache" -o APT::Sandbox::User=root "${@:2}"
}

# fetch brings the packages and unpacks them: vmlinuz, busybox, lib/modules.
fetch() {
	local image package
	echo "fetching Debian's kernel ($suite)" >&2
	rm -rf "$vm/apt" "$vm/tree"
	mkdir -p "$vm"/apt/{cache/archives/partial,lists/partial} "$vm/tree"
	echo "deb [arch=amd64 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) $suite main" >"$vm/apt/sources.list"
	apt apt-get update
	# The package of that name has nothing of its own, it stands for the newest image.
	image=$(apt apt-cache depends linux-image-amd64 | awk '/Depends:/ { print $2; exit }')
	(cd "$vm/apt" && apt apt-get download "$image" busybox-static)
	for package in "$vm"/apt/*.deb; do
		dpkg-deb -x "$package" "$vm/tree"
	done
	"$vm/tree/bin/busybox" depmod -b "$vm/tree" "${image#linux-image-}"
	rm -rf "$vm/apt"
}

# boot_modules are the modules, with those that they need, without which the machine does not find its files.
boot_modules() {
	awk -F '[: ]+' '{ name = $1; sub(/.*\//, "", name) }
		name ~ /^(virtio_pci|9pnet_virtio|9p|overlay)\.ko$/ { for (i = 1; i <= NF; i++) if ($i != "") print $i }' \
		"$1/modules.dep" | sort -u
}

# pack makes the first file system: busybox, modules, init.
pack() {
	local version root=$vm/initrd.d module
	version=$(basename "$vm"/tree/lib/modules/*)
	rm -rf "$root"
	mkdir -p "$root"/{bin,proc,sys,dev,files,changes,root}
	cp "$vm/tree/bin/busybox" "$root/bin"
	cp "$tools/vm-init.sh" "$root/init"
	while read -r module; do
		install -D "$vm/tree/lib/modules/$version/$module" "$root/lib/modules/$version/$module"
	done < <(boot_modules "$vm/tree/lib/modules/$version")
	"$vm/tree/bin/busybox" depmod -b "$root" "$version"
	(cd "$root" && find . | "$vm/tree/bin/busybox" cpio -o -H newc 2>/dev/null) >"$vm/initrd.new"
	mv "$vm/initrd.new" "$vm/initrd"
	rm -rf "$root"
}

# prepare makes what is missing. One at a time: others wait.
prepare() {
	mkdir -p "$vm"
	exec 9>"$vm/lock"
	flock 9
	[[ -e $vm/fetched ]] || { fetch && touch "$vm/fetched"; }
	[[ $vm/initrd -nt $vm/fetched && $vm/initrd -nt $tools/vm-init.sh && $vm/initrd -nt $tools/vm.sh ]] || pack
	exec 9>&-
}

# boot JOB STATUS runs the machine: it executes the file JOB and writes the exit status to STATUS.
boot() {
	local processor=(-accel "tcg,thread=multi,tb-size=512" -cpu max -smp "${VM_CPUS:-2}") more=
	if [[ -n ${VM_COUNT:-} ]]; then
		# One that copies without rep movsb, whose every byte would count. Cleared pages would, too.
		processor=(-accel "tcg,thread=single,tb-size=512" -icount "shift=0,sleep=off" -cpu "max,-erms,-fsrm" -smp 1)
		more="init_on_alloc=0 init_on_free=0"
	fi
	timeout --foreground -k 5 "${VM_TIMEOUT:-600}" qemu-system-x86_64 \
		-machine pc,usb=off,vmport=off "${processor[@]}" -m "${VM_MEMORY:-2048}" \
		-nodefaults -no-user-config -display none -no-reboot -monitor none -net none \
		-serial stdio -serial "file:$2" \
		-kernel "$vm"/tree/boot/vmlinuz-* -initrd "$vm/initrd" \
		-append "console=ttyS0 loglevel=3 panic=-1 nokaslr mitigations=off no_timer_check tsc=reliable random.trust_cpu=on net.ifnames=0 $more vm_job=$1 vm_tree=$vm/tree" \
		-virtfs local,path=/,mount_tag=files,security_model=none,readonly=on,multidevs=remap </dev/null
}

(($# > 0)) || fail "what to run? vm.sh COMMAND [ARG...]"
[[ $(uname -m) == x86_64 ]] || fail "the machine is an x86-64 one, this is $(uname -m)"
"$tools/install.sh" vm
prepare
run=$(mktemp -d "$vm/run.XXXXXX")
trap 'rm -rf "$run"' EXIT
printf 'cd %q && exec' "$PWD" >"$run/job"
printf ' %q' "$@" >>"$run/job"
status=0
boot "$run/job" "$run/status" || status=$?
((status != 124)) || fail "not done within ${VM_TIMEOUT:-600} s"
[[ -s $run/status ]] || fail "the machine ended without an exit status (QEMU's is $status)"
exit "$(tr -dc '0-9' <"$run/status")"
