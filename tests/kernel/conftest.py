# SPDX-License-Identifier: Apache-2.0
"""A fake QEMU of each layout with a tracer on it, shared by the tests of a file; skips where nothing can be traced."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from tests.kernel.fake.build import VARIANTS, Variant
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing


@pytest.fixture(scope="session", autouse=True)
def _possible_here() -> None:
    """Skip unless this is root with bcc, which probes need."""
    if os.geteuid() != 0:
        pytest.skip("uprobes are attached as root")
    if find_spec("bcc") is None:
        pytest.skip("no Python module bcc: install python3-bpfcc")


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: variant.name)
def variant(request: pytest.FixtureRequest) -> Variant:
    """Each layout in turn."""
    chosen: Variant = request.param
    return chosen


@pytest.fixture(scope="module")
def shared_qemu(variant: Variant) -> Iterator[FakeQemu]:
    with FakeQemu(variant) as qemu:
        yield qemu


@pytest.fixture(scope="module")
def shared_tracing(shared_qemu: FakeQemu) -> Iterator[Tracing]:
    with Tracing(shared_qemu) as tracing:
        yield tracing


@pytest.fixture
def tracing(shared_tracing: Tracing) -> Tracing:
    """A tracer with an empty ring and its counters at zero."""
    shared_tracing.counted()
    shared_tracing.records()
    return shared_tracing
