# SPDX-License-Identifier: Apache-2.0
"""The virtual machines of a run: started at once, one for each CPU that such a machine has to itself."""

import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from tests.vm.archive import write_archive
from tests.vm.kernels import Suite
from tests.vm.machine import Machine, Report

SUITES = (Suite("trixie-backports"),)
"""Each has a kernel that preempts its own code (lazy or full), and gives BPF programs private stacks (6.13 on)."""
WORK_S = 60
LOADS = ("uprobe_multi perf_event", "uprobe_multi+audit")
"""Routes of each machine; the second one compiles a program of its own."""
TIMEOUT_S = 900.0
"""On a machine that does much else; alone, a run takes a quarter of it."""


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Print a line of progress, because this takes minutes."""
    plugins, started = request.config.pluginmanager, time.monotonic()
    terminal, capture = plugins.getplugin("terminalreporter"), plugins.getplugin("capturemanager")

    def line(text: str) -> None:
        """Print one line of a machine's load."""
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(f"vm {time.monotonic() - started:4.0f}s  {text[:120]}")

    return line


@pytest.fixture(scope="session", params=SUITES, ids=lambda suite: suite.name)
def reports(
    request: pytest.FixtureRequest, say: Callable[[str], None], tmp_path_factory: pytest.TempPathFactory
) -> list[Report]:
    """Return the reports of the machines of one kernel."""
    for program in ("qemu-system-x86_64", "busybox"):
        if shutil.which(program) is None:
            pytest.skip(f"program missing, {program}: run tests/run.sh, which installs it")
    suite: Suite = request.param
    kernel = suite.kernel()
    say(f"{kernel.folder.name}: {len(LOADS)} machines, {WORK_S} s of work a route")
    folder = tmp_path_factory.mktemp(suite.name)
    write_archive(archive := folder / "root.cpio")
    deadline = time.monotonic() + TIMEOUT_S
    with ExitStack() as stack:
        machines = []
        for number, load in enumerate(LOADS):
            (own := folder / str(number)).mkdir()
            machines.append(stack.enter_context(Machine(kernel, archive, f"{WORK_S} {load}", own)))
        found = [machine.wait(deadline, say) for machine in machines]
    archive.unlink()
    return found
