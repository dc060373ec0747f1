"""
Make a recording of the lab's guest anew: ``python -m tests.replay.make``, as root.  Then look at the goldens' diff.

A guest with a throttled disk writes, reads, flushes, discards and zeroes, from its first request on.
"""

import sys
import threading
from pathlib import Path

from otel_qemu.probe.selection import Selection
from otel_qemu.service import Service
from otel_qemu.sinks import RecordSink
from tests.lab.disk import Disk
from tests.lab.lab import Lab, print_progress

HERE = Path(__file__).parent
DISK = Disk("replayed", size_mib=64, bytes_per_s=20_000_000)
WORKLOAD = """
dd if=/dev/zero of=/dev/sda bs=1M count=5 oflag=direct 2> /dev/null
dd if=/dev/sda of=/dev/null bs=64k count=3 iflag=direct 2> /dev/null
fio --name=deep --filename=/dev/sda --rw=randwrite --bs=4k --size=64k --direct=1 --ioengine=libaio --iodepth=8 > log
blkdiscard -o 1048576 -l 2097152 /dev/sda
blkdiscard -z -o 4194304 -l 65536 /dev/sda
sync /dev/sda
"""


def main() -> None:
    """Record into `recordings`, and rewrite its golden."""
    path = HERE / "recordings" / "throttled.otq"
    path.unlink(missing_ok=True)
    with Lab.up(say=print_progress) as lab:
        guest = lab.guest("replayed", disks=[DISK], paused=True)
        with RecordSink(path, {"command": "python -m tests.replay.make"}) as sink:
            service = Service(Selection(pids=(guest.pid,)), [sink])
            ready = threading.Event()
            tracing = threading.Thread(target=service.run, kwargs={"ready": lambda *_: ready.set()})
            tracing.start()
            ready.wait(60)
            guest.resume()
            guest.run(WORKLOAD)
            service.stop()
            tracing.join()
            sink.finish(service.names, service.counters)
    print(f"{path}: {sink.records} records; now: python -m pytest tests/replay --rewrite-goldens", file=sys.stderr)


if __name__ == "__main__":
    main()
