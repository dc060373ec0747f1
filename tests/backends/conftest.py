"""
One Jaeger for the tests of a module, and a name of its own for each test's spans.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from .jaeger import BackendMissing, Jaeger, cache_folder, install


@pytest.fixture(scope="session")
def binary(request: pytest.FixtureRequest) -> Path:
    """
    The executable. Where it cannot be had its tests are skipped, and fail with --require=backends.
    """
    try:
        return install(cache_folder(), print)
    except BackendMissing as missing:
        if "backends" in (request.config.getoption("--require", default=None) or ()):
            raise
        pytest.skip(f"{missing} (--require=backends makes this a failure)")


@pytest.fixture(scope="module")
def jaeger(binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jaeger]:
    with Jaeger.start(binary, tmp_path_factory.mktemp("jaeger")) as jaeger:
        yield jaeger


@pytest.fixture
def service(request: pytest.FixtureRequest) -> str:
    return str(request.node.name)
