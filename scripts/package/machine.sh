#!/usr/bin/env bash
# machine.sh ROOT BPF: becomes systemd in ROOT, as the first process of a container whose
# BPF file system is at BPF.
# Called in fresh mount, process, IPC and cgroup namespaces.
set -eu
root=$1
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
# On a host systemd mounts it.
[ ! -d "$2" ] || mount --bind "$2" "$root/sys/fs/bpf"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
while read -r name major minor; do
	mknod -m 666 "$root/dev/$name" c "$major" "$minor"
done <<NODES
null 1 3
zero 1 5
full 1 7
random 1 8
urandom 1 9
tty 5 0
NODES
ln -s /proc/self/fd "$root/dev/fd"
ln -s pts/ptmx "$root/dev/ptmx" # PrivateDevices= copies it
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
exec env -i container=vedette-package-test PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" /lib/systemd/systemd --log-target=console
