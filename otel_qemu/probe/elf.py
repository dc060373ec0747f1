# SPDX-License-Identifier: Apache-2.0
"""
ELF files: where functions lie, their code, and the calls to an imported function.

All positions are file offsets, as the kernel's uprobes take them.
"""

import contextlib
import io
import itertools
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashSection, GNUHashSection
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from otel_qemu.errors import BadInput
from otel_qemu.probe.symtab import FunctionTable, Symbol

__all__ = ["Binary", "Function", "binary_in_memory", "open_binary"]

_LARGEST_SECTION_BYTES = 1 << 28  # the string table of a QEMU has a few MiB
_EXECUTABLE = 1  # PF_X


@dataclass(frozen=True)
class Function:
    """A function in a file: its name, offset and size in bytes (0: unknown), and the symbol table that has it."""

    name: str
    offset: int
    size: int
    table: str


class Binary:
    """
    An ELF file, opened for reading; use `open_binary`.

    Attributes:
        path: for error messages.
        elsewhere: returns symbol tables from other places, each with the name of the place (see `probe.symbols`).
        debug_files: returns the files that may have its debug information, itself first (see `probe.symbols`).
        problems: the reasons why symbols or files could not be used; each a sentence.
    """

    def __init__(self, elf: Any, path: str) -> None:
        self._elf = elf
        self.path = path
        self.elsewhere: Callable[[], Iterable[tuple[str, FunctionTable]]] = tuple
        self.debug_files: Callable[[], Iterable[Path]] = tuple
        self.problems: list[str] = []

    @cached_property
    def build_id(self) -> str:
        """The GNU build id in hex; '' if the file has none."""
        section = self._elf.get_section_by_name(".note.gnu.build-id")
        notes = section.iter_notes() if section else ()
        return next((str(note["n_desc"]) for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), "")

    @property
    def entry_offset(self) -> int:
        """File offset of the entry point."""
        return self._offset(self._elf["e_entry"])

    def text_after(self, marker: bytes) -> str:
        """Return the text behind a marker in the read-only data, up to the end of its line; '' if it is missing."""
        section = self._elf.get_section_by_name(".rodata")
        found = re.search(re.escape(marker) + rb"([^\n\0]{1,100})", section.data()) if section else None
        return found[1].decode(errors="replace") if found else ""

    @property
    def has_debug_information(self) -> bool:
        """Whether the file itself has debug information, as a debug file and a binary that was not stripped have."""
        return any(self._elf.get_section_by_name(name) for name in (".debug_info", ".zdebug_info"))

    def section(self, name: str) -> bytes:
        """
        Return the contents of a section; empty if it is missing, or if a debug file has only its header.

        Raises:
            BadInput: the section is larger than any that we use.
        """
        section = self._elf.get_section_by_name(name)
        return self._contents(section) if section else b""

    def function(self, name: str) -> Function | None:
        """Return a defined function by its name: from ``.dynsym``, then ``.symtab``, then the tables elsewhere."""
        return self.exported(name) or self._listed(name)

    def exported(self, name: str) -> Function | None:
        """Return a function that other files can link to."""
        for section in self._hashes:
            symbol = section.get_symbol(name)
            if symbol and symbol["st_shndx"] != "SHN_UNDEF" and symbol["st_info"]["type"] == "STT_FUNC":
                found = Symbol(name, symbol["st_value"], symbol["st_size"], is_local=False)
                return self._only(name, [found], ".dynsym")
        return None

    @cached_property
    def full_table(self) -> FunctionTable:
        """
        The functions of ``.symtab``, also local ones; empty in a stripped file.

        Raises:
            BadInput: the table is larger than any that we use.
        """
        section = self._elf.get_section_by_name(".symtab")
        if not isinstance(section, SymbolTableSection):
            return FunctionTable()
        return FunctionTable(self._contents(section.stringtable), self._contents(section))

    def report(self, problem: str) -> None:
        """Add a problem, if it is new."""
        if problem not in self.problems:
            self.problems.append(problem)

    def code(self, offset: int, size: int) -> bytes:
        """Return `size` bytes of the file at `offset`; fewer at the end of the file."""
        self._elf.stream.seek(offset)
        return bytes(self._elf.stream.read(size))

    def calls_to(self, name: str) -> Iterator[int]:
        """
        Yield the file offset behind each direct ``call`` (e8 rel32) to the PLT entry of an imported function.

        Raises:
            LookupError: the file does not import the function.
        """
        text = self._elf.get_section_by_name(".text")
        code, base, start = text.data(), text["sh_addr"], text["sh_offset"]
        for stub in self._stubs(name):
            at = code.find(b"\xe8")
            while at >= 0:
                if at + 5 <= len(code) and base + at + 5 + struct.unpack_from("<i", code, at + 1)[0] == stub:
                    yield start + at + 5
                at = code.find(b"\xe8", at + 1)

    def _listed(self, name: str) -> Function | None:
        """Return the function from the first table that has the name; later tables are not opened."""
        for table, functions in itertools.chain([(".symtab", self.full_table)], self.elsewhere()):
            if symbols := functions.named(name):
                return self._only(name, symbols, table)
        return None

    def _only(self, name: str, symbols: list[Symbol], table: str) -> Function | None:
        """Return the function that these symbols name; None if they name several functions, or no code."""
        places = {self._code_offset(symbol.address): symbol for symbol in symbols}
        places.pop(None, None)
        if len(places) > 1:
            names = ", ".join(sorted({symbol.name for symbol in symbols}))
            self.report(f"{names} is not used: {table} of {self.path} has it at {len(places)} addresses")
            return None
        return next((Function(name, at, symbol.size, table) for at, symbol in places.items() if at is not None), None)

    def _contents(self, section: Any) -> bytes:
        if section["sh_type"] == "SHT_NOBITS":
            return b""
        if section["sh_size"] > _LARGEST_SECTION_BYTES:
            raise BadInput(f"cannot understand {self.path}, its section {section.name} is too large: is it damaged?")
        return bytes(section.data())

    @cached_property
    def _hashes(self) -> list[Any]:
        """The hash tables of ``.dynsym``; finding and parsing them costs more than looking up a name."""
        return [part for part in self._elf.iter_sections() if isinstance(part, GNUHashSection | ELFHashSection)]

    def _offset(self, address: int) -> int:
        return int(next(iter(self._elf.address_offsets(address))))

    def _code_offset(self, address: int) -> int | None:
        """
        Return the file offset of the code at an address; None if this file has no code there.

        The address may be from a debug file.  This file's program headers are used all the same, because a debug file
        has no code.
        """
        for start, size, offset in self._code_segments:
            if start <= address < start + size:
                return int(address - start + offset)
        return None

    @cached_property
    def _code_segments(self) -> list[tuple[int, int, int]]:
        return [
            (segment["p_vaddr"], segment["p_filesz"], segment["p_offset"])
            for segment in self._elf.iter_segments()
            if segment["p_type"] == "PT_LOAD" and segment["p_flags"] & _EXECUTABLE
        ]

    def _stubs(self, name: str) -> Iterator[int]:
        """Yield addresses of PLT entries that jump through the import's GOT slot: [endbr64], ``jmp *slot(%rip)``."""
        slot = self._import_slot(name)
        for section in self._elf.iter_sections():
            if not section.name.startswith(".plt"):
                continue
            code, base = section.data(), section["sh_addr"]
            for at in range(len(code) - 6):
                if code[at : at + 2] == b"\xff\x25":
                    target = base + at + 6 + struct.unpack_from("<i", code, at + 2)[0]
                    if target == slot:
                        yield base + at - _prefix(code, at)

    def _import_slot(self, name: str) -> int:
        for section in self._elf.iter_sections():
            if isinstance(section, RelocationSection):
                symbols = self._elf.get_section(section["sh_link"])
                for relocation in section.iter_relocations():
                    index = relocation["r_info_sym"]
                    if index and symbols.get_symbol(index).name == name:
                        return int(relocation["r_offset"])
        raise LookupError(f"{self.path} does not import {name}")


