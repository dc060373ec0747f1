# SPDX-License-Identifier: Apache-2.0
"""ELF files: the binaries of this machine, small ones of every make, and what is no ELF file at all."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otel_qemu.errors import BadInput
from otel_qemu.probe import machine_code
from otel_qemu.probe.elf import Binary, open_binary
from otel_qemu.probe.sites import sites
from tests.support.builders import compiled
from tests.support.real_binaries import BLOCK_RBD, LIBRBD, QEMU, file_offset, nm, run

CALLER = """
long rbd_aio_get_return_value(void *c);
void rbd_aio_release(void *c);
struct task { void *co; long ret; };
void scsi_req_retry(char *req) { req[0x172] = 1; }
void callback(void *c, struct task *task) { task->ret = rbd_aio_get_return_value(c); rbd_aio_release(c); }
int main(void) { return 0; }
"""


class TestThisMachine:
    """The installed QEMU and librbd, with binutils as the witness."""

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            *((QEMU, name) for name in ("scsi_req_enqueue", "scsi_req_complete", "scsi_req_retry")),
            *((LIBRBD, name) for name in ("rbd_aio_readv", "rbd_aio_release", "rbd_aio_flush")),
        ],
    )
    def test_functions_lie_where_binutils_says(self, path: str, name: str) -> None:
        """Exported functions of stripped binaries, by file offset."""
        with open_binary(path) as binary:
            function = binary.function(name)
        assert function is not None
        assert (function.name, function.table) == (name, ".dynsym")
        assert function.offset == file_offset(path, nm(path, "-D")[name])
        assert function.size > 0

    @pytest.mark.parametrize("path", [QEMU, LIBRBD, BLOCK_RBD])
    def test_the_build_id_is_that_of_binutils(self, path: str) -> None:
        """The name by which debug information is found."""
        with open_binary(path) as binary:
            assert f"Build ID: {binary.build_id}\n" in run("readelf", "-n", path)

    def test_what_a_binary_lacks_is_none(self) -> None:
        """Imports and static functions of a stripped file are not functions of it."""
        with open_binary(BLOCK_RBD) as binary:
            assert binary.function("rbd_aio_release") is None
            assert binary.function("qemu_rbd_completion_cb") is None
            assert binary.function("") is None

    def test_qemu_tells_its_version(self) -> None:
        """As `qemu-system-x86_64 --version` does; a text that is not there is empty."""
        with open_binary(QEMU) as binary:
            version = binary.text_after(b"QEMU emulator version ")
            assert binary.text_after(b"no such text in any binary") == ""
        assert f"QEMU emulator version {version.partition('%')[0]}".strip() in run(QEMU, "--version")


class TestSmall:
    """One small library, linked in many ways."""

    @pytest.mark.parametrize(
        "options", [(), ("-fcf-protection",), ("-Wl,-z,lazy",), ("-Wl,-z,now", "-fcf-protection"), ("-Wl,-z,ibtplt",)]
    )
    def test_finds_calls_through_the_plt(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        """Plain and endbr64 entries, bound at once or lazily: the offset just behind the call."""
        path = compiled(tmp_path, CALLER, "-shared", "-fPIC", *options)
        with open_binary(str(path)) as binary:
            (behind,) = binary.calls_to("rbd_aio_get_return_value")
            callback = binary.function("callback")
            assert callback is not None
            assert callback.offset < behind <= callback.offset + callback.size
            assert binary.code(behind - 5, 1) == b"\xe8"

    def test_a_call_without_plt_is_not_found(self, tmp_path: Path) -> None:
        """-fno-plt calls through the GOT: no direct call, and so no layout."""
        path = compiled(tmp_path, CALLER, "-shared", "-fPIC", "-fno-plt")
        with open_binary(str(path)) as binary:
            assert list(binary.calls_to("rbd_aio_get_return_value")) == []
            assert machine_code.rbd_task(binary) == []

    def test_a_function_that_is_not_imported_has_no_calls(self, tmp_path: Path) -> None:
        """A LookupError that names the file and the function."""
        with open_binary(str(compiled(tmp_path, CALLER, "-shared", "-fPIC"))) as binary:
            with pytest.raises(LookupError, match="does not import nothing"):
                list(binary.calls_to("nothing"))

    @pytest.mark.parametrize(
        ("options", "strip", "table"),
        [
            (("-shared", "-fPIC"), True, ".dynsym"),
            (("-shared", "-fPIC", "-Wl,--hash-style=sysv"), True, ".dynsym"),
            (("-shared", "-fPIC", "-Wl,--hash-style=both"), True, ".dynsym"),
            (("-shared", "-fPIC", "-fvisibility=hidden"), False, ".symtab"),
            (("-shared", "-fPIC", "-fvisibility=hidden"), True, None),
        ],
        ids=["stripped", "sysv hash", "both hashes", "only symtab", "nothing"],
    )
    def test_symbol_tables(self, tmp_path: Path, options: tuple[str, ...], strip: bool, table: str | None) -> None:
        """Exported names in either hash table, the full table where there is no other, or nothing."""
        path = compiled(tmp_path, CALLER, *options)
        if strip:
            run("strip", path)
        with open_binary(str(path)) as binary:
            function = binary.function("scsi_req_retry")
        assert (function.table if function else None) == table

    def test_addresses_are_not_offsets(self, tmp_path: Path) -> None:
        """An executable linked to a fixed address has its functions at file offsets all the same."""
        path = compiled(
            tmp_path, CALLER, "-no-pie", "-Wl,--unresolved-symbols=ignore-all", "-Wl,-Ttext-segment=0x40000000"
        )
        with open_binary(str(path)) as binary:
            found = binary.function("main")
            assert found is not None
            assert found.offset == file_offset(str(path), nm(str(path))["main"])
            assert 0 < binary.entry_offset < path.stat().st_size


def read_everything(path: str) -> None:
    """All that we ever ask of a binary."""
    with open_binary(path) as binary:
        for ask in questions(binary):
            ask()


def questions(binary: Binary) -> Iterator[Callable[[], object]]:
    yield lambda: binary.build_id
    yield lambda: binary.text_after(b"QEMU emulator version ")
    yield lambda: (sites(binary, "scsi"), sites(binary, "rbd"))
    yield lambda: machine_code.scsi_request(binary)
    yield lambda: machine_code.completion(binary)
    yield lambda: machine_code.rbd_task(binary)


class TestBroken:
    """Files that are not what they should be."""

    @pytest.mark.parametrize("make", ["missing", "directory"])
    def test_what_cannot_be_opened_says_so(self, tmp_path: Path, make: str) -> None:
        """A file that is gone, and a directory."""
        path = tmp_path / "nothing" if make == "missing" else tmp_path
        with pytest.raises(BadInput, match=f"cannot read {path}"):
            read_everything(str(path))

    @pytest.mark.parametrize(
        "data",
        [b"", b"\x7f", b"#!/bin/sh\n", b"\x7fELF", b"\x7fELF" + bytes(60), bytes(4096)],
        ids=["empty", "one byte", "script", "magic", "header of zeros", "zeros"],
    )
    def test_what_is_no_elf_file_says_so(self, tmp_path: Path, data: bytes) -> None:
        """Empty, a script, the magic alone, zeros."""
        path = tmp_path / "file"
        path.write_bytes(data)
        with pytest.raises(BadInput):
            read_everything(str(path))

    def test_another_machine_says_so(self, tmp_path: Path) -> None:
        """A binary for another processor is recognised by its header."""
        data = bytearray(compiled(tmp_path, CALLER, "-shared", "-fPIC").read_bytes())
        data[18] = 183  # EM_AARCH64
        path = tmp_path / "aarch64"
        path.write_bytes(data)
        with pytest.raises(BadInput, match="not an x86-64 binary"):
            read_everything(str(path))

    def test_a_file_that_was_cut_is_bad_input(self, tmp_path: Path) -> None:
        """Cut anywhere, as by an upgrade under way: BadInput, or less is known, and nothing else."""
        data, path = compiled(tmp_path, CALLER, "-shared", "-fPIC").read_bytes(), tmp_path / "cut"
        kinds = set()
        for size in [*range(0, 1024, 61), *range(1024, len(data), 997)]:
            path.write_bytes(data[:size])
            kinds |= raised(path)
        assert kinds <= {BadInput}

    def test_a_file_that_was_spoilt_is_bad_input(self, tmp_path: Path) -> None:
        """Bytes of the header, the program headers and the section headers overwritten: the same."""
        data, path = compiled(tmp_path, CALLER, "-shared", "-fPIC").read_bytes(), tmp_path / "spoilt"
        kinds = set()
        for at in [*range(16, 640, 29), *range(len(data) - 1800, len(data), 53)]:
            path.write_bytes(data[:at] + b"\xff" * 4 + data[at + 4 :])
            kinds |= raised(path)
        assert kinds <= {BadInput}


def raised(path: Path) -> set[type[Exception]]:
    """Kinds of exceptions that reading this file raises."""
    try:
        read_everything(str(path))
    except Exception as error:
        return {type(error)}
    return set()
