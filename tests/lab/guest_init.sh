#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
# The guest's only program. It loads the modules, then runs what the host sends over the virtio port.
#
# Request:  "ID TIMEOUT_S LENGTH\n" and LENGTH bytes of shell script.
# Answer:   "<<ID STATUS STDOUT_BYTES STDERR_BYTES>>\n", then the two outputs.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ LD_LIBRARY_PATH=/lib
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules.order); do
    insmod "/modules/$module" || echo "lab: cannot load $module"
done

port=
until [ -n "$port" ]; do
    for name in /sys/class/virtio-ports/*/name; do
        [ "$(cat "$name" 2>/dev/null)" = otel-qemu.lab ] && port=/dev/$(basename "$(dirname "$name")")
    done
    [ -n "$port" ] || sleep 0.05
done

# Disks appear one by one after their controller: wait for as many as the command line promises.
disks=$(sed -n 's/.*lab\.disks=\([0-9]*\).*/\1/p' /proc/cmdline)
until [ "$(ls /sys/block | grep -c '^sd')" -ge "${disks:-0}" ]; do sleep 0.05; done

# One request of a program has to stay one SCSI command: no merging, no reordering.
for queue in /sys/block/sd*/queue; do
    echo none > "$queue/scheduler"
    echo 2 > "$queue/nomerges"
done
echo "lab: ready with $(ls /sys/block | grep -c '^sd') disks after $(cut -d' ' -f1 /proc/uptime) s"

exec 3<>"$port"
while :; do
    if read -r id timeout_s length <&3; then
        head -c "$length" <&3 > /run/script
        timeout -s KILL "$timeout_s" sh /run/script </dev/null >/run/out 2>/run/err
        status=$?
        echo "<<$id $status $(stat -c %s /run/out) $(stat -c %s /run/err)>>" >&3
        cat /run/out /run/err >&3
    else
        # End of file: the host has hung up. This write sleeps until it calls again; it skips the empty line.
        echo >&3
    fi
done
