# SPDX-License-Identifier: Apache-2.0
"""Two guests with two disks each, at once: nothing goes to the wrong guest, disk or image; and none of them is hurt."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from otel_qemu.probe.attach import MULTI, attach
from otel_qemu.probe.inspection import Inspector
from otel_qemu.probe.processes import read_process, start_ticks
from otel_qemu.probe.program import Program
from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing, traces_of
from tests.lab.workload import Workload, run_all

ATTACHES = 50
FIO = (
    "fio --name=load --filename=/dev/sda --rw=randrw --direct=1 --ioengine=libaio --iodepth=16"
    " --time_based --runtime=600"
)


def test_nothing_is_attributed_to_the_wrong_guest_disk_or_image(lab: Lab, tmp_path: Path) -> None:
    """Four disks, each with a workload of its own: every disk's traces are its workload's requests, and no other's."""
    disks = {name: [Disk(f"{name}-root"), Disk(f"{name}-data")] for name in ("left", "right")}
    guests = [lab.guest(name, disks=disks[name], paused=True) for name in disks]
    recording = tmp_path / "four.otq"
    with Tracing("record", "-o", str(recording), "--domain", "left", "--domain", "right") as tracing:
        for guest in guests:
            guest.resume()
        workloads = {
            disk.alias: Workload.mixed(seed, disk.size_bytes, writes=101, reads=53, flushes=5, discards=3)
            for seed, disk in enumerate(disk for pair in disks.values() for disk in pair)
        }
        with ThreadPoolExecutor() as pool:
            for guest in guests:
                pool.submit(run_all, guest, {guest.device(disk): workloads[disk.alias] for disk in guest.disks})
        counts = {alias: count for guest in guests for alias, count in guest.block_counts().items()}
        assert tracing.stop() == 0
    for guest in guests:
        guest.destroy()

    traces = traces_of(recording)
    for name, pair in disks.items():
        for disk in pair:
            mine = [t for t in traces if {c["image"] for c in t["children"]} == {f"rbd/{disk.image}"}]
            assert {t["domain"] for t in mine} == {name}
            assert len({t["disk"] for t in mine}) == 1
            operations = Counter(t["operation"] for t in mine)
            assert (operations["READ"], operations["WRITE"]) == (
                counts[disk.alias].reads,
                counts[disk.alias].writes,
            )
            known = Counter((r.offset, r.length) for r in workloads[disk.alias].requests if r.operation == "write")
            assert known == Counter((t["lba"] * 512, t["bytes"]) for t in mine if t["operation"] == "WRITE")
    assert all(len({child["image"] for child in trace["children"]}) <= 1 for trace in traces)


def test_the_guest_lives_through_fifty_attaches_under_load(lab: Lab) -> None:
    """Attach and detach 50 times while fio runs: requests are seen each time, the process lives, fio has no error."""
    guest = lab.guest("survivor", disks=[Disk("survivor")])
    process = read_process(guest.pid)
    inspection = Inspector().inspect(process)
    guest.run(f"{FIO} > /tmp/fio.log 2>&1 & echo $! > /tmp/fio.pid")
    with closing(Program()) as program:
        program.trace_process(process.pid, inspection.layout)
        for _ in range(ATTACHES):
            before = program.counters()["records"]
            attachments = [attach(program, file.path, sites, MULTI) for file, sites in inspection.binaries()]
            await_more(lambda: program.counters()["records"], before)
            for attachment in attachments:
                attachment.detach()
            assert start_ticks(guest.pid) == process.start_ticks
    # Its main process alone: a job of fio 3.33 that gets the signal too may wait for ever for a request it has had.
    guest.run(
        "kill $(cat /tmp/fio.pid); while pidof fio > /dev/null; do usleep 1000; done; ! grep -i error /tmp/fio.log"
    )
    guest.destroy()


def await_more(count: Callable[[], int], than: int, timeout_s: float = 120) -> None:
    """Wait until a count has grown."""
    deadline = time.monotonic() + timeout_s
    while count() <= than:
        assert time.monotonic() < deadline, f"still {than} after {timeout_s} s"
        time.sleep(0.01)
