# SPDX-License-Identifier: Apache-2.0
"""A guest's counts, for tests of what is sent of them."""

import pytest

from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S
from tests.support.metering import READ, Kernel


@pytest.fixture
def kernel() -> Kernel:
    """One read of 5 µs."""
    kernel = Kernel(DEFAULT_BOUNDS_S)
    kernel.request(READ, 5_000)
    return kernel