def _prefix(code: bytes, at: int) -> int:
    """Return the number of bytes of a PLT entry before its jump: endbr64, a bnd prefix, both, or neither."""
    length = 0
    if code[at - 1 : at] == b"\xf2":
        length += 1
    if code[at - length - 4 : at - length] == b"\xf3\x0f\x1e\xfa":
        length += 4
    return length


@contextlib.contextmanager
def open_binary(path: str) -> Iterator[Binary]:
    """
    Open an ELF file.

    Raises:
        BadInput: the file cannot be read, or is no x86-64 ELF file.
    """
    with _understanding(path), open(path, "rb") as stream:
        yield _binary(stream, path)


@contextlib.contextmanager
def binary_in_memory(data: bytes, name: str) -> Iterator[Binary]:
    """
    Open an ELF file that is part of another file.

    Raises:
        BadInput: the data are no x86-64 ELF file.
    """
    with _understanding(name):
        yield _binary(io.BytesIO(data), name)


def _binary(stream: Any, path: str) -> Binary:
    elf = ELFFile(stream)
    if elf["e_machine"] != "EM_X86_64":
        raise BadInput(f"{path} is not an x86-64 binary: only x86-64 hypervisors can be traced")
    return Binary(elf, path)


@contextlib.contextmanager
def _understanding(path: str) -> Iterator[None]:
    """Turn every error of reading a file into BadInput."""
    try:
        yield
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # pyelftools raises various types; one damaged file must not end the tracer
        raise BadInput(f"cannot understand {path}, {type(error).__name__} {error}: is the file damaged?") from error
