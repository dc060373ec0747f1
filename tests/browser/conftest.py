# SPDX-License-Identifier: Apache-2.0
"""
A browser for the tests of this folder, and a Jaeger whose page it opens.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.backends.build import cache_folder
from tests.backends.conftest import binary, service
from tests.backends.jaeger import Jaeger
from tests.backends.ui import UiMissing, fetch_ui

from .chromium import Chromium

__all__ = ["binary", "service"]


@pytest.fixture(scope="session")
def page(binary: Path) -> Path:
    """
    The folder of Jaeger's page. Where it cannot be had its tests are skipped, and fail with --require=browser.
    """
    try:
        return fetch_ui(cache_folder())
    except UiMissing as missing:
        pytest.skip(f"{missing} (--require=browser makes this a failure)")


@pytest.fixture(scope="session")
def jaeger(binary: Path, page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with Jaeger.start(binary, tmp_path_factory.mktemp("jaeger"), page) as jaeger:
        yield jaeger


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    if not shutil.which("chromedriver"):
        pytest.skip("no chromedriver: apt-get install chromium chromium-driver fonts-dejavu-core")
    with Chromium.start(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
