#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a virtual machine: run the load that the kernel's command line names, and switch off.
# What it prints goes to the second serial port; the first one is the kernel's console.
busybox mkdir -p /dev /proc /sys
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
busybox mount -t tracefs none /sys/kernel/tracing
busybox mount -t debugfs none /sys/kernel/debug
export PATH=/usr/bin:/bin HOME=/ TMPDIR=/tmp PYTHONPATH=/checkout:/packages
cd /checkout || exit
# The kernel gives `load`, as every word with = on its command line that it does not know.  It holds several words.
# shellcheck disable=SC2154,SC2086
python3 -u -m tests.vm.load $load >/dev/ttyS1 2>&1
echo "status $?" >/dev/ttyS1
busybox poweroff -f
