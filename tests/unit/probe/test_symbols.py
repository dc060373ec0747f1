# SPDX-License-Identifier: Apache-2.0
"""Where the names of a stripped binary's functions come from; binutils makes the files, and `nm` is the witness."""

import lzma
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.probe.elf import Function
from otel_qemu.probe.inspection import Inspector
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.symbols import open_with_symbols
from tests.support.builders import compiled
from tests.support.real_binaries import run
from tests.support.stripped import PIE, SOURCE, URL_PATH, WITH_ID, Debuginfod, Stripped


class TestSources:
    """Each place, and their order."""

    def test_its_own_table_comes_first(self, stripped: Stripped) -> None:
        """A binary that was not stripped needs no other file."""
        stripped.install()
        shutil.copy(stripped.whole, stripped.path)
        function, problems = stripped.find()
        assert function == Function("wanted", stripped.offsets["wanted"], function.size if function else 0, ".symtab")
        assert problems == []

    def test_mini_debug_info(self, stripped: Stripped) -> None:
        """.gnu_debugdata names functions at their place in the binary that it is part of, before any debug file."""
        stripped.embed(stripped.mini())
        stripped.install()
        for name in ("wanted", "other"):
            function, problems = stripped.find(name)
            assert function is not None
            assert (function.offset, function.table) == (stripped.offsets[name], ".gnu_debugdata")
            assert function.size > 0
            assert problems == []

    def test_debug_file(self, stripped: Stripped) -> None:
        """One made by objcopy --only-keep-debug, whose sections of code have no contents."""
        lines = run("readelf", "-SW", stripped.debug).splitlines()
        assert any(" .text " in line and " NOBITS " in line for line in lines)
        stripped.install()
        for name in ("wanted", "other"):
            function, problems = stripped.find(name)
            assert function is not None
            assert (function.offset, function.table) == (stripped.offsets[name], "debug file")
            assert problems == []

    def test_the_process_has_its_own_debug_files(self, fixed: Stripped, tmp_path: Path) -> None:
        """Its root is looked into before ours, which does where it has none."""
        path = fixed.install()
        ours = tmp_path / "ours"
        fixed.install(ours)
        path.write_bytes(b"damaged")
        function, problems = fixed.find(roots=(fixed.root, ours))
        assert function is not None
        assert len(problems) == 1
        assert str(path) in problems[0]
        path.unlink()
        assert fixed.find(roots=(fixed.root, ours)) == (function, [])

    def test_with_none_there_is_no_function(self, stripped: Stripped) -> None:
        """No table, no debug file, no server: None, and no problem, as nothing is wrong."""
        assert stripped.find() == (None, [])

    def test_an_exported_function_opens_nothing_else(self, tmp_path: Path, server: type[Debuginfod]) -> None:
        """Where .dynsym has what every build has, what it lacks is not looked for in others, which are damaged here."""
        stripped = Stripped(tmp_path, *PIE, "-rdynamic")
        stripped.install().write_bytes(b"damaged")
        stripped.embed(b"damaged")
        function, problems = stripped.find()
        assert function is not None
        assert (function.table, problems) == (".dynsym", [])
        assert stripped.find("no_such_function") == (None, [])
        assert server.asked == []

    def test_sources_are_opened_until_the_required_are_found(self, fixed: Stripped, server: type[Debuginfod]) -> None:
        """A function that no build must have costs no look into the next place."""
        fixed.install()
        assert fixed.find("no_such_function") == (None, [])
        assert server.asked == []

    def test_each_source_is_read_once(self, fixed: Stripped) -> None:
        """Several functions share what was read, though the file is damaged since."""
        path = fixed.install()
        with open_with_symbols(str(fixed.path), ["wanted"], [fixed.root]) as binary:
            assert binary.function("other") is not None
            path.write_bytes(b"damaged")
            assert [binary.function(name) is not None for name in ("wanted", "main")] == [True] * 2
            assert binary.problems == []


