# SPDX-License-Identifier: Apache-2.0
"""
Offsets of the fields of structs, from the debug information (DWARF 2 to 5) of a file.

`probe.dwarf_process` runs this in a process of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

from otel_qemu.errors import BadInput

_LARGEST_STRUCT_BYTES = 1 << 16
_MOST_UNITS = 100_000  # a QEMU has 3,000
_MOST_IMPORTS = 10_000
_TOP_BYTES = 64  # of a unit, behind its header: they hold its producer, its language and its name
_TYPEDEFS = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
_IN_ANOTHER_FILE = "dwz has moved a part of it to another file, which is not supported"
_SPLIT = ("DW_AT_dwo_name", "DW_AT_GNU_dwo_name")
_SECTIONS = frozenset(
    f".{z}debug_{name}"
    for z in ("", "z")
    for name in ("info", "abbrev", "str", "line_str", "str_offsets", "addr", "rnglists", "loclists")
)


@dataclass(frozen=True)
class Struct:
    """
    A struct to look for.

    Attributes:
        unit: the end of the name of a source file that defines or uses it.
        name: of the struct, with its namespaces: ``librbd::io::AioCompletion``.
        fields: of the struct; a field of a struct in the struct is written with a dot: ``cmd.buf``.
    """

    unit: str
    name: str
    fields: tuple[str, ...]


Offsets = dict[str, dict[str, int]]
"""Offsets in bytes by struct and field.  A struct that is missing, or lacks a field, is left out."""


def read_offsets(stream: Any, structs: Iterable[Struct]) -> Offsets:
    """
    Look for structs in a file's debug information; a file without any gives an empty result.

    Args:
        stream: the ELF file, binary and seekable.
        structs: the structs to look for.

    Raises:
        BadInput: the debug information is split over several files.
        Exception: the file is damaged; pyelftools raises various types.
    """
    wanted = list(structs)
    found: Offsets = {}
    elf = _NoCode(stream)
    for unit in _units(elf, {struct.unit for struct in wanted}):
        name = _name(unit)
        for struct in [each for each in wanted if name.endswith(each.unit)]:
            if offsets := _offsets(unit, struct):
                found[struct.name] = offsets
                wanted.remove(struct)
        if not wanted:
            break
    if not found and elf.has_section(".gnu_debugaltlink"):
        raise BadInput(_IN_ANOTHER_FILE)
    return found


class _NoCode(ELFFile):
    """An ELF file with the sections that describe types; those of lines and call frames are hidden."""

    def get_section_by_name(self, name: str) -> Any:
        return super().get_section_by_name(name) if name in _SECTIONS else None


def _units(elf: Any, names: set[str]) -> Iterator[Any]:
    """Yield the top entry of each compilation unit whose name may end with one of these."""
    if not elf.has_dwarf_info(strict=True):
        return
    dwarf = elf.get_dwarf_info(relocate_dwarf_sections=False, follow_links=False)
    marks = _marks(dwarf, names)
    for count, unit in enumerate(dwarf.iter_CUs()):
        if count == _MOST_UNITS:
            raise BadInput(f"it has more than {_MOST_UNITS:,} compilation units")
        dwarf.debug_info_sec.stream.seek(unit.cu_die_offset)
        beginning = dwarf.debug_info_sec.stream.read(_TOP_BYTES)
        if count and not any(mark in beginning for mark in marks):
            continue
        top = unit.get_top_DIE()
        if any(attribute in top.attributes for attribute in _SPLIT):
            raise BadInput("it is split off into .dwo files, which are not supported")
        yield top


def _marks(dwarf: Any, names: set[str]) -> set[bytes]:
    """
    Return byte strings; a unit whose name ends with one of these names begins with at least one of them.

    Each is the name itself, or the name's offset in a string table.  Parsing a unit takes milliseconds, because its
    whole abbreviation table is parsed, and QEMU has thousands of units; few of them have a mark.  In DWARF 5 of clang,
    strings go by their number, so any unit may match.
    """
    if dwarf.debug_str_offsets_sec is not None:
        return {b""}
    texts = {name.encode() + b"\0" for name in names}
    sections = [each.stream.getvalue() for each in (dwarf.debug_str_sec, dwarf.debug_line_str_sec) if each is not None]
    places = {at.to_bytes(4, "little") for data in sections for text in texts for at in _beginnings(data, text)}
    return texts | places


def _beginnings(data: bytes, end: bytes) -> Iterator[int]:
    """Yield where a string with this end may begin; linkers let a string begin inside another one."""
    at = data.find(end)
    while at >= 0:
        yield from range(data.rfind(b"\0", 0, at) + 1, at + 1)
        at = data.find(end, at + 1)


def _name(entry: Any) -> str:
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode(errors="replace") if attribute else ""


def _offsets(unit: Any, struct: Struct) -> dict[str, int]:
    """Return the offsets of all fields; empty unless the struct has every field."""
    for entry in _named(unit, struct.name.split("::")):
        offsets = {field: _offset(entry, field.split(".")) for field in struct.fields}
        known = {field: at for field, at in offsets.items() if at is not None and 0 <= at < _LARGEST_STRUCT_BYTES}
        if len(known) == len(offsets):
            return known
    return {}


def _named(scope: Any, path: list[str]) -> Iterator[Any]:
    """Yield the definitions of a struct below an entry, by its namespaces and name."""
    first, *rest = path
    for entry in _children(scope):
        if _name(entry) != first or "DW_AT_declaration" in entry.attributes:
            continue
        if rest and entry.tag == "DW_TAG_namespace":
            yield from _named(entry, rest)
        elif not rest and entry.tag in ("DW_TAG_structure_type", "DW_TAG_class_type"):
            yield entry


def _children(scope: Any) -> Iterator[Any]:
    """Yield the entries of a scope, and those of units that it imports: dwz moves shared entries to such units."""
    scopes, seen = [scope], {scope.offset}
    while scopes:
        for entry in scopes.pop().iter_children():
            if entry.tag != "DW_TAG_imported_unit":
                yield entry
                continue
            if entry.attributes["DW_AT_import"].form in ("DW_FORM_GNU_ref_alt", "DW_FORM_ref_sup4", "DW_FORM_ref_sup8"):
                raise BadInput(_IN_ANOTHER_FILE)
            unit = entry.get_DIE_from_attribute("DW_AT_import")
            if unit.offset not in seen and len(seen) < _MOST_IMPORTS:
                seen.add(unit.offset)
                scopes.append(unit)


def _offset(struct: Any, path: list[str]) -> int | None:
    """Return the offset of a field, or of a field of a field; None if there is no such field."""
    first, *rest = path
    for member in struct.iter_children():
        if member.tag == "DW_TAG_member" and _name(member) == first:
            begin = _location(member)
            if not rest or begin is None:
                return begin
            inner = _offset(_type(member), rest)
            return None if inner is None else begin + inner
    return None


def _location(member: Any) -> int | None:
    """Return a member's offset: a constant or, up to DWARF 3, ``DW_OP_plus_uconst``; 0 if the attribute is missing."""
    attribute = member.attributes.get("DW_AT_data_member_location")
    value = attribute.value if attribute else 0
    if isinstance(value, int):
        return value
    operation, *digits = value or [0]
    return sum((digit & 0x7F) << 7 * index for index, digit in enumerate(digits)) if operation == 0x23 else None


def _type(member: Any) -> Any:
    entry = member.get_DIE_from_attribute("DW_AT_type")
    for _ in range(16):
        if entry.tag not in _TYPEDEFS:
            break
        entry = entry.get_DIE_from_attribute("DW_AT_type")
    return entry
