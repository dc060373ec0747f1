# SPDX-License-Identifier: Apache-2.0
"""The invariant of the ledger: what was produced is sent, lost or waiting."""

from otel_qemu.export.delivery.fates import Stats


def is_conserved(stats: Stats) -> bool:
    """No count is below 0: nothing came out of a fate that it did not have."""
    return min(map(min, stats.by_fate.values())) >= 0
