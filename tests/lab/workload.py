# SPDX-License-Identifier: Apache-2.0
"""
Workloads whose requests are known: each reaches QEMU as one SCSI command of just that offset and length.

fio replays the reads, writes and flushes in the guest (iolog version 2, libaio, direct) at a queue depth above
one; the discards run beside it, one after the other.  fio 3.33 refuses them in such a log ("bad ddir"), and a
fio job that trims forgets O_DIRECT, whereupon the page cache would make requests of its own.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tests.lab.counts import BlockCounts, GuestCounts
from tests.lab.errors import GuestError
from tests.lab.guest import Guest
from tests.lab.load import FioCounts, run_fio

Operation = Literal["read", "write", "flush", "discard"]
# fio's words for them; see "Trace file format v2" in fio's documentation.
FIO_WORDS: dict[Operation, str] = {"read": "read", "write": "write", "flush": "sync"}
SIZES = (4096, 8192, 16384, 65536, 131072, 262144, 1 << 20)
HUGE_PAGE_BYTES = 2 << 20


class Request(NamedTuple):
    """
    One request; a flush has neither offset nor length.
    """

    operation: Operation
    offset: int
    length: int


@dataclass(frozen=True)
class Workload:
    """
    A list of requests, in the order of their submission.
    """

    requests: tuple[Request, ...]

    @classmethod
    def mixed(
        cls,
        seed: int,
        disk_bytes: int,
        writes: int = 500,
        reads: int = 300,
        flushes: int = 20,
        discards: int = 10,
        sizes: Sequence[int] = SIZES,
    ) -> Workload:
        """A random mixture, the same for the same arguments; offsets are multiples of 4 KiB."""
        source = random.Random(seed)
        numbers: dict[Operation, int] = {"write": writes, "read": reads, "flush": flushes, "discard": discards}
        operations = [operation for operation, number in numbers.items() for _ in range(number)]
        source.shuffle(operations)
        return cls(tuple(_random_request(source, operation, disk_bytes, sizes) for operation in operations))

    def count(self, operation: Operation) -> int:
        """How many requests of one kind it has."""
        return Counter(request.operation for request in self.requests)[operation]

    def bytes(self, operation: Operation) -> int:
        """How many bytes the requests of one kind move."""
        return sum(request.length for request in self.requests if request.operation == operation)

    def guest_counts(self) -> GuestCounts:
        """What the guest's kernel has to count for it."""
        return GuestCounts(
            reads=self.count("read"),
            writes=self.count("write"),
            flushes=self.count("flush"),
            discards=self.count("discard"),
            read_bytes=self.bytes("read"),
            write_bytes=self.bytes("write"),
            discard_bytes=self.bytes("discard"),
            merges=0,
        )

    def block_counts(self) -> BlockCounts:
        """What QEMU has to count for it."""
        return BlockCounts(
            reads=self.count("read"),
            writes=self.count("write"),
            flushes=self.count("flush"),
            unmaps=self.count("discard"),
            read_bytes=self.bytes("read"),
            write_bytes=self.bytes("write"),
            unmap_bytes=self.bytes("discard"),
            failed_reads=0,
            failed_writes=0,
            failed_flushes=0,
            failed_unmaps=0,
        )

    def iolog(self, device: str) -> str:
        """All but the discards as a fio iolog."""
        name = f"/dev/{device}"
        kept = [request for request in self.requests if request.operation in FIO_WORDS]
        lines = [f"{name} {FIO_WORDS[r.operation]} {r.offset} {r.length}" for r in kept]
        return "\n".join(["fio version 2 iolog", f"{name} add", f"{name} open", *lines, f"{name} close"])

    def discards(self, device: str) -> str:
        """The discards as a shell script that stops at the first failure."""
        kept = [request for request in self.requests if request.operation == "discard"]
        return "\n".join(["set -e", *(f"blkdiscard -o {r.offset} -l {r.length} /dev/{device}" for r in kept)])

    def run(self, guest: Guest, device: str, iodepth: int = 16, timeout_s: float = 120) -> None:
        """Replay it on one disk of a guest, and wait for its end."""
        run_all(guest, {device: self}, iodepth, timeout_s)


def _random_request(source: random.Random, operation: Operation, disk_bytes: int, sizes: Sequence[int]) -> Request:
    if operation == "flush":
        return Request(operation, 0, 0)
    length = source.choice(sizes)
    return Request(operation, source.randrange(0, disk_bytes - length + 1, 4096), length)


def run_all(guest: Guest, workloads: Mapping[str, Workload], iodepth: int = 16, timeout_s: float = 120) -> None:
    """Replay several workloads at once, each on a disk of its own, and wait for the end of all of them."""
    options, beside = [], []
    for device, workload in workloads.items():
        _check_limits(guest, device, workload)
        guest.write(f"/tmp/{device}.iolog", workload.iolog(device))
        guest.write(f"/tmp/{device}.discards", workload.discards(device))
        options.append(f"--name={device} --read_iolog=/tmp/{device}.iolog")
        beside.append(f"sh /tmp/{device}.discards")
    _reserve_huge_pages(guest, workloads, iodepth)
    # Huge pages: a mebibyte in scattered 4 KiB pages would need 256 segments, and virtio-scsi takes 254.
    shared = f"--ioengine=libaio --direct=1 --iodepth={iodepth} --mem=mmaphuge"
    done = run_fio(guest, f"{shared} {' '.join(options)}", timeout_s, beside)
    for device, workload in workloads.items():
        _check_done(guest, device, workload, done[device])


def _reserve_huge_pages(guest: Guest, workloads: Mapping[str, Workload], iodepth: int) -> None:
    longest = [max((r.length for r in workload.requests), default=0) for workload in workloads.values()]
    pages = sum(iodepth * length // HUGE_PAGE_BYTES + 2 for length in longest)
    reserved = int(guest.run(f"echo {pages} > /proc/sys/vm/nr_hugepages; cat /proc/sys/vm/nr_hugepages"))
    if reserved < pages:
        raise GuestError(f"{reserved} of {pages} huge pages, guest {guest.name}: give it more memory_mib")


def _check_limits(guest: Guest, device: str, workload: Workload) -> None:
    # What the kernel would split, drop or answer by itself is an error here, not a wrong count later.
    queue = f"/sys/block/{device}/queue"
    names = ("max_sectors_kb", "discard_granularity", "discard_max_bytes", "write_cache")
    values = guest.run(" ".join(["cd", queue, "&&", "cat", *names])).splitlines()
    longest, granularity, discard_max = int(values[0]) << 10, int(values[1]), int(values[2])
    for request in workload.requests:
        wrong = request.operation in ("read", "write") and request.length > longest
        if request.operation == "discard":
            wrong = request.length > discard_max or bool((request.offset | request.length) % granularity)
        if wrong:
            raise GuestError(f"would be split, {request} on {device} of guest {guest.name}: choose another size")
    if workload.count("flush") and values[3] != "write back":
        raise GuestError(f"has no write cache to flush, {device} of guest {guest.name}: choose another cache mode")


def _check_done(guest: Guest, device: str, workload: Workload, done: FioCounts) -> None:
    wanted = FioCounts(workload.count("read"), workload.count("write"), 0, workload.count("flush"))
    if done != wanted:
        raise GuestError(f"fio did {done} instead of {wanted}, {device} of guest {guest.name}: see {guest.console}")
