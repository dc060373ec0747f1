#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a program that sees no /dev/kvm: without_kvm.sh EMPTY_FOLDER PROGRAM ARGUMENT…
#
# Where only root may open /dev/kvm (no udev), libvirtd finds KVM as root and misses it as QEMU's user, whereupon it
# probes QEMU anew at every call, ten seconds a guest. It gets a /dev of its own, gone with its last process. Covering
# only /dev/kvm would not do: libvirt tries to carry such a mount over into each QEMU, and fails. (-n: leave no note of
# these mounts in /run/mount, which everybody reads.)
set -e
new=$1
shift
if [ "$WITHOUT_KVM_INSIDE" != yes ]; then
    WITHOUT_KVM_INSIDE=yes exec unshare --mount sh "$0" "$new" "$@"
fi
unset WITHOUT_KVM_INSIDE
mount -n -t tmpfs -o mode=755,size=1m dev "$new"
for entry in /dev/*; do
    if mountpoint -q "$entry"; then
        mkdir "$new/${entry##*/}"
        mount -n --move "$entry" "$new/${entry##*/}"
    elif [ "$entry" != /dev/kvm ]; then
        cp -a "$entry" "$new"
    fi
done
# Nothing may stay mounted underneath: libvirt reads the list of mounts, and takes what is covered for visible.
while mountpoint -q /dev; do
    umount -n --lazy --recursive /dev
done
mount -n --move "$new" /dev
exec "$@"
