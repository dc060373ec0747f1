# SPDX-License-Identifier: Apache-2.0
"""
Make recordings of the lab's guests anew: ``python -m tests.replay.make [SCENE...]``, as root.  Then look at the
goldens' diff.

Each scene is a guest traced from its first request on: `throttled` writes, reads, flushes, discards and zeroes on a
disk with a limit; `two-disks` does so on two at once, with FUA and a flush now and then; `qcow2` on an image of that
format inside of an rbd image.
"""

import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from otel_qemu.probe.selection import Selection
from otel_qemu.service import Service
from otel_qemu.sinks import RecordSink
from tests.children import join
from tests.lab.ceph import POOL
from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab, print_progress

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Scene:
    """A guest with some disks, and what it does; `qcow2`, where given, is plugged in after them."""

    disks: tuple[Disk, ...]
    workload: str
    qcow2: Disk | None = None


SCENES = {
    "throttled": Scene(
        (Disk("replayed", size_mib=64, bytes_per_s=20_000_000),),
        """
dd if=/dev/zero of=/dev/sda bs=1M count=5 oflag=direct 2> /dev/null
dd if=/dev/sda of=/dev/null bs=64k count=3 iflag=direct 2> /dev/null
fio --name=deep --filename=/dev/sda --rw=randwrite --bs=4k --size=64k --direct=1 --ioengine=libaio --iodepth=8 > log
blkdiscard -o 1048576 -l 2097152 /dev/sda
blkdiscard -z -o 4194304 -l 65536 /dev/sda
sync /dev/sda
""",
    ),
    "two-disks": Scene(
        (Disk("first", size_mib=64, cache="writeback"), Disk("second", size_mib=64)),
        """
fio --name=a --filename=/dev/sda --rw=randrw --bsrange=4k-64k --size=256k --direct=1 --ioengine=libaio --iodepth=4 \
    --fsync=8 > log &
fio --name=b --filename=/dev/sdb --rw=randwrite --bs=8k --size=128k --direct=1 --sync=1 --ioengine=libaio --iodepth=4 \
    > log2
wait
blkdiscard -o 1048576 -l 1048576 /dev/sda
blkdiscard -o 2097152 -l 1048576 /dev/sdb
sync /dev/sda; sync /dev/sda; sync /dev/sdb
""",
    ),
    "qcow2": Scene(
        (Disk("beside", size_mib=64),),
        """
dd if=/dev/zero of=/dev/sdb bs=128k count=3 oflag=direct 2> /dev/null
dd if=/dev/sdb of=/dev/null bs=32k count=6 iflag=direct 2> /dev/null
blkdiscard -o 131072 -l 131072 /dev/sdb
sync /dev/sdb
""",
        Disk("layered", size_mib=64),
    ),
}


def main(chosen: list[str]) -> None:
    """Record scenes into `recordings`."""
    if unknown := set(chosen) - set(SCENES):
        sys.exit(f"error: no scene {', '.join(sorted(unknown))}: choose from {', '.join(SCENES)}")
    with Lab.up(say=print_progress) as lab:
        for name in chosen or SCENES:
            print(f"{name}: {record(lab, name, SCENES[name])} records", file=sys.stderr)
    print("now: python -m pytest tests/replay --rewrite-goldens", file=sys.stderr)


def record(lab: Lab, name: str, scene: Scene) -> int:
    """Record one scene; return the number of its records."""
    path = HERE / "recordings" / f"{name}.otq"
    path.unlink(missing_ok=True)
    guest = lab.guest(name, disks=list(scene.disks), paused=True)
    if scene.qcow2:
        plug_qcow2(lab, guest, scene.qcow2, len(scene.disks))
    with RecordSink(path, {"command": f"python -m tests.replay.make {name}"}) as sink:
        service = Service(Selection(pids=(guest.pid,)), [sink])
        ready = threading.Event()
        tracing = threading.Thread(target=service.run, kwargs={"ready": lambda *_: ready.set()}, daemon=True)
        tracing.start()
        ready.wait(60)
        guest.resume()
        guest.run(scene.workload)
        service.stop()
        join(tracing)
        sink.describe(service.traced.values())
        sink.finish(service.names, service.counters)
    guest.destroy()
    return sink.records


def plug_qcow2(lab: Lab, guest: Guest, disk: Disk, lun: int) -> None:
    """Give a paused guest one more disk: a new qcow2 image on an rbd image."""
    lab.ceph.create_image(disk.image, disk.size_mib)
    server = {"host": "127.0.0.1", "port": str(lab.ceph.port)}
    where = {"pool": POOL, "image": disk.image, "conf": str(lab.ceph.conf), "server": [server]}
    order(guest, "blockdev-add", {"driver": "rbd", "node-name": "storage", "discard": "unmap", **where})
    create = {"driver": "qcow2", "file": "storage", "size": disk.size_bytes // 2}
    order(guest, "blockdev-create", {"job-id": "format", "options": create})
    deadline = time.monotonic() + 60
    while order(guest, "query-jobs", {})[0]["status"] != "concluded":
        if time.monotonic() > deadline:
            raise TimeoutError("the image is not formatted")
        time.sleep(0.05)
    order(guest, "job-dismiss", {"id": "format"})
    order(guest, "blockdev-add", {"driver": "qcow2", "node-name": "format", "file": "storage", "discard": "unmap"})
    device = {"driver": "scsi-hd", "bus": "scsi0.0", "drive": "format", "id": disk.alias}
    order(guest, "device_add", {**device, "channel": 0, "scsi-id": 0, "lun": lun})


def order(guest: Guest, command: str, arguments: dict[str, Any]) -> Any:
    """A QMP command that must go well; returns what it gives."""
    answer = guest.qmp({"execute": command, "arguments": arguments})
    if "error" in answer:
        raise RuntimeError(f"{command}: {answer['error']}")
    return answer["return"]


if __name__ == "__main__":
    main(sys.argv[1:])
