"""
What we need of an ELF file: where functions lie in it, their first bytes, and whom a call goes to.

Everything is by file offset, which is what the kernel's uprobes take.
"""

import contextlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.hash import ELFHashSection, GNUHashSection
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from otel_qemu.errors import BadInput

__all__ = ["Binary", "Function", "open_binary"]


@dataclass(frozen=True)
class Function:
    """A function in a file: its name, offset and size in bytes (0: not told), and which table named it."""

    name: str
    offset: int
    size: int
    table: str


class Binary:
    """An ELF file, opened for reading; use `open_binary`."""

    def __init__(self, elf: Any, path: str) -> None:
        self._elf = elf
        self.path = path

    @cached_property
    def build_id(self) -> str:
        """The GNU build id in hex, or '' where the file has none."""
        section = self._elf.get_section_by_name(".note.gnu.build-id")
        notes = section.iter_notes() if section else ()
        return next((str(note["n_desc"]) for note in notes if note["n_type"] == "NT_GNU_BUILD_ID"), "")

    @property
    def entry_offset(self) -> int:
        """File offset of the entry point."""
        return self._offset(self._elf["e_entry"])

    def text_after(self, marker: bytes) -> str:
        """The text behind a marker in the read-only data, up to its end or line end; '' without one."""
        section = self._elf.get_section_by_name(".rodata")
        found = re.search(re.escape(marker) + rb"([^\n\0]{1,100})", section.data()) if section else None
        return found[1].decode(errors="replace") if found else ""

    def function(self, name: str) -> Function | None:
        """A defined function by its exact name: exported ones first, then the full symbol table."""
        for table, symbol in self._symbols(name):
            info = symbol["st_info"]["type"]
            if symbol["st_shndx"] != "SHN_UNDEF" and info in ("STT_FUNC", "STT_GNU_IFUNC"):
                return Function(name, self._offset(symbol["st_value"]), symbol["st_size"], table)
        return None

    def code(self, offset: int, size: int) -> bytes:
        """`size` bytes of the file at `offset`; fewer at its end."""
        self._elf.stream.seek(offset)
        return bytes(self._elf.stream.read(size))

    def calls_to(self, name: str) -> Iterator[int]:
        """
        File offsets just behind each direct ``call`` (e8 rel32) to an imported function, by way of its PLT entry.

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

    def _symbols(self, name: str) -> Iterator[tuple[str, Any]]:
        for section in self._elf.iter_sections():
            if isinstance(section, GNUHashSection | ELFHashSection):
                symbol = section.get_symbol(name)
                if symbol is not None:
                    yield ".dynsym", symbol
        symtab = self._elf.get_section_by_name(".symtab")
        if isinstance(symtab, SymbolTableSection):
            yield from ((".symtab", symbol) for symbol in symtab.get_symbol_by_name(name) or ())

    def _offset(self, address: int) -> int:
        return int(next(iter(self._elf.address_offsets(address))))

    def _stubs(self, name: str) -> Iterator[int]:
        """Addresses of PLT entries that jump through the import's GOT slot: ``jmp *slot(%rip)``, endbr64 before it."""
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
    """Bytes of the PLT entry before its jump: endbr64, a bnd prefix, both or none."""
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
        BadInput: it cannot be read or is not an x86-64 ELF file.
    """
    try:
        with open(path, "rb") as stream:
            elf = ELFFile(stream)
            if elf["e_machine"] != "EM_X86_64":
                raise BadInput(f"{path} is not an x86-64 binary: only x86-64 hypervisors can be traced")
            yield Binary(elf, path)
    except BadInput:
        raise
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    except Exception as error:  # whatever a damaged file makes pyelftools raise: one bad file must not end the tracer
        raise BadInput(f"cannot understand {path}, {type(error).__name__} {error}: is the file damaged?") from error
