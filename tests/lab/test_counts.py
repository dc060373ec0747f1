# SPDX-License-Identifier: Apache-2.0
"""
A guest's requests are known one by one; what we say of them must be equal to that, to the guest's and to QEMU's counts.
"""

import pytest

from tests.lab.correctness import Correctness, Observed
from tests.lab.disk import Disk
from tests.lab.lab import Lab

DISK = Disk("counted", size_mib=64)


@pytest.fixture(scope="module")
def observed(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    return Observed(lab, "counted", DISK, tmp_path_factory.mktemp("counted"))


class TestCounts(Correctness):
    """The machine's own QEMU, as libvirt starts it."""

    def test_names_come_from_libvirt(self, observed: Observed) -> None:
        """Domain, disk alias and image are libvirt's, not ids."""
        for trace in observed.requests:
            assert (trace["domain"], trace["disk"]) == ("counted", DISK.alias)
        assert {child["image"] for child in observed.calls} == {"rbd/counted"}
