"""Debug files from a server that the user has set: asked last, once, and within bounds."""

import socket
from pathlib import Path

import pytest

from otel_qemu.probe import debuginfod
from tests.unit.stripped import BUILD_ID, URL_PATH, Debuginfod, Stripped


class TestDebuginfod:
    """The server that the user has set."""

    def test_it_is_asked_last_and_once(self, stripped: Stripped, server: type[Debuginfod], tmp_path: Path) -> None:
        """What it has is kept, in the layout of elfutils' cache."""
        server.files[URL_PATH] = stripped.debug.read_bytes()
        for _ in range(2):
            function, problems = stripped.find()
            assert function is not None
            assert (function.offset, function.table) == (stripped.offsets["wanted"], "debuginfod")
            assert problems == []
        assert server.asked == [URL_PATH]
        cached = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert cached == [tmp_path / "cache" / BUILD_ID / "debuginfo"]
        assert cached[0].read_bytes() == stripped.debug.read_bytes()

    def test_it_is_not_asked_unless_it_is_set(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No variable, an empty one, or no address of the web in it."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        for value in ("", "  ", f"file://{fixed.debug.parent} ima:enforcing"):
            monkeypatch.setenv("DEBUGINFOD_URLS", value)
            assert fixed.find() == (None, [])
        monkeypatch.delenv("DEBUGINFOD_URLS")
        assert fixed.find() == (None, [])
        assert server.asked == []

    def test_a_server_that_has_nothing_is_a_problem(
        self, fixed: Stripped, server: type[Debuginfod], tmp_path: Path
    ) -> None:
        """Said for every process that runs the binary, but asked once."""
        for _ in range(2):
            function, problems = fixed.find()
            assert function is None
            assert len(problems) == 1
            assert "404" in problems[0]
        assert server.asked == [URL_PATH]
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]

    def test_it_is_asked_again_later(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server may get what it did not have."""
        monkeypatch.setattr(debuginfod, "_RETRY_SECONDS", 0)
        assert fixed.find()[0] is None
        server.files[URL_PATH] = fixed.debug.read_bytes()
        assert fixed.find()[0] is not None

    @pytest.mark.parametrize("urls", ["http://127.0.0.1:1", "http://[", "http://127.0.0.1:port"])
    def test_a_server_that_cannot_be_reached_is_a_problem(
        self, fixed: Stripped, monkeypatch: pytest.MonkeyPatch, urls: str
    ) -> None:
        """Nobody there, or what is no address."""
        monkeypatch.setenv("DEBUGINFOD_URLS", urls)
        function, problems = fixed.find()
        assert function is None
        assert len(problems) == 1
        assert urls in problems[0]

    def test_the_next_server_is_asked(
        self, fixed: Stripped, server: type[Debuginfod], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One that does not answer is no problem where another does."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:1 {debuginfod.urls()[0]}")
        function, problems = fixed.find()
        assert function is not None
        assert problems == []

    @pytest.mark.parametrize("answer", ["cut", "another", "empty"])
    def test_a_wrong_answer_is_not_kept(
        self, fixed: Stripped, server: type[Debuginfod], tmp_path: Path, answer: str
    ) -> None:
        """Half a file, another build's, or nothing."""
        data = fixed.debug.read_bytes()
        wrong = {"cut": data[: len(data) // 2], "another": data.replace(bytes.fromhex("abcdef"), b"abc"), "empty": b""}
        server.files[URL_PATH] = wrong[answer]
        function, problems = fixed.find()
        assert function is None
        assert len(problems) == 1
        assert "/debuginfo" in problems[0]
        assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]

    @pytest.mark.parametrize("content", [b"", b"damaged"], ids=["elfutils has found none", "damaged"])
    def test_a_bad_file_in_the_cache_is_replaced(
        self, fixed: Stripped, server: type[Debuginfod], tmp_path: Path, content: bytes
    ) -> None:
        """By what the server has now."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        cached = tmp_path / "cache" / BUILD_ID / "debuginfo"
        cached.parent.mkdir(parents=True)
        cached.write_bytes(content)
        assert fixed.find()[0] is not None
        assert cached.read_bytes() == server.files[URL_PATH]

    @pytest.mark.parametrize(
        ("limit", "value", "why"),
        [("_LARGEST_BYTES", 1000, "larger than 1,000 bytes"), ("_SECONDS", -1.0, "takes longer")],
    )
    def test_an_answer_has_bounds(
        self,
        fixed: Stripped,
        server: type[Debuginfod],
        monkeypatch: pytest.MonkeyPatch,
        limit: str,
        value: float,
        why: str,
    ) -> None:
        """In size and in time."""
        server.files[URL_PATH] = fixed.debug.read_bytes()
        monkeypatch.setattr(debuginfod, limit, value)
        function, problems = fixed.find()
        assert function is None
        assert why in problems[0]

    def test_a_server_that_says_nothing_is_given_up(self, fixed: Stripped, monkeypatch: pytest.MonkeyPatch) -> None:
        """It accepts, and no answer comes."""
        monkeypatch.setattr(debuginfod, "_SECONDS_WITHOUT_DATA", 0.1)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("DEBUGINFOD_URLS", f"http://127.0.0.1:{silent.getsockname()[1]}")
            function, problems = fixed.find()
        assert function is None
        assert "timed out" in problems[0]

    def test_a_cache_that_cannot_be_written_is_a_problem(
        self, fixed: Stripped, server: type[Debuginfod], tmp_path: Path
    ) -> None:
        """A file stands where the directory should be."""
        (tmp_path / "cache").write_bytes(b"")
        function, problems = fixed.find()
        assert function is None
        assert "cache" in problems[0]

    @pytest.mark.parametrize(
        ("variables", "path"),
        [
            ({"DEBUGINFOD_CACHE_PATH": "/c", "XDG_CACHE_HOME": "/x"}, "/c"),
            ({"XDG_CACHE_HOME": "/x"}, "/x/otel-qemu/debuginfod"),
            ({"HOME": "/h"}, "/h/.cache/otel-qemu/debuginfod"),
        ],
    )
    def test_where_the_cache_is(self, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], path: str) -> None:
        """elfutils' own variable, else the user's cache directory."""
        for name in ("DEBUGINFOD_CACHE_PATH", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert debuginfod._cache() == Path(path)
