# SPDX-License-Identifier: Apache-2.0
"""
A guest that does everything at once, under audit: the scenario of test_audit.py, for any version of QEMU.

Three disks: one throttled, one that a block job mirrors meanwhile, and a qcow2 image over rbd.  On each, random reads
and writes of mixed sizes at depth 32 in so little room that their ranges overlap, a flush every 64; beside them
discards, and ranges zeroed.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from otel_qemu.events import Batch
from otel_qemu.probe.selection import Selection
from otel_qemu.service import Service
from otel_qemu.trace.audit import Audit
from otel_qemu.trace.names import Names
from otel_qemu.trace.traces import Traces
from otel_qemu.views.audit import audit_lines, difference_line
from tests.lab.ceph import POOL
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.live import wait_until
from tests.lab.load import dd_write, run_fio
from tests.lab.programs import type_in
from tests.lab.rooted_guest import LAB, RootedGuest

ZERO_OUT = Path(__file__).with_name("zero_out.c")
SIZE_MIB, REGION_MIB, RUNTIME_S = 64, 8, 12
# At depth 32, a request takes 320 ms: Ceph takes up to 60 of them on a busy machine.
IOPS = 100
MIRROR_BYTES_PER_S = 8 << 20
LOAD = (
    f"--rw=randrw --bsrange=4k-256k --size={REGION_MIB}M --norandommap --direct=1 --ioengine=libaio --iodepth=32"
    f" --fsync=64 --time_based=1 --runtime={RUNTIME_S}s --random_generator=tausworthe64"
)


class Audited:
    """
    One guest's life under audit.

    Attributes:
        service: that traced it, with what its audit found.
        traces: all of them, piece by piece.
        throttled, mirrored, layered: its disks.
    """

    def __init__(self, lab: Lab, name: str, folder: Path, suite: str | None) -> None:
        self.throttled, self.mirrored, self.layered = (
            Disk(f"{name}-throttled", SIZE_MIB, iops=IOPS), Disk(f"{name}-mirrored", SIZE_MIB), Disk(f"{name}-qcow2")
        )  # fmt: skip
        self.guest = lab.guest(name, [self.throttled, self.mirrored], paused=True, suite=suite, memory_mib=512)
        plug_qcow2(lab, self.guest, self.layered)
        self.traces: list[Traces] = []
        self.service = Service(Selection(pids=(self.guest.pid,)), [self], audit=True)
        self.audit.most_differences = 1 << 30  # a test counts them
        attached = threading.Event()
        with ThreadPoolExecutor() as pool:
            running = pool.submit(self.service.run, None, lambda *_: attached.set())
            try:
                wait_until(lambda: attached.is_set() or running.done())
                self.guest.resume()
                self.run(folder)
            finally:
                self.service.stop()
            running.result(120)
        self.guest_pid = self.guest.pid
        self.guest.destroy()

    def take(self, _batch: Batch, traces: Traces, _names: Names) -> None:
        """Keep the traces that the service gives to its sinks."""
        self.traces.append(traces)

    @property
    def audit(self) -> Audit:
        """What it found."""
        assert self.service.pipeline.audit is not None
        return self.service.pipeline.audit

    def report(self) -> str:
        """The same for people, every difference that was kept explained."""
        lines = [*audit_lines(self.audit, self.service.pipeline.stats), "", "every difference of the joins:"]
        return "\n".join([*lines, *map(difference_line, self.audit.differences)])

    def image(self, disk: Disk) -> int:
        """The rbd_image_t of a disk."""
        return self.service.pipeline.images[self.guest_pid, self.device(disk)]

    def device(self, disk: Disk) -> int:
        """The SCSIDevice * of a disk."""
        names = self.service.names
        (found,) = (key[1] for key in self.service.pipeline.images if names.disk(*key).alias == disk.alias)
        return found

    def run(self, folder: Path) -> None:
        """Everything at once, on all disks."""
        type_in(self.guest, folder, ZERO_OUT)
        devices = [self.guest.device(disk) for disk in self.guest.disks]
        dd_write(self.guest, self.guest.device(self.mirrored), SIZE_MIB, direct=True)  # a job reads what is written
        mirror(self.guest, self.mirrored)
        jobs = " ".join(f"--name={device} --filename=/dev/{device}" for device in devices)
        beside = [f"sh -e -c '{ranges(device)}'" for device in devices]
        run_fio(self.guest, f"{LOAD} {jobs}", beside=beside)


def ranges(device: str) -> str:
    """Shell commands that discard and zero some ranges of a disk, in the room of the load."""
    discards = f"for i in $(seq 40); do blkdiscard -o $((i * 262144)) -l 131072 /dev/{device}; done"
    return f"{discards}; /tmp/zero_out /dev/{device} 65536 16"


def mirror(guest: Guest, disk: Disk) -> None:
    """Begin a job that reads a whole disk, and then whatever the guest writes to it: calls without a request."""
    entries = order(guest, "query-block")
    (node,) = (entry["inserted"]["node-name"] for entry in entries if disk.alias in entry["qdev"].split("/"))
    order(guest, "blockdev-add", driver="null-co", size=disk.size_bytes, **{"node-name": "nowhere"})
    order(guest, "blockdev-mirror", device=node, target="nowhere", sync="full", speed=MIRROR_BYTES_PER_S,
          **{"job-id": "copy"})  # fmt: skip


def plug_qcow2(lab: Lab, guest: Guest, disk: Disk) -> None:
    """Add a disk to a paused guest: a new qcow2 image in an rbd image."""
    lab.ceph.create_image(disk.image, disk.size_mib)
    conf = lab.ceph.conf
    if isinstance(guest, RootedGuest):
        conf = Path(LAB) / conf.relative_to(lab.root)
    server = {"host": "127.0.0.1", "port": str(lab.ceph.port)}
    options: dict[str, Any] = {"pool": POOL, "image": disk.image, "conf": str(conf), "server": [server]}
    order(guest, "blockdev-add", driver="rbd", discard="unmap", **{"node-name": "layered-storage"}, **options)
    create = {"driver": "qcow2", "file": "layered-storage", "size": disk.size_bytes}
    order(guest, "blockdev-create", options=create, **{"job-id": "format"})
    wait_until(lambda: [job["status"] for job in order(guest, "query-jobs")] == ["concluded"])
    assert not any(job.get("error") for job in order(guest, "query-jobs"))
    order(guest, "job-dismiss", id="format")
    order(guest, "blockdev-add", driver="qcow2", file="layered-storage", discard="unmap",
          **{"node-name": "layered-format"})  # fmt: skip
    order(guest, "device_add", driver="scsi-hd", bus="scsi0.0", drive="layered-format", id=disk.alias, channel=0, lun=2,
          **{"scsi-id": 0})  # fmt: skip
    guest.disks.append(disk)


def order(guest: Guest, command: str, **arguments: Any) -> Any:
    """A QMP command that must go well; returns what it gives."""
    answer = guest.qmp({"execute": command, "arguments": arguments})
    assert "error" not in answer, (command, answer)
    return answer["return"]
