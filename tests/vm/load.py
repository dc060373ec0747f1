# SPDX-License-Identifier: Apache-2.0
"""
Run in a virtual machine: two fake QEMUs flat out on its one CPU, traced; prints what they did and what was counted.

    python -m tests.vm.load SECONDS ROUTE...        ROUTE: uprobe_multi or perf_event; with --audit: ROUTE+audit

Each line of output is a JSON object: first the kernel's, then one a route.
"""

import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.kernel.fake.build import QEMU_7_2
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

FAKE = Path("/fake")
PREEMPTION = Path("/sys/kernel/debug/sched/preempt")
READ_INTERVAL_S = 0.3


def trace(route: str, audit: bool, seconds: int) -> None:
    """Print the answers of two QEMUs after some seconds of work, and every counter that grew meanwhile."""
    started = time.monotonic()
    with ExitStack() as stack:
        qemus = [stack.enter_context(FakeQemu(QEMU_7_2, folder=FAKE)) for _ in range(2)]
        tracing = stack.enter_context(Tracing(*qemus, route=route, audit=audit))
        attached = time.monotonic()
        for qemu in qemus:
            qemu.begin(f"rate 0 {seconds}")
        read = 0
        while not all(qemu.answered for qemu in qemus):
            read += len(tracing.records())
            time.sleep(READ_INTERVAL_S)
        answers = [vars(qemu.answer()) for qemu in qemus]
        read += len(tracing.records())
        report(
            route=route,
            audit=audit,
            attach_s=round(attached - started, 1),
            answers=answers,
            counted=tracing.counted(),
            read=read,
        )  # before tables are emptied, which fails where their keys have been overwritten


def report(**what: Any) -> None:
    """Print one line of output."""
    print(json.dumps(what))


def main(seconds: int, *routes: str) -> None:
    """Trace by each route, one after the other."""
    preemption = PREEMPTION.read_text().strip() if PREEMPTION.exists() else "unknown"
    report(release=os.uname().release, preemption=preemption)
    for route in routes:
        name, _, audit = route.partition("+")
        trace(name, bool(audit), seconds)


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
