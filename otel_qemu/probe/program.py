# SPDX-License-Identifier: Apache-2.0
"""
The BPF program, compiled and loaded by bcc.  No other module imports bcc.

bcc raises bare Exception; here that becomes one of our errors.
"""

import contextlib
import ctypes
import mmap
import os
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.errors import NotPossible
from otel_qemu.events import AUDIT_SOURCES, BPF_DIRECTORY, COUNTERS, RECORD, SOURCES, Link, Records, Stage
from otel_qemu.policy import NEVER_NS, KeepPolicy
from otel_qemu.probe import calibration
from otel_qemu.probe.bpf_call import UPROBE_MULTI
from otel_qemu.probe.compilation import SEE_CHECK, captured_stderr, compiled
from otel_qemu.probe.layouts import Layout
from otel_qemu.trace import kernel_histograms

MOST_PROCESSES = 4096
"""Most QEMU processes that can be traced at once."""
MOST_IN_FLIGHT = 65536
"""Most SCSI requests, and most RBD calls, that can be in flight at once."""
MOST_SERIES = 16384
"""Most histograms: one per process, disk, layer and operation."""
RING_PAGES = 4096
"""Pages of the ring: 16 MiB, room for about 120,000 records."""

KERNEL_SETTINGS = np.dtype(
    [
        ("bounds_ns", "<u8", kernel_histograms.BINS),
        ("slow_ns", "<u8", 256),
        ("slow_call_ns", "<u8"),
        ("one_in", "<u8"),
        ("stage", "<u8"),
    ]
)
"""``struct settings`` of ``bpf/tables.bpf.c``."""

_UPROBE_EVENTS = (Path("/sys/kernel/tracing/uprobe_events"), Path("/sys/kernel/debug/tracing/uprobe_events"))
_PERF_TRIES = 3  # on a busy machine perf_event_open was seen to fail once in 400 calls, and to work at the next
_SAMPLES = (b"made", b"submitted")


def source(audit: bool = False) -> bytes:
    """Return the program as one text, with or without the audit: bcc loads functions of its main text only."""
    return b"".join((BPF_DIRECTORY / f"{name}.bpf.c").read_bytes() for name in (AUDIT_SOURCES if audit else SOURCES))


