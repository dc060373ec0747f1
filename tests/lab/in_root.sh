#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Run a program in another root: unshare --mount sh in_root.sh ROOT [OUTSIDE INSIDE]… -- PROGRAM ARGUMENT…
#
# The mounts belong to a mount namespace, so they vanish with the program's last process, however that ends. Every step
# is an exec: the program keeps the process id that was started. (-n: leave no note of these mounts in /run/mount.)
set -e
root=$1
shift
mount -n --bind /dev "$root/dev"
mount -n --bind /sys "$root/sys"
mount -n -t proc proc "$root/proc"
while [ "$1" != -- ]; do
    mount -n --bind "$1" "$root$2"
    shift 2
done
shift
# Our variables name files of ours, which are elsewhere there, or not at all.
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" "$@"
