# SPDX-License-Identifier: Apache-2.0
"""The slowest of many requests, whole traces each."""

from collections.abc import Iterable

import numpy as np

from otel_qemu.trace.traces import Traces, durations_ns


def slowest_of(everything: Iterable[Traces], count: int) -> list[Traces]:
    """The slowest requests with their calls, slowest first, one `Traces` each."""
    found: list[Traces] = []
    for traces in everything:
        rows = np.argsort(durations_ns(traces.requests), kind="stable")[::-1][:count]
        found += [traces.only(rows[index : index + 1]) for index in range(len(rows))]
        found.sort(key=lambda one: -int(durations_ns(one.requests)[0]))
        del found[count:]
    return found
