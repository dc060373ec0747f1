# SPDX-License-Identifier: Apache-2.0
"""
The same correctness on every QEMU from 5.2 to 11: other suites' QEMU and librbd in roots, throttled and not.

The newest one always runs; the others where their roots are installed, or with OTEL_QEMU_ALL_ROOTS set.
"""

import json
import subprocess
from pathlib import Path
from statistics import median
from typing import cast

import pytest

from otel_qemu.probe.sites import AUDIT_PROBES, PROBES
from tests.lab.correctness import Correctness, Observed
from tests.lab.disk import Disk
from tests.lab.lab import Lab
from tests.lab.rooted_guest import RootedGuest
from tests.lab.roots import PROBE, Root, covered

CHECKOUT = Path(__file__).parents[2]
# At depth 16, a request waits for about 16 / IOPS seconds: 100 ms, and Ceph takes a few, on a busy machine twenty.
IOPS = 150
HOST = "host"
# The machine's own QEMU without limits is what test_counts.py runs.
RUNS = [(HOST, IOPS), *((suite, iops) for suite in covered() for iops in (None, IOPS))]
# Where the tests find the checkout inside a root.
INSIDE = "/srv"


def _run_name(run: tuple[str, int | None]) -> str:
    suite, iops = run
    return f"{suite}-throttled" if iops else suite


@pytest.fixture(scope="module", params=RUNS, ids=_run_name)
def observed(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Observed:
    suite, iops = cast(tuple[str, int | None], request.param)
    name = _run_name((suite, iops))
    disk = Disk(name, size_mib=64, iops=iops)
    return Observed(lab, name, disk, tmp_path_factory.mktemp(name), None if suite == HOST else suite)


class TestVersions(Correctness):
    """Nothing is loosened for any version."""

    def test_the_limits_show_as_wait(self, observed: Observed) -> None:
        """Where the disk has limits, the middle request waits at least three times as long as Ceph takes."""
        (disk,) = observed.guest.disks
        data = [trace for trace in observed.requests if trace["operation"] in ("READ", "WRITE")]
        wait, rbd = (median(trace[part] for trace in data) for part in ("wait_ns", "rbd_ns"))
        assert (wait >= 3 * rbd) == bool(disk.iops)

    def test_disks_have_their_aliases(self, observed: Observed) -> None:
        """A disk's alias is read from any QEMU's memory; a guest that libvirt does not know goes by its process id."""
        rooted = isinstance(observed.guest, RootedGuest)
        for trace in observed.requests:
            guest = f"pid {trace['pid']}" if rooted else observed.guest.name
            assert (trace["domain"], trace["disk"]) == (guest, observed.guest.disks[0].alias)


@pytest.mark.parametrize("suite", [suite for suite in covered() if Root(suite).has(PROBE)])
def test_the_probes_work_with_another_bcc(suite: str, lab: Lab) -> None:
    """bcc 0.31 and 0.37 take the program, audit included, with our few headers; it loads, and attaches in both ways."""
    python = ["env", f"PYTHONPATH={INSIDE}", "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "tests.lab.attach_inside"]
    line = Root.cached(suite, lab.say).command(python, {CHECKOUT: INSIDE})
    done = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["attached"].values()) == {len(PROBES) + len(AUDIT_PROBES)}
