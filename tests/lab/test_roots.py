# SPDX-License-Identifier: Apache-2.0
"""Roots that cannot be had: one line that says what to do, and nothing left in the cache."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from tests.lab import roots
from tests.lab.errors import LabError
from tests.lab.lab import Lab
from tests.lab.roots import NEWEST, Root, debian_mirror


@pytest.fixture
def empty_mirror(lab: Lab, tmp_path: Path) -> Iterator[str]:
    """A mirror without any suite, where there can be a lab, so that debootstrap is there."""
    with HTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/debian/"
        server.shutdown()


def test_mirror_without_the_suite(empty_mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror is named, and a half-made root is gone."""
    monkeypatch.setenv("OTEL_QEMU_CACHE", str(tmp_path))
    monkeypatch.setattr(roots, "debian_mirror", lambda: empty_mirror)

    with pytest.raises(LabError, match=f"cannot install the root, {NEWEST} from {empty_mirror}") as failed:
        Root.cached(NEWEST, print)

    assert str(failed.value).count("\n") == 0
    assert list((tmp_path / "roots").iterdir()) == []


def test_machine_without_a_debian_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where apt has no source, that is said; no mirror is made up."""
    configuration = tmp_path / "apt.conf"
    configuration.write_text('Dir::Etc::SourceList "/dev/null";\nDir::Etc::SourceParts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(configuration))

    with pytest.raises(LabError, match="apt knows no Debian archive: run apt-get update"):
        debian_mirror()


def test_root_of_fewer_packages_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root counts as installed only with every package that it should have."""
    monkeypatch.setenv("OTEL_QEMU_CACHE", str(tmp_path))
    root = Root(NEWEST)
    root.folder.mkdir(parents=True)

    (root.folder / roots.STAMP).write_text(" ".join(roots.PACKAGES[NEWEST][1:]))
    assert not root.is_cached()
    (root.folder / roots.STAMP).write_text(" ".join(roots.PACKAGES[NEWEST]))
    assert root.is_cached()


def test_unknown_suite() -> None:
    """The suites there are are named."""
    with pytest.raises(LabError, match="no such suite, potato: one of bullseye, trixie, sid"):
        Root("potato")