class TestDamage:
    """Files that are not what they should be: one problem, and no symbols from there."""

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda data: data[: len(data) // 2],
            lambda data: b"",
            lambda data: data[:-40] + bytes(40),
            lambda data: b"?" * 99,
        ],
        ids=["cut", "empty", "spoilt", "no xz"],
    )
    def test_mini_debug_info_that_is_damaged(self, fixed: Stripped, spoil: Callable[[bytes], bytes]) -> None:
        """The next place is looked into; an empty section is no problem at all."""
        data = spoil(fixed.mini())
        fixed.embed(data)
        fixed.install()
        function, problems = fixed.find()
        assert function is not None
        assert function.table == "debug file"
        assert len(problems) == bool(data)
        assert all("(.gnu_debugdata)" in problem for problem in problems)

    @pytest.mark.parametrize("data", [b"", b"#!/bin/sh", b"\x7fELF" + bytes(60)], ids=["empty", "script", "zeros"])
    def test_mini_debug_info_that_is_no_elf_file(self, fixed: Stripped, data: bytes) -> None:
        """Well compressed, and nothing that can be read."""
        fixed.embed(lzma.compress(data))
        function, problems = fixed.find()
        assert function is None
        assert len(problems) == 1

    def test_mini_debug_info_that_is_a_bomb(self, fixed: Stripped) -> None:
        """What unpacks to more than any binary has is left alone."""
        fixed.embed(lzma.compress(bytes((1 << 26) + 1), preset=0))
        function, problems = fixed.find()
        assert function is None
        assert "larger than 67,108,864 bytes" in problems[0]

    def test_a_debug_file_of_another_build(self, fixed: Stripped) -> None:
        """Told apart by the build id in it, not by its name."""
        path = fixed.install()
        compiled(fixed.root, SOURCE, "-Wl,--build-id=0x0123").rename(path)
        function, problems = fixed.find()
        assert function is None
        assert problems == [f"{path} is not used: its build id is 0123, not abcdef0123456789: install that one"]

    def test_a_debug_file_without_build_id(self, fixed: Stripped) -> None:
        """It could be anything's."""
        path = fixed.install()
        compiled(fixed.root, SOURCE, "-Wl,--build-id=none").rename(path)
        function, problems = fixed.find()
        assert function is None
        assert "its build id is missing" in problems[0]

    def test_a_binary_without_build_id_has_no_debug_file(self, tmp_path: Path, server: type[Debuginfod]) -> None:
        """There is no name to ask for."""
        path = compiled(tmp_path, SOURCE, "-Wl,--build-id=none", "-s")
        with open_with_symbols(str(path), ["wanted"], [tmp_path]) as binary:
            assert binary.function("wanted") is None
            assert binary.problems == []
        assert server.asked == []

    def test_a_debug_file_that_was_cut(self, fixed: Stripped) -> None:
        """Anywhere: a problem, or the function at its right place."""
        path = fixed.install()
        data = path.read_bytes()
        for size in range(0, len(data), 499):
            path.write_bytes(data[:size])
            function, problems = fixed.find()
            assert function.offset == fixed.offsets["wanted"] if function else len(problems) == 1

    def test_a_debug_file_that_is_a_pipe_is_not_opened(self, fixed: Stripped) -> None:
        """A container could put one there, and to open it would wait for ever."""
        path = fixed.install()
        path.unlink()
        os.mkfifo(path)
        assert fixed.find() == (None, [])

    def test_a_symbol_outside_the_code_is_not_used(self, fixed: Stripped) -> None:
        """A debug file may say any address; only the binary's own code counts."""
        path = fixed.install()
        moved = compiled(fixed.root, SOURCE, WITH_ID, "-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x70000000")
        moved.rename(path)
        assert fixed.find() == (None, [])

    def test_the_binary_itself_must_be_readable(self, tmp_path: Path) -> None:
        """A file that is gone is the caller's problem."""
        with pytest.raises(BadInput, match="cannot read"), open_with_symbols(str(tmp_path / "gone"), []):
            pass


SCSI = """
__attribute__((noinline)) void scsi_req_enqueue(char *req) { req[1]++; }
__attribute__((noinline)) void scsi_req_complete(char *req, int status) { req[2] = status; }
__attribute__((noinline)) void scsi_req_retry(char *req) { req[0x172] = 1; }
char request[512];
int main(int argc, char **argv) {
    scsi_req_enqueue(request); scsi_req_complete(request, argc); scsi_req_retry(request); return 0; }
"""


def process(path: Path) -> QemuProcess:
    """A process, no longer there, that ran this file."""
    return QemuProcess(0, 0, MappedFile("/usr/bin/kvm", str(path), 0, 0), None, None, None)


class TestInspection:
    """What a QEMU without exported functions comes to."""

    def test_scsi_is_traced_by_debug_symbols(self, tmp_path: Path, server: type[Debuginfod]) -> None:
        """The sites and the layout are found, and their source is reported."""
        path = compiled(tmp_path, SCSI, WITH_ID)
        server.files[URL_PATH] = path.read_bytes()
        run("strip", path)
        found = Inspector().inspect(process(path))
        assert found.symbols == {"scsi": "debuginfod", "rbd": None}
        assert found.layout.scsi_known
        assert {site.probe.function for site in found.sites["scsi"]} == {
            *("scsi_req_enqueue", "scsi_req_complete", "scsi_req_retry")
        }

    def test_without_symbols_scsi_is_not_traced(self, tmp_path: Path) -> None:
        """Said in one sentence with what to install."""
        path = compiled(tmp_path, SCSI, WITH_ID, "-s")
        found = Inspector().inspect(process(path))
        assert found.symbols == {"scsi": None, "rbd": None}
        assert [problem for problem in found.problems if "SCSI" in problem] == [
            "SCSI is not traced: /usr/bin/kvm has no symbol scsi_req_complete, scsi_req_enqueue; "
            "install its debug symbols"
        ]
