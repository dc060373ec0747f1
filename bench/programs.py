# SPDX-License-Identifier: Apache-2.0
"""
Our handlers against an empty program on the same sites, on the fake QEMU of tests/kernel.

CPU time of its process, probes included, a WRITE: untraced, with an empty program on the sites, with ours.  Each WRITE
hits four of them: scsi_req_enqueue, rbd_aio_writev, rbd_aio_release and scsi_req_complete.
"""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from bench.figures import Figure, Samples, added, ratios
from bench.kernel import RunTime, empty_program_on, own_run_times, run_times_counted
from otel_qemu.policy import COUNTS_ONLY, EVERYTHING, KeepPolicy
from otel_qemu.probe import proof
from otel_qemu.probe.attach import PERF
from otel_qemu.probe.inspection import Inspector
from otel_qemu.probe.processes import read_process
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from tests.kernel.fake.build import QEMU_7_2, QEMU_11_1, Variant
from tests.kernel.fake_qemu import FakeQemu

REQUESTS = 100_003
"""Fewer than the ring holds: nobody reads it meanwhile."""
HITS = 4
AIM_RATIO = 1.6
HANDLERS = ("scsi_req_enqueue", "rbd_aio_writev", "rbd_aio_release", "scsi_req_complete")
_NAME_BYTES = 15  # of a BPF program, in the kernel

Mode = Callable[[FakeQemu], AbstractContextManager[object]]


def measure(repetitions: int) -> list[Figure]:
    """ns per request and per hit, by what is attached, for two builds of QEMU; and ns per run of each program."""
    figures: list[Figure] = []
    for variant in (QEMU_7_2, QEMU_11_1):
        prefix = f"qemu_{variant.name.replace('.', '_')}"
        figures += [*_by_mode(variant, prefix, repetitions), *_by_handler(variant, prefix, repetitions)]
    return figures


@contextmanager
def _empty(qemu: FakeQemu) -> Iterator[None]:
    found = Inspector().inspect(read_process(qemu.pid)).binaries()
    with empty_program_on((file.path, sites) for file, sites in found):
        yield


def _ours(policy: KeepPolicy, route: str | None = None) -> Mode:
    @contextmanager
    def traced(qemu: FakeQemu) -> Iterator[Tracer]:
        with Tracer(Selection(pids=(qemu.pid,)), policy) as tracer:
            tracer.route = route or tracer.route
            tracer.refresh()
            tracer.require_any()
            qemu.command(f"write {proof.ENOUGH_PROOFS} 4096 1")
            tracer.refresh()  # the layout is proven: the fifth probe goes
            yield tracer

    return traced


MODES: dict[str, Mode] = {
    "untraced": lambda _qemu: contextlib.nullcontext(),
    "empty": _empty,
    "counting": _ours(COUNTS_ONLY),
    "keeping_all": _ours(EVERYTHING),
}


def _by_mode(variant: Variant, prefix: str, repetitions: int) -> list[Figure]:
    samples: Samples = defaultdict(list)
    with FakeQemu(variant) as qemu:
        for _ in range(repetitions):
            for name, mode in MODES.items():
                with mode(qemu):
                    samples[name].append(_cpu_ns_a_request(qemu))
    return summarised(prefix, samples)


def summarised(prefix: str, samples: Samples) -> list[Figure]:
    """CPU ns per request by mode, what each mode adds per hit, and the quotient of our programs and the empty one."""
    figures = [Figure.of(f"{prefix}_{name}_request_ns", values) for name, values in samples.items()]
    hits = {name: [ns / HITS for ns in added(samples, name, "untraced")] for name in samples if name != "untraced"}
    figures += [Figure.of(f"{prefix}_{name}_hit_ns", values) for name, values in hits.items()]
    for name in ("counting", "keeping_all"):
        quotients = ratios(hits[name], hits["empty"])
        if quotients:
            figures.append(Figure.of(f"{prefix}_{name}_to_empty_ratio", quotients, AIM_RATIO))
    return figures


def _cpu_ns_a_request(qemu: FakeQemu) -> float:
    answer = qemu.command(f"write {REQUESTS} 4096 32")
    return answer.cpu_ns / answer.requests


def _by_handler(variant: Variant, prefix: str, repetitions: int) -> list[Figure]:
    """By the kernel's run-time statistics; on the route that has a program for each function."""
    samples: Samples = defaultdict(list)
    with FakeQemu(variant) as qemu, run_times_counted():
        for _ in range(repetitions):
            for mode in (_empty, _ours(COUNTS_ONLY, PERF)):
                with mode(qemu):
                    _cpu_ns_a_request(qemu)
                    for name, ns in ns_a_run(own_run_times()).items():
                        samples[name].append(ns)
    return [Figure.of(f"{prefix}_run_{name}_ns", samples[name]) for name in ("empty", *HANDLERS) if samples[name]]


def ns_a_run(times: dict[str, RunTime]) -> dict[str, float]:
    """Mean run time of the hot handlers and of the empty program, by name."""
    wanted = {name[:_NAME_BYTES]: name for name in ("empty", *HANDLERS)}
    return {wanted[name]: time.ns / time.runs for name, time in times.items() if name in wanted and time.runs}
