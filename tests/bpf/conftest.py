# SPDX-License-Identifier: Apache-2.0
"""A fake QEMU for each test, in the layout of one version or of all."""

import pytest

from tests.bpf.layouts import LAYOUTS
from tests.bpf.library import load
from tests.bpf.machine import Machine


@pytest.fixture(scope="session", autouse=True)
def _program() -> None:
    """Compile before the first test: a program that does not compile is tried once, not for every test."""
    load()


@pytest.fixture
def machine() -> Machine:
    """A QEMU 7.2."""
    return Machine()


@pytest.fixture(params=LAYOUTS)
def any_machine(request: pytest.FixtureRequest) -> Machine:
    """A QEMU of each layout in turn."""
    return Machine(LAYOUTS[request.param])
