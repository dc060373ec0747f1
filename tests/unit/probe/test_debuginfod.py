# SPDX-License-Identifier: Apache-2.0
"""Debug files by elfutils' client from servers that the user has set: asked last, once, and within bounds."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from otel_qemu.probe.debuginfod import Client
from tests.children import child
from tests.support.stripped import URL_PATH, Debuginfod, Stripped

START_SECONDS = 30


def url_of(server: type[Debuginfod]) -> str:
    return os.environ["DEBUGINFOD_URLS"].split()[-1]


@contextlib.contextmanager
def elfutils_server(files: Path) -> Iterator[str]:
    """elfutils' own server for a folder of debug files; its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["debuginfod", "-F", "-p", str(port), "-d", ":memory:", "-t", "1", str(files)]
    with child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        yield f"http://127.0.0.1:{port}"


def test_the_server_of_elfutils(fixed: Stripped, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real one, once it has looked through its folder."""
    fixed.install()
    fixed.client = Client(retry_s=0)
    monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(fixed.path.parent / "real"))
    with elfutils_server(fixed.root) as url:
        monkeypatch.setenv("DEBUGINFOD_URLS", url)
        deadline = time.monotonic() + START_SECONDS
        while fixed.find(roots=(Path("/nowhere"),))[0] is None and time.monotonic() < deadline:
            # The client keeps it in mind, too, that there is nothing yet.
            shutil.rmtree(os.environ["DEBUGINFOD_CACHE_PATH"], ignore_errors=True)
        function, problems = fixed.find(roots=(Path("/nowhere"),))
    assert function is not None
    assert (function.offset, function.table, problems) == (fixed.offsets["wanted"], "debuginfod", [])


class TestServer:
    """One that answers as debuginfod does, and notes what it is asked."""

    def test_it_is_asked_last_and_once(self, stripped: Stripped, server: type[Debuginfod]) -> None:
        """The client keeps what it has."""
        server.files[URL_PATH] = stripped.debug.read_bytes()
        for _ in range(2):
            function, problems = stripped.find()
            assert function is not None
            assert (function.offset, function.table) == (stripped.offsets["wanted"], "debuginfod")
            assert problems == []
        assert server.asked == [URL_PATH]

    def test_it_is_not_asked_unless_it_is_set(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No variable, or an empty one."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        for value in ("", "  "):
            monkeypatch.setenv("DEBUGINFOD_URLS", value)
            assert fixed.find() == (None, [])
        monkeypatch.delenv("DEBUGINFOD_URLS")
        assert fixed.find() == (None, [])
        assert server.asked == []

    def test_one_that_has_nothing_is_a_problem(self, fixed: Stripped, server: type[Debuginfod]) -> None:
        """Reported for every process that runs the binary, but asked once."""
        for _ in range(2):
            function, problems = fixed.find()
            assert function is None
            assert len(problems) == 1
            assert problems[0].startswith("debuginfod gave no debug file for abcdef0123456789: ")
        assert server.asked == [URL_PATH]

    def test_it_is_asked_again_later(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server may get what it did not have; the client waits a while, too, and its cache is another then."""
        fixed.client = Client(retry_s=0)
        assert fixed.find()[0] is None
        server.files[URL_PATH] = fixed.debug.read_bytes()
        monkeypatch.setenv("DEBUGINFOD_CACHE_PATH", str(fixed.path.parent / "another"))
        assert fixed.find()[0] is not None

    def test_the_next_server_is_asked(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that does not answer is no problem where another does."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:1 {url_of(server)}")
        function, problems = fixed.find()
        assert function is not None
        assert problems == []

    @pytest.mark.parametrize("answer", ["cut", "another", "empty"])
    def test_a_wrong_answer_is_a_problem(self, fixed: Stripped, server: type[Debuginfod], answer: str) -> None:
        """Half a file, another build's, or nothing."""
        data = fixed.debug.read_bytes()
        wrong = {"cut": data[: len(data) // 2], "another": data.replace(bytes.fromhex("abcdef"), b"abc"), "empty": b""}
        server.files[URL_PATH] = wrong[answer]
        function, problems = fixed.find()
        assert function is None
        assert len(problems) == 1


class TestNoAnswer:
    """What keeps a debug file from being had is one sentence, and is not asked for again at once."""

    @pytest.mark.parametrize("urls", ["http://127.0.0.1:1", "http://[", "http://127.0.0.1:port"])
    def test_a_server_that_cannot_be_reached(self, fixed: Stripped, monkeypatch: pytest.MonkeyPatch, urls: str) -> None:
        """Nobody there, or what is no address."""
        monkeypatch.setenv("DEBUGINFOD_URLS", urls)
        function, (problem,) = fixed.find()
        assert function is None
        assert problem.startswith("debuginfod gave no debug file for abcdef0123456789: ")

    def test_a_server_that_says_nothing_is_given_up(self, fixed: Stripped, monkeypatch: pytest.MonkeyPatch) -> None:
        """It accepts, and no answer comes: waited for once, though two processes run the binary."""
        fixed.client = Client(timeout_s=0.5)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:{silent.getsockname()[1]}")
            for _ in range(2):
                assert fixed.find() == (None, ["debuginfod gave no debug file for abcdef0123456789 in 0.5 s"])
            silent.settimeout(5)
            silent.accept()[0].close()
            silent.settimeout(0.01)
            with pytest.raises(TimeoutError):
                silent.accept()

    def test_without_the_client_its_package_is_named(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not needed otherwise, and so not always there."""
        monkeypatch.setenv("PATH", "/nowhere")
        assert fixed.find()[1] == [
            "DEBUGINFOD_URLS is set, but there is no debuginfod-find: install the package debuginfod, or unset it"
        ]

    def test_a_cache_that_cannot_be_written(self, fixed: Stripped, server: type[Debuginfod], tmp_path: Path) -> None:
        """A file stands where the folder should be."""
        (tmp_path / "cache").write_bytes(b"")
        server.files[URL_PATH] = fixed.debug.read_bytes()
        function, (problem,) = fixed.find()
        assert function is None
        assert problem.startswith("debuginfod gave no debug file")
