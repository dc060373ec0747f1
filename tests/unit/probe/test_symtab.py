# SPDX-License-Identifier: Apache-2.0
"""Names in a symbol table: which are a function's own, and which are of something made from it."""

import time
from pathlib import Path

import pytest

from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.symbols import open_with_symbols
from otel_qemu.probe.symtab import FunctionTable
from tests.support.builders import compiled
from tests.support.real_binaries import file_offset, nm, run
from tests.support.stripped import DEBUG_FILE, WITH_ID

ASSEMBLER = '.text\n.globl main\n.type main, @function\nmain: ret\n{body}.section .note.GNU-stack,"",@progbits\n'


def assembled(tmp_path: Path, *names: str) -> Path:
    """A program with these functions, each of its own; one with a ``!`` before its name is exported from its unit."""
    body = ""
    for name in names:
        body += f".globl {name[1:]}\n" if name[0] == "!" else ""
        body += f".type {name.lstrip('!')}, @function\n{name.lstrip('!')}: ret\n"
    return compiled(tmp_path, ASSEMBLER.format(body=body), language="assembler")


class TestSuffixes:
    """Names that compilers have added to."""

    @pytest.mark.parametrize(
        ("present", "named"),
        [
            (["wanted"], "wanted"),
            (["!wanted", "wanted.lto_priv.0"], "wanted"),
            (["!wanted", "wanted.constprop.0"], "wanted"),
            (["wanted.lto_priv.0"], "wanted.lto_priv.0"),
            (["wanted.lto_priv.123", "wanted.cold"], "wanted.lto_priv.123"),
            (["wanted.llvm.14723402934829"], "wanted.llvm.14723402934829"),
            (["wanted.llvm.1", "wanted.__part.1"], "wanted.llvm.1"),
            (["prefix_wanted", "wanted_suffix", "wanted2"], None),
            *(
                ([f"wanted.{suffix}"], None)
                for suffix in (
                    *("constprop.0", "isra.0", "part.0", "cold", "cold.1", "__part.1", "lto_priv", "llvm.", "llvm.1a"),
                    *(
                        "isra.0.lto_priv.0",
                        "lto_priv.0.isra.0",
                        "lto_priv.0.constprop.1",
                        "lto_priv.0.cold",
                        "localalias",
                    ),
                )
            ),
        ],
        ids=str,
    )
    def test_what_may_follow_a_name(self, tmp_path: Path, present: list[str], named: str | None) -> None:
        """A renaming of the same function may; a clone, a part and another name may not."""
        path = assembled(tmp_path, *present)
        with open_binary(str(path)) as binary:
            function = binary.function("wanted")
            problems = binary.problems
        assert (function.offset if function else None) == (named and file_offset(str(path), nm(str(path))[named]))
        assert problems == []

    @pytest.mark.parametrize(
        "present",
        [
            ["wanted.lto_priv.0", "wanted.lto_priv.1"],
            ["wanted", "wanted.lto_priv.0"],
            ["wanted.llvm.1", "wanted.llvm.2"],
        ],
        ids=str,
    )
    def test_two_places_are_ambiguous(self, tmp_path: Path, present: list[str]) -> None:
        """Local functions of one name: none is used, and a message says so once."""
        path = assembled(tmp_path, *present)
        with open_binary(str(path)) as binary:
            assert binary.function("wanted") is None
            assert binary.function("wanted") is None
            assert binary.problems == [f"{', '.join(present)} is not used: .symtab of {path} has it at 2 addresses"]

    def test_what_gcc_makes_of_a_static_function(self, tmp_path: Path) -> None:
        """Called from two partitions of an LTO build, it gets a suffix, and is found."""
        source = """
        static __attribute__((noipa)) int wanted(int *p) { return *p + 1; }
        __attribute__((noipa)) int other(int *p) { return wanted(p); }
        int main(int argc, char **argv) { return wanted(&argc) + other(&argc); }
        """
        path = str(compiled(tmp_path, source, "-flto=1", "-flto-partition=max"))
        assert "wanted.lto_priv.0" in nm(path)
        with open_binary(path) as binary:
            function = binary.function("wanted")
        assert function is not None
        assert function.offset == file_offset(path, nm(path)["wanted.lto_priv.0"])

    def test_two_names_of_one_place_are_not(self, tmp_path: Path) -> None:
        """An alias is the same function."""
        body = "".join(f".set {name}, main\n.type {name}, @function\n" for name in ("wanted", "wanted.lto_priv.0"))
        path = compiled(tmp_path, ASSEMBLER.format(body=body), language="assembler")
        with open_binary(str(path)) as binary:
            function, main = binary.function("wanted"), binary.function("main")
            assert binary.problems == []
        assert function is not None
        assert main is not None
        assert function.offset == main.offset

    def test_ambiguous_in_a_debug_file(self, tmp_path: Path) -> None:
        """The problem names the source."""
        body = "wanted.lto_priv.0: ret\nwanted.lto_priv.1: ret\n.type wanted.lto_priv.0, @function\n"
        body += ".type wanted.lto_priv.1, @function\n"
        path = compiled(tmp_path, ASSEMBLER.format(body=body), WITH_ID, language="assembler")
        debug = tmp_path / DEBUG_FILE
        debug.parent.mkdir(parents=True)
        run("objcopy", "--only-keep-debug", path, debug)
        run("strip", path)
        with open_with_symbols(str(path), ["wanted"], [tmp_path]) as binary:
            assert binary.function("wanted") is None
            assert "not used: debug file of" in binary.problems[0]

    def test_data_and_resolvers_are_no_functions(self, tmp_path: Path) -> None:
        """A variable of the name, an import, and an indirect function, whose symbol is at its resolver."""
        source = (
            "int wanted = 1; static int f(void) { return 1; } static void *r(void) { return f; }"
            'int chosen(void) __attribute__((ifunc("r"))); extern void abort(void);'
            "int main(void) { if (wanted == 2) abort(); return chosen(); }"
        )
        path = compiled(tmp_path, source, "-rdynamic")
        with open_binary(str(path)) as binary:
            assert [binary.function(name) for name in ("wanted", "chosen", "abort", "")] == [None] * 4

    def test_names_that_share_their_ends(self) -> None:
        """Linkers put `wanted` into the end of `most_wanted`; and a longer name may hold the bytes twice."""
        strings = b"\0most_wanted\0wantedwanted\0wanted.llvm.1\0"
        entry = [
            at.to_bytes(4, "little") + bytes([0x12, 0, 1, 0]) + at.to_bytes(8, "little") + bytes(8) for at in (6, 26)
        ]
        found = FunctionTable(strings, b"".join(entry)).named("wanted")
        assert [(symbol.name, symbol.address) for symbol in found] == [("wanted", 6)]

    def test_many_symbols_are_searched_at_once(self) -> None:
        """A table as large as QEMU's is no burden: to search it takes less time than to write it, symbol by symbol."""
        begin = time.process_time()
        names = [b"function_%d" % number for number in range(100_000)]
        starts, at = [], 1
        for name in names:
            starts.append(at)
            at += len(name) + 1
        entry = b"".join(
            s.to_bytes(4, "little") + bytes([0x12, 0, 1, 0]) + s.to_bytes(8, "little") + bytes(8) for s in starts
        )
        written = time.process_time()
        (found,) = FunctionTable(b"\0" + b"\0".join(names) + b"\0", entry).named("function_99999")
        assert time.process_time() - written < written - begin
        assert found.address == starts[-1]
