# SPDX-License-Identifier: Apache-2.0
"""
The same correctness on QEMUs without modules, optimised at link time by gcc and by clang, with a debug file.

They run where such a build is in the cache, or with OTEL_QEMU_BUILD_QEMU set, which builds it: some minutes each.
"""

from typing import cast

import pytest

from otel_qemu.probe.layouts import RBD_TASK, SCSI_REQUEST
from tests.lab.built_qemu import covered_builds
from tests.lab.correctness import Correctness, Observed
from tests.lab.disk import Disk
from tests.lab.lab import Lab


@pytest.fixture(scope="module", params=covered_builds())
def observed(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    build = cast(str, request.param)
    return Observed(lab, build, Disk(build, size_mib=64), tmp_path_factory.mktemp(build), build)


class TestBuilt(Correctness):
    """Nothing is loosened."""

    def test_where_symbols_and_layouts_are_from(self, observed: Observed) -> None:
        """The debug file; machine code agrees in SCSIRequest."""
        found = observed.inspection
        assert found.symbols == {"scsi": "debug file", "rbd": ".dynsym"}
        for struct in (SCSI_REQUEST, RBD_TASK):
            assert found.sources[struct].startswith("debug information (/usr/lib/debug/.build-id/")
        assert "; machine code of scsi_req_" in found.sources[SCSI_REQUEST]
