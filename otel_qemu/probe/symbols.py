# SPDX-License-Identifier: Apache-2.0
"""
Symbols and debug information of a binary, from all places where distributions put them.

The order is: ``.dynsym``, ``.symtab``, ``.gnu_debugdata``, the debug file with the build id, and debuginfod if it is
set.  `probe.elf` reads the first two.  If they lack a function that every build has, the others are opened one by one,
until all such functions are found.
"""

import contextlib
import lzma
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

from otel_qemu.errors import BadInput
from otel_qemu.probe import debuginfod
from otel_qemu.probe.elf import Binary, binary_in_memory, open_binary
from otel_qemu.probe.symtab import FunctionTable

_DEBUG_FILES = "usr/lib/debug/.build-id"
_LARGEST_DEBUG_DATA_BYTES = 1 << 26  # of a QEMU: some 2 MiB
_UNPACKER_BYTES = 1 << 28  # of memory; what `xz -9` has packed takes a quarter of it
_SHORTEST_BUILD_ID = 4  # hex digits: two name the directory


@contextlib.contextmanager
def open_with_symbols(
    path: str, required: Iterable[str], roots: Iterable[Path] = (Path("/"),), client: debuginfod.Client | None = None
) -> Iterator[Binary]:
    """
    Open an ELF file whose `function` looks into every source of symbols.

    Args:
        path: of the file.
        required: functions that every build has.  Only for these another source is opened: a source that has them also
            has the optional ones, if they exist.
        roots: of the file systems with debug files: the process's own before ours.
        client: of debuginfod; None: one that has failed at no file yet.

    Raises:
        BadInput: the file itself cannot be read.  If another file cannot, the reason goes to `Binary.problems`.
    """
    with open_binary(path) as binary:
        elsewhere = _Elsewhere(binary, tuple(required), tuple(roots), client or debuginfod.Client())
        binary.elsewhere, binary.debug_files = elsewhere.tables, elsewhere.debug_files
        yield binary


class _Elsewhere:
    """The symbol tables of a binary beyond ``.dynsym`` and ``.symtab``.  Each is read once, when it is needed."""

    def __init__(
        self, binary: Binary, required: tuple[str, ...], roots: tuple[Path, ...], client: debuginfod.Client
    ) -> None:
        self._binary = binary
        self._required = required
        self._roots = roots
        self._client = client
        self._read: list[tuple[str, FunctionTable]] = []
        self._unread = self._sources()
        self._fetched: list[Path] = []

    def tables(self) -> Iterator[tuple[str, FunctionTable]]:
        """Yield the name of each source and its table, until all required functions are found."""
        yield from self._read
        while self._lacks_some() and (source := next(self._unread, None)):
            name, read = source
            self._read.append((name, self._table(read)))
            yield self._read[-1]

    def debug_files(self) -> Iterator[Path]:
        """
        Yield the files with debug information of this build: the binary itself, then its debug files.

        A file from debuginfod is among them only if it was fetched for its symbols.
        """
        if self._binary.has_debug_information:
            yield Path(self._binary.path)
        for path in (*self._installed(), *self._fetched):
            try:
                with _opened_debug_file(path, self._binary.build_id) as binary:
                    has_some = binary.has_debug_information
            except BadInput as error:
                self._binary.report(str(error))
            else:
                if has_some:
                    yield path

    def _lacks_some(self) -> bool:
        tables = [self._binary.full_table, *(table for _name, table in self._read)]
        return any(
            not self._binary.exported(name) and not any(table.named(name) for table in tables)
            for name in self._required
        )

    def _sources(self) -> Iterator[tuple[str, Callable[[], FunctionTable]]]:
        yield ".gnu_debugdata", partial(_debug_data, self._binary)
        build_id = self._binary.build_id
        for path in self._installed():
            yield "debug file", partial(_debug_file, path, build_id)
        if len(build_id) >= _SHORTEST_BUILD_ID and debuginfod.is_set():
            yield "debuginfod", self._fetch

    def _fetch(self) -> FunctionTable:
        path = self._client.fetched(self._binary.build_id)
        table = _debug_file(path, self._binary.build_id)
        self._fetched.append(path)
        return table

    def _installed(self) -> Iterator[Path]:
        """Yield the installed debug files with this build id."""
        build_id = self._binary.build_id
        if len(build_id) < _SHORTEST_BUILD_ID:
            return
        for root in self._roots:
            path = root / _DEBUG_FILES / build_id[:2] / f"{build_id[2:]}.debug"
            if _is_file(path):
                yield path

    def _table(self, read: Callable[[], FunctionTable]) -> FunctionTable:
        """Read a source.  If it is damaged or missing, it gives an empty table and a problem."""
        try:
            return read()
        except BadInput as error:
            self._binary.report(str(error))
            return FunctionTable()


def _is_file(path: Path) -> bool:
    """Whether the path is a regular file.  A container could have put a pipe there, and opening it would block."""
    try:
        return path.is_file()
    except OSError:
        return False  # we may not enter that root, or its process has ended


def _debug_file(path: Path, build_id: str) -> FunctionTable:
    """
    Return the symbols of a debug file.

    Raises:
        BadInput: the file is damaged, or belongs to another build.
    """
    with _opened_debug_file(path, build_id) as binary:
        return binary.full_table


@contextlib.contextmanager
def _opened_debug_file(path: Path, build_id: str) -> Iterator[Binary]:
    """
    Open a debug file.

    Raises:
        BadInput: the file is damaged, or belongs to another build.
    """
    with open_binary(str(path)) as binary:
        if binary.build_id != build_id:
            other = binary.build_id or "missing"
            raise BadInput(f"{path} is not used: its build id is {other}, not {build_id}: install that one")
        yield binary


def _debug_data(binary: Binary) -> FunctionTable:
    """
    Return the symbols in ``.gnu_debugdata``: an ELF file, compressed with xz, in binaries of Fedora and RHEL.

    Raises:
        BadInput: the section is damaged.
    """
    packed, name = binary.section(".gnu_debugdata"), f"{binary.path} (.gnu_debugdata)"
    if not packed:
        return FunctionTable()
    with binary_in_memory(_unpacked(packed, name), name) as small:
        return small.full_table


def _unpacked(packed: bytes, name: str) -> bytes:
    unpacker = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_UNPACKER_BYTES)
    try:
        data = unpacker.decompress(packed, _LARGEST_DEBUG_DATA_BYTES)
    except lzma.LZMAError as error:
        raise BadInput(f"cannot understand {name}, {error}: is the file damaged?") from error
    if not unpacker.eof:
        raise BadInput(f"cannot understand {name}: it is cut, or larger than {_LARGEST_DEBUG_DATA_BYTES:,} bytes")
    return data