class Program:
    """
    The loaded program and its maps.

    Args:
        audit: whether it has the exact chain as well, with a record of its result for each call.
        most_in_flight: SCSI requests, and RBD calls, that can be in flight at once.
        ring_pages: of the ring, a power of two.
    """

    def __init__(self, audit: bool = False, most_in_flight: int = MOST_IN_FLIGHT, ring_pages: int = RING_PAGES) -> None:
        self._bcc = _import_bcc()
        self._audits = audit
        self.ring_bytes = ring_pages * mmap.PAGESIZE
        """Size of the ring."""
        sizes = {
            "PROCESSES": MOST_PROCESSES,
            "REQUESTS": most_in_flight,
            "SERIES": MOST_SERIES,
            "RING_PAGES": ring_pages,
        }
        self._bpf, self.headers = compiled(self._bcc.BPF, source(audit), _flags(sizes, audit))
        """The loaded program, and the kernel headers it was compiled with, in words."""

    def function(self, name: str, multi: bool) -> int:
        """
        Load one function and return its file descriptor, owned by bcc until `close`.

        Args:
            name: in ``bpf/sites.bpf.c``.
            multi: whether it is for a uprobe_multi link, or else for a perf event.

        Raises:
            NotPossible: the kernel refuses it.
        """
        kind = {"attach_type": UPROBE_MULTI} if multi else {}
        try:
            with captured_stderr():  # if the program is refused, bcc prints the verifier's log
                return int(self._bpf.load_func(name.encode(), self._bcc.BPF.KPROBE, **kind).fd)
        except Exception as error:  # bcc raises nothing narrower
            raise NotPossible(f"the kernel does not load the BPF program {name} ({error}): {SEE_CHECK}") from error

    def attach_perf(self, function: int, path: str, offset: int) -> tuple[str, int]:
        """Attach by perf_event_open or, below it, tracefs; returns what `detach_perf` takes."""
        library = self._bcc.lib
        event = f"p_otel_qemu_{os.getpid()}_{function}_{offset:x}"
        # Entry probe, any process; bcc 0.27 and later take a reference counter's offset as well.
        arguments = (function, 0, event.encode(), path.encode(), offset, -1, 0)
        for _ in range(_PERF_TRIES):
            with captured_stderr():  # the error is raised below
                fd = library.bpf_attach_uprobe(*arguments[: len(library.bpf_attach_uprobe.argtypes)])
            if fd >= 0:
                return event, int(fd)
        raise NotPossible(f"cannot attach to {path}+{offset:#x}: {os.strerror(ctypes.get_errno())}")

    def detach_perf(self, event: str, fd: int) -> None:
        """Detach a probe of `attach_perf`."""
        self._bcc.lib.bpf_close_perf_event_fd(fd)
        if any(events.exists() for events in _UPROBE_EVENTS):  # else there is no event, and bcc would complain
            self._bcc.lib.bpf_detach_uprobe(event.encode())

    def map_fd(self, name: str) -> int:
        """Return the file descriptor of a map."""
        return int(self._bpf[name.encode()].map_fd)

    def set_up(self, bounds_ns: NDArray[np.int64], policy: KeepPolicy) -> None:
        """
        Set the bins and the policy.  Call it before anything is attached, because bins must not change meanwhile.

        Args:
            bounds_ns: upper bounds of the histograms' bins, ascending, at most `kernel_histograms.MOST_BOUNDS`.
            policy: which traces get a record.
        """
        table = self._bpf[b"settings"]
        settings = np.zeros((), dtype=KERNEL_SETTINGS)
        settings["bounds_ns"] = np.iinfo("u8").max
        settings["bounds_ns"][: len(bounds_ns)] = bounds_ns
        settings["slow_ns"] = policy.slow_ns
        settings["slow_call_ns"] = policy.slow_call_ns
        settings["one_in"] = min(policy.one_in, NEVER_NS)
        table[ctypes.c_int(0)] = table.Leaf.from_buffer_copy(settings.tobytes())

    def set_stage(self, stage: Stage) -> None:
        """Set the stage of tracing for all processes at once."""
        table = self._bpf[b"settings"]
        settings = table[ctypes.c_int(0)]
        settings.stage = stage
        table[ctypes.c_int(0)] = settings

    def latencies(self) -> tuple[NDArray[np.void], NDArray[np.void]]:
        """Return the histograms: dtypes `kernel_histograms.SERIES` and `LATENCY`, both of shape (n,)."""
        items = [(bytes(key), bytes(value)) for key, value in self._bpf[b"latencies"].items()]
        keys, values = (b"".join(column) for column in zip(*items, strict=True)) if items else (b"", b"")
        return np.frombuffer(keys, kernel_histograms.SERIES), np.frombuffer(values, kernel_histograms.LATENCY)

    def series(self) -> NDArray[np.void]:
        """Return the keys of the histograms: dtype `kernel_histograms.SERIES`, shape (n,)."""
        keys = b"".join(bytes(key) for key in self._bpf[b"latencies"].keys())  # noqa: SIM118 - a bcc table is no dict
        return np.frombuffer(keys, dtype=kernel_histograms.SERIES)

    def trace_process(self, pid: int, layout: Layout, proving: bool = False, keep_all: bool = False) -> None:
        """
        Begin to trace a process.

        Args:
            pid: of the process.
            layout: of its structs.
            proving: whether to take only requests whose fields match the arguments of scsi_req_new.  While the layout
                of SCSIRequest is not known, samples are taken instead of requests.
            keep_all: whether to keep every record, because user space joins the calls of this process.
        """
        table = self._bpf[b"processes"]
        table[ctypes.c_uint32(pid)] = table.Leaf(*astuple(layout), keep_all, proving, 0, 0, 0, 0, 0)

    def trust_process(self, pid: int) -> None:
        """Take a traced process's requests without proof from now on."""
        self._change_process(pid, proving=0)
        self._forget(self._bpf[b"expected"], pid)

    def samples(self, pid: int) -> tuple[NDArray[np.void], NDArray[np.uint8]]:
        """Return the samples of a process, as `calibration.calibrated` takes them."""
        made, submitted = (
            b"".join(bytes(value) for key, value in self._bpf[table].items() if key.pid == pid) for table in _SAMPLES
        )
        requests = np.frombuffer(submitted, dtype=np.uint8).reshape(-1, calibration.REQUEST_BYTES)
        return np.frombuffer(made, dtype=calibration.EXPECTED), requests

    def has_all_samples(self, pid: int) -> bool:
        """Whether no further samples of a process are taken.  If the tables were full, it has fewer than allowed."""
        return int(self._bpf[b"processes"][ctypes.c_uint32(pid)].submitted) >= calibration.SAMPLES

    def sample_again(self, pid: int) -> None:
        """Drop all samples of a process, then take new ones."""
        self.forget_samples(pid)
        self._change_process(pid, made=0, submitted=0)

    def prove_process(self, pid: int, **offsets: int) -> None:
        """Prove a process with these offsets of SCSIRequest from now on, then drop its samples."""
        self._change_process(pid, **offsets)  # first, so that no sample is taken after its table was emptied
        self.forget_samples(pid)

    def forget_samples(self, pid: int) -> None:
        """Drop all samples of a process.  If it has all that it may have, no new ones are taken."""
        for samples in _SAMPLES:
            self._forget(self._bpf[samples], pid)

    def _change_process(self, pid: int, **values: int) -> None:
        table = self._bpf[b"processes"]
        process = table[ctypes.c_uint32(pid)]
        for name, value in values.items():
            setattr(process, name, value)
        table[ctypes.c_uint32(pid)] = process

    def audit_process(self, pid: int) -> None:
        """Begin to follow the coroutines of a process."""
        self._bpf[b"audited"][ctypes.c_uint32(pid)] = ctypes.c_uint32(0)

    def proofs(self, pid: int) -> tuple[int, int]:
        """Return how many requests of a process matched the arguments of scsi_req_new, and how many did not."""
        process = self._bpf[b"processes"][ctypes.c_uint32(pid)]
        return int(process.proven), int(process.refuted)

    def forget_process(self, pid: int) -> int:
        """Stop tracing a process, drop all its entries, and return the number of those that were in flight."""
        dropped = self.pause_process(pid)
        self._forget(self._bpf[b"latencies"], pid)
        return dropped

    def pause_process(self, pid: int) -> int:
        """Ignore a process until `trace_process`, drop its entries in flight, and return their number."""
        with contextlib.suppress(KeyError):
            del self._bpf[b"processes"][ctypes.c_uint32(pid)]
        if self._audits:
            self._forget_audited(pid)
        for name in (b"expected", b"held", *_SAMPLES):  # a held call has ended, or is counted in `calls`
            self._forget(self._bpf[name], pid)
        return sum(self._forget(self._bpf[name], pid) for name in (b"requests", b"calls"))

    def _forget_audited(self, pid: int) -> None:
        with contextlib.suppress(KeyError):
            del self._bpf[b"audited"][ctypes.c_uint32(pid)]
        for name in (b"threads", b"coroutines"):
            self._forget(self._bpf[name], pid)

    @staticmethod
    def _forget(table: Any, pid: int) -> int:
        dead = [key for key in table.keys() if key.pid == pid]  # noqa: SIM118 - a bcc table is no dict
        for key in dead:
            with contextlib.suppress(KeyError):
                del table[key]
        return len(dead)

    def counters(self) -> dict[str, int]:
        """Return every kernel counter by name, summed over the CPUs."""
        table = self._bpf[b"counters"]
        return {name: int(sum(table[ctypes.c_int(index)])) for index, name in enumerate(COUNTERS)}

    def in_flight(self) -> Records:
        """Return the incomplete records of the SCSI requests in flight, in no order; dtype `RECORD`."""
        entries = [bytes(entry) for entry in self._bpf[b"requests"].values()]
        return np.frombuffer(b"".join(entries), dtype=RECORD)

    def still_in_flight(self) -> tuple[int, int]:
        """
        Return the number of SCSI requests, and of RBD calls, in flight.

        A call without a walk is not counted.  It may belong to a request that is not traced, so there may always be
        such a call in flight.
        """
        links = [call.link for call in self._bpf[b"calls"].values()]
        return len(self._bpf[b"requests"]), sum(link in (Link.WALK, Link.NOT_IN_FLIGHT) for link in links)

    def close(self) -> None:
        """Unload the program and its maps."""
        self._bpf.cleanup()


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError as error:
        raise NotPossible(
            "no Python module bcc: install the distribution's python3-bpfcc, "
            "and create the virtual environment with --system-site-packages"
        ) from error
    if not hasattr(bcc, "BPF"):
        raise NotPossible(
            f"the module bcc at {bcc.__file__} is PyPI's unrelated package of that name: run `pip uninstall bcc`, and "
            "install the distribution's python3-bpfcc"
        )
    return bcc


def _flags(sizes: dict[str, int], audit: bool) -> list[str]:
    switch = ["-DAUDIT"] if audit else []
    return [f"-I{BPF_DIRECTORY}", *(f"-D{name}={value}" for name, value in sizes.items()), *switch]
