# SPDX-License-Identifier: Apache-2.0
"""How many hits the counters account for."""

from otel_qemu.events import ADDITIONAL
from tests.bpf.machine import Machine


def counted_hits(machine: Machine) -> int:
    """Return the number of hits by the counters of which each hit adds to exactly one."""
    return sum(value for name, value in machine.counters().items() if name not in ADDITIONAL)
