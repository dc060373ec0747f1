"""
A guest's requests are known one by one; what we say of them must be equal to that, to the guest's and to QEMU's counts.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.lab.disk import Disk
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing, traces_of
from tests.lab.workload import Workload

SCSI_WORDS = {"read": "READ", "write": "WRITE", "flush": "SYNCHRONIZE_CACHE", "discard": "UNMAP"}
DISK = Disk("counted", size_mib=64)


class Observed:
    """One guest's life under trace: what it did, what it and QEMU counted, what we traced."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        recording = folder / "counted.otq"
        self.guest = lab.guest("counted", disks=[DISK], paused=True)
        with Tracing("record", "-o", str(recording), "--domain", "counted") as self.tracing:
            self.guest.resume()
            self.before = self.guest.block_counts()[DISK.alias]
            self.workload = Workload.mixed(seed=23, disk_bytes=DISK.size_bytes)
            device = self.guest.device(DISK)
            self.workload.run(self.guest, device, iodepth=16)
            self.guest_counts = self.guest.guest_counts()[device]
            self.block_counts = self.guest.block_counts()[DISK.alias]
            assert self.tracing.stop() == 0
        self.traces = traces_of(recording)
        self.requests = [trace for trace in self.traces if trace["operation"] is not None]
        self.calls = [child for trace in self.traces for child in trace["children"]]


@pytest.fixture(scope="module")
def observed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    found = Observed(lab, tmp_path_factory.mktemp("counted"))
    found.guest.destroy()
    return found


def test_scsi_counts_equal_the_guests_and_qemus(observed: Observed) -> None:
    """Reads, writes, flushes and discards: ours, the guest kernel's and QEMU's counts are the same."""
    ours = Counter(trace["operation"] for trace in observed.requests)
    guest, qemu = observed.guest_counts, observed.block_counts

    assert (ours["READ"], ours["WRITE"]) == (guest.reads, guest.writes) == (qemu.reads, qemu.writes)
    assert (ours["SYNCHRONIZE_CACHE"], ours["UNMAP"]) == (guest.flushes, guest.discards) == (qemu.flushes, qemu.unmaps)


def test_bytes_equal_the_guests_and_qemus(observed: Observed) -> None:
    """The bytes of reads and writes add up to what the guest kernel and QEMU counted."""
    ours: Counter[str] = Counter()
    for trace in observed.requests:
        ours[trace["operation"]] += trace["bytes"]

    assert ours["READ"] == observed.guest_counts.read_bytes == observed.block_counts.read_bytes
    assert ours["WRITE"] == observed.guest_counts.write_bytes == observed.block_counts.write_bytes


def _range(trace: dict[str, Any]) -> tuple[str, int, int]:
    """What a request says it covers; an UNMAP's range is in its payload, so its call tells."""
    if trace["operation"] == "UNMAP":
        (child,) = trace["children"]
        return "UNMAP", child["offset"], child["length"]
    return trace["operation"], trace["lba"] * 512, trace["bytes"]


def test_every_known_request_is_there_with_its_offset_and_length(observed: Observed) -> None:
    """Each request of the workload's list has a trace of its own; what is left over is the boot's reads."""
    known = Counter((SCSI_WORDS[r.operation], r.offset, r.length) for r in observed.workload.requests)
    traced = Counter(_range(trace) for trace in observed.requests if trace["operation"] in SCSI_WORDS.values())

    assert not known - traced
    assert {operation for operation, _, _ in traced - known} <= {"READ"}
    assert sum((traced - known).values()) == observed.before.reads


def test_every_call_is_a_child_of_the_request_it_was_made_for(observed: Observed) -> None:
    """No call is without a parent, data calls agree in direction and range, and found children are all there are."""
    assert all(trace["operation"] is not None for trace in observed.traces)
    for trace in observed.requests:
        if trace["operation"] in ("READ", "WRITE"):
            (child,) = trace["children"]
            word = trace["operation"].lower()
            assert (child["operation"], child["offset"], child["length"]) == (
                word,
                trace["lba"] * 512,
                trace["bytes"],
            )
            assert trace["join"] == "walk+range"


def test_call_counts_equal_qemus(observed: Observed) -> None:
    """Calls by operation equal QEMU's counts; a flush may have none, when there was nothing to flush."""
    ours = Counter(child["operation"] for child in observed.calls)
    qemu = observed.block_counts

    assert (ours["read"], ours["write"], ours["discard"]) == (
        qemu.reads,
        qemu.writes,
        qemu.unmaps,
    )
    assert 0 < ours["flush"] <= qemu.flushes
    assert len(observed.calls) == sum(ours.values())


def test_time_adds_up_to_the_nanosecond(observed: Observed) -> None:
    """duration = wait + rbd + completion for every request, none of them negative, children inside their parent."""
    for trace in observed.requests:
        parts = trace["wait_ns"], trace["rbd_ns"], trace["completion_ns"]
        assert trace["duration_ns"] == sum(parts)
        assert min(parts) >= 0
        for child in trace["children"]:
            assert trace["start_unix_ns"] <= child["start_unix_ns"]
            end = child["start_unix_ns"] + child["duration_ns"]
            assert end <= trace["start_unix_ns"] + trace["duration_ns"]


def test_status_and_return_values(observed: Observed) -> None:
    """Reads return their length, everything else 0, and all commands to the disk were GOOD."""
    for trace in observed.requests:
        if trace["operation"] in SCSI_WORDS.values():
            assert trace["status"] == "GOOD"
    for child in observed.calls:
        assert child["return_value"] == (child["length"] if child["operation"] == "read" else 0)


def test_names_come_from_libvirt(observed: Observed) -> None:
    """Domain, disk alias and image are libvirt's, not ids."""
    for trace in observed.requests:
        assert (trace["domain"], trace["disk"]) == ("counted", DISK.alias)
    assert {child["image"] for child in observed.calls} == {"rbd/counted"}
