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

if TYPE_CHECKING:
    from tests.lab.lab import Lab


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
