# SPDX-License-Identifier: Apache-2.0
"""
What has to be true of every guest's traces, whatever its QEMU: a workload known one by one, and the tests of it.

A test module gives a class of its own the fixture `observed`, and inherits the tests.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from otel_qemu.probe.inspection import Inspector
from otel_qemu.probe.processes import read_process
from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing, traces_of
from tests.lab.workload import Workload

SCSI_WORDS = {"read": "READ", "write": "WRITE", "flush": "SYNCHRONIZE_CACHE", "discard": "UNMAP"}


class Observed:
    """
    One guest's life under trace: what it did, what it and QEMU counted, what we traced.
    """

    def __init__(self, lab: Lab, name: str, disk: Disk, folder: Path, suite: str | None = None) -> None:
        recording = folder / f"{name}.otq"
        self.guest = lab.guest(name, disks=[disk], paused=True, suite=suite)
        self.inspection = Inspector().inspect(read_process(self.guest.pid))
        with Tracing("record", "-o", str(recording), "--domain", self.guest.uuid) as self.tracing:
            self.guest.resume()
            self.before = self.guest.block_counts()[disk.alias]
            self.workload = Workload.mixed(seed=23, disk_bytes=disk.size_bytes)
            device = self.guest.device(disk)
            self.workload.run(self.guest, device, iodepth=16)
            self.guest_counts = self.guest.guest_counts()[device]
            self.block_counts = self.guest.block_counts()[disk.alias]
            assert self.tracing.stop() == 0
        self.guest.destroy()
        self.traces = traces_of(recording)
        self.requests = [trace for trace in self.traces if trace["operation"] is not None]
        self.calls = [child for trace in self.traces for child in trace["children"]]


class Correctness:
    """
    The tests; every figure is equal to the workload's, the guest kernel's and QEMU's, one by one.
    """

    def test_scsi_counts_equal_the_guests_and_qemus(self, observed: Observed) -> None:
        """Reads, writes, flushes and discards: ours, the guest kernel's and QEMU's counts are the same."""
        ours = Counter(trace["operation"] for trace in observed.requests)
        guest, qemu = observed.guest_counts, observed.block_counts

        assert (ours["READ"], ours["WRITE"]) == (guest.reads, guest.writes) == (qemu.reads, qemu.writes)
        rare = ours["SYNCHRONIZE_CACHE"], ours["UNMAP"]
        assert rare == (guest.flushes, guest.discards) == (qemu.flushes, qemu.unmaps)

    def test_bytes_equal_the_guests_and_qemus(self, observed: Observed) -> None:
        """The bytes of reads and writes add up to what the guest kernel and QEMU counted."""
        ours: Counter[str] = Counter()
        for trace in observed.requests:
            ours[trace["operation"]] += trace["bytes"]

        assert ours["READ"] == observed.guest_counts.read_bytes == observed.block_counts.read_bytes
        assert ours["WRITE"] == observed.guest_counts.write_bytes == observed.block_counts.write_bytes

    def test_every_known_request_is_there_with_its_offset_and_length(self, observed: Observed) -> None:
        """Each request of the workload's list has a trace of its own; what is left over is the boot's reads."""
        known = Counter((SCSI_WORDS[r.operation], r.offset, r.length) for r in observed.workload.requests)
        traced = Counter(_range(trace) for trace in observed.requests if trace["operation"] in SCSI_WORDS.values())

        assert not known - traced
        assert {operation for operation, _, _ in traced - known} <= {"READ"}
        assert sum((traced - known).values()) == observed.before.reads

    def test_every_call_is_a_child_of_the_request_it_was_made_for(self, observed: Observed) -> None:
        """No call is without a parent; data calls agree in direction and range with theirs, which has no other."""
        assert all(trace["operation"] is not None for trace in observed.traces)
        for trace in observed.requests:
            if trace["operation"] in ("READ", "WRITE"):
                (child,) = trace["children"]
                wanted = trace["operation"].lower(), trace["lba"] * 512, trace["bytes"]
                assert (child["operation"], child["offset"], child["length"]) == wanted
                assert trace["join"] == "walk+range"

    def test_call_counts_equal_qemus(self, observed: Observed) -> None:
        """Calls by operation equal QEMU's counts; a flush may have none, when there was nothing to flush."""
        ours = Counter(child["operation"] for child in observed.calls)
        qemu = observed.block_counts

        assert (ours["read"], ours["write"], ours["discard"]) == (qemu.reads, qemu.writes, qemu.unmaps)
        assert 0 < ours["flush"] <= qemu.flushes
        assert len(observed.calls) == sum(ours.values())

    def test_time_adds_up_to_the_nanosecond(self, observed: Observed) -> None:
        """duration = wait + rbd + completion for every request, none of them negative, children inside their parent."""
        for trace in observed.requests:
            parts = trace["wait_ns"], trace["rbd_ns"], trace["completion_ns"]
            assert trace["duration_ns"] == sum(parts)
            assert min(parts) >= 0
            for child in trace["children"]:
                assert trace["start_unix_ns"] <= child["start_unix_ns"]
                end = child["start_unix_ns"] + child["duration_ns"]
                assert end <= trace["start_unix_ns"] + trace["duration_ns"]

    def test_status_and_return_values(self, observed: Observed) -> None:
        """Reads return their length, everything else 0, and all commands to the disk were GOOD."""
        for trace in observed.requests:
            if trace["operation"] in SCSI_WORDS.values():
                assert trace["status"] == "GOOD"
        for child in observed.calls:
            assert child["return_value"] == (child["length"] if child["operation"] == "read" else 0)

    def test_all_is_understood_and_the_hot_sites_are_cheap(self, observed: Observed) -> None:
        """The binaries show the layouts for the walk, and the four traps of a READ or WRITE are cheap ones."""
        assert not observed.inspection.problems
        assert observed.inspection.layout.scsi_known
        assert observed.inspection.layout.walk_known
        emulated = {site.probe.function: site.emulated for _, sites in observed.inspection.binaries() for site in sites}
        hot = ("scsi_req_enqueue", "scsi_req_complete", "rbd_aio_readv", "rbd_aio_writev", "rbd_aio_release")
        assert [function for function in hot if not emulated[function]] == []


def _range(trace: dict[str, Any]) -> tuple[str, int, int]:
    """What a request says it covers; an UNMAP's range is in its payload, so its call tells."""
    if trace["operation"] == "UNMAP":
        (child,) = trace["children"]
        return "UNMAP", child["offset"], child["length"]
    return trace["operation"], trace["lba"] * 512, trace["bytes"]
