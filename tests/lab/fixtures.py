# SPDX-License-Identifier: Apache-2.0
"""
pytest's way to the lab: the fixture `lab`, one for the whole session.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.lab import built_qemu, roots

if TYPE_CHECKING:
    from tests.lab.lab import Lab


# Its tests are inherited by several modules, and shall explain their failures as those of a test module do.
pytest.register_assert_rewrite("tests.lab.correctness")


def pytest_report_header() -> str:
    """Which versions of QEMU the lab's tests will run on, since one that is not installed is left out silently."""
    left_out = [suite for suite in roots.PACKAGES if suite not in roots.covered()]
    rest = f"; not installed: {', '.join(left_out)} (OTEL_QEMU_ALL_ROOTS=1 installs)" if left_out else ""
    builds = [name for name in built_qemu.BUILDS if name not in built_qemu.covered_builds()]
    not_built = f"; not built: {', '.join(builds)} ({built_qemu.ASKED_FOR}=1 builds)" if builds else ""
    covered = [*roots.covered(), *built_qemu.covered_builds()]
    return f"lab: this machine's QEMU, and those of {', '.join(covered)}{rest}{not_built}"


@pytest.fixture(scope="session")
def lab_root() -> Path:
    """A folder for a lab; not pytest's own, which QEMU's user may not enter."""
    return Path(tempfile.gettempdir()) / f"otel-qemu-lab-{os.getpid()}"


@pytest.fixture(scope="session")
def lab(lab_root: Path) -> Iterator[Lab]:
    """A running lab; skips, and says what is missing, where there cannot be one."""
    pytest.importorskip("libvirt", reason="Python module missing, libvirt: apt-get install python3-libvirt")
    # Imported here, since collecting the other layers' tests must not need libvirt.
    from tests.lab import preflight
    from tests.lab.errors import LabError
    from tests.lab.kernel import cache_folder
    from tests.lab.lab import Lab

    try:
        preflight.check(lab_root, cache_folder())
    except LabError as error:
        pytest.skip(str(error))
    with Lab.up(lab_root) as running:
        yield running
