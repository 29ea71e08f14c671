#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=dash
#
# vm-init.sh - the first process of the machine that vm.sh boots. It finds the host's files, lays a file system
# in memory over them, and runs the job there. vm_job and vm_tree come by the kernel's command line.
set -u
: "${vm_job:?}" "${vm_tree:?}"
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
stty -F /dev/ttyS0 -onlcr
stty -F /dev/ttyS1 raw

modprobe -a virtio_pci 9pnet_virtio 9p overlay
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000,cache=loose files /files
mount -t tmpfs changes /changes
mkdir /changes/upper /changes/work
mount -t overlay -o lowerdir=/files,upperdir=/changes/upper,workdir=/changes/work root /root

for dir in proc sys dev run; do
	mkdir -p "/root/$dir"
done
mount -t tmpfs run /root/run
mount -t proc proc /root/proc
mount -t sysfs sys /root/sys
mount -t devtmpfs dev /root/dev
mkdir -p /root/dev/pts /root/dev/shm
mount -t devpts pts /root/dev/pts
mount -t tmpfs shm /root/dev/shm
mount -t bpf bpf /root/sys/fs/bpf
# Modules that the kernel itself asks for, as when somebody makes a device of a kind. Who fetches them lives here.
mount --bind "/files$vm_tree/lib/modules" /lib/modules
echo /bin/modprobe >/proc/sys/kernel/modprobe
modprobe -a fou fou6 # these nobody asks for
echo 1 >/proc/sys/net/core/fb_tunnels_only_for_init_net # tunnel modules put a device into each namespace

hostname vm
ip link set lo up
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb \
	chroot /root /bin/sh "$vm_job" </dev/null
echo $? >/dev/ttyS1
echo N >/sys/class/tty/ttyS0/console # the kernel's last words are no output
poweroff -f
