# SPDX-License-Identifier: Apache-2.0
"""Layers of tests, and the rule that a layer that was promised may not be skipped."""

import signal
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

HERE = Path(__file__).parent

pytest_plugins = ["tests.lab.fixtures"]


# Started by nohup or by `&` in a script, pytest would hand an ignored SIGINT down to the programs that it tests.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


# How long an example takes is the machine's business: the suite passes beside others, too.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite-goldens", action="store_true", help="write the expected output of tests/replay anew")
    parser.addoption(
        "--require",
        default="",
        metavar="LAYERS",
        help="comma-separated folders of tests/ in which a skipped test counts as failed",
    )


def layer_of(item: pytest.Item) -> str:
    """The folder of tests/ that a test lies in."""
    return item.path.relative_to(HERE).parts[0]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the layer was promised."""
    report = yield
    if report.skipped and layer_of(item) in item.config.getoption("--require").split(","):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"{layer_of(item)} is required here, but: {reason}"
    return report
