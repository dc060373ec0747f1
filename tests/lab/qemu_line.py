# SPDX-License-Identifier: Apache-2.0
"""
QEMU's command line for a guest, and what has to be said over QMP afterwards: what libvirt makes of `domain_xml`.

Written so that QEMU 5.2 understands it too: ``-device`` takes no JSON there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.lab.disk import Disk
from tests.lab.domain_xml import CHANNEL, Machine

PROGRAM = "qemu-system-x86_64"
# libvirt's words for the cache modes: (write-cache of the device, direct and no-flush of the image).
CACHES = {
    "none": (True, True, False),
    "writeback": (True, False, False),
    "writethrough": (False, False, False),
    "directsync": (False, True, False),
    "unsafe": (True, False, True),
}


def command_line(machine: Machine, qmp: Path) -> list[str]:
    """Program and arguments, for a start before the first instruction (``-S``)."""
    accelerator = {"qemu": "tcg"}.get(machine.accelerator, machine.accelerator)
    words = [PROGRAM, "-name", f"guest={machine.name}", "-uuid", machine.uuid, "-S"]
    words += ["-machine", "q35,usb=off", "-accel", accelerator, "-m", str(machine.memory_mib)]
    words += ["-smp", str(machine.vcpus), "-display", "none", "-no-user-config", "-nodefaults", "-no-reboot"]
    words += ["-chardev", f"socket,id=monitor,path={qmp},server=on,wait=off", "-mon", "chardev=monitor,mode=control"]
    words += ["-kernel", str(machine.kernel), "-initrd", str(machine.initramfs), "-append", machine.kernel_options]
    words += ["-chardev", f"file,id=console,path={machine.console}", "-device", "isa-serial,chardev=console"]
    words += ["-object", "iothread,id=iothread1", "-device", "virtio-scsi-pci,iothread=iothread1,id=scsi0"]
    words += ["-chardev", f"socket,id=channel,path={machine.channel},server=on,wait=off"]
    words += ["-device", "virtio-serial-pci", "-device", f"virtserialport,chardev=channel,name={CHANNEL}"]
    for lun, disk in enumerate(machine.disks):
        words += _disk(machine, disk, lun)
    return words


def _disk(machine: Machine, disk: Disk, lun: int) -> list[str]:
    write_cache, direct, no_flush = CACHES[disk.cache]
    both = {"cache": {"direct": direct, "no-flush": no_flush}, "discard": "unmap"}
    server = {"host": "127.0.0.1", "port": str(machine.ceph_port)}
    image = {"pool": machine.ceph_pool, "image": disk.image, "conf": str(machine.ceph_conf), "server": [server]}
    storage, layer = f"libvirt-{lun + 1}-storage", f"libvirt-{lun + 1}-format"
    device = f"scsi-hd,bus=scsi0.0,channel=0,scsi-id=0,lun={lun},device_id=drive-{disk.alias},drive={layer}"
    if disk.error_policy:
        device += f",werror={disk.error_policy},rerror={disk.error_policy}"
    return [
        *("-blockdev", json.dumps({"driver": "rbd", "node-name": storage, "auto-read-only": True, **image, **both})),
        *("-blockdev", json.dumps({"driver": "raw", "node-name": layer, "file": storage, "read-only": False, **both})),
        *("-device", f"{device},id={disk.alias},write-cache={'on' if write_cache else 'off'}"),
    ]


def throttling(disks: list[Disk]) -> Iterator[dict[str, Any]]:
    """A QMP command for every disk that has limits."""
    for disk in disks:
        limits = {"bps": disk.bytes_per_s or 0, "iops": disk.iops or 0}
        if any(limits.values()):
            both_ways = {f"{name}_{way}": 0 for name in limits for way in ("rd", "wr")}
            arguments = {"id": disk.alias, "group": disk.alias, **limits, **both_ways}
            yield {"execute": "block_set_io_throttle", "arguments": arguments}
