"""
Where the fields of a struct lie, from the debug information (DWARF 2 to 5) of a file.

`probe.dwarf_process` has this done by another process.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from elftools.elf.elffile import ELFFile

from otel_qemu.errors import BadInput

_LARGEST_STRUCT_BYTES = 1 << 16
_MOST_UNITS = 100_000  # a QEMU has 3,000
_MOST_IMPORTS = 10_000
_TOP_BYTES = 64  # of a unit, behind its header: its name is there, after its producer and language
_TYPEDEFS = ("DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type")
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
        unit: how the name of the source file ends in which it is defined or used.
        name: of the struct, ``::`` between it and its namespaces.
        fields: of the struct; a dot leads into a struct that is a field, such as ``cmd.buf``.
    """

    unit: str
    name: str
    fields: tuple[str, ...]


Offsets = dict[str, dict[str, int]]
"""In bytes, by struct and field; a struct that is not there, or lacks a field, is left out."""


def read_offsets(stream: Any, structs: Iterable[Struct]) -> Offsets:
    """
    Look for structs in a file's debug information; nothing is found in a file without any.

    Args:
        stream: of the ELF file, binary and seekable.
        structs: to look for.

    Raises:
        BadInput: the debug information is split over several files.
        Exception: whatever pyelftools makes of a damaged file.
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
        raise BadInput("part of it lies in another file, as dwz leaves it, which is not looked for")
    return found


class _NoCode(ELFFile):
    """An ELF file of whose debug information we see what describes types, not that of lines and call frames."""

    def get_section_by_name(self, name: str) -> Any:
        return super().get_section_by_name(name) if name in _SECTIONS else None


def _units(elf: Any, names: set[str]) -> Iterator[Any]:
    """The top entry of each compilation unit whose name may end so."""
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
            raise BadInput("it is split off into .dwo files, which are not looked for")
        yield top


def _marks(dwarf: Any, names: set[str]) -> set[bytes]:
    """
    What the beginning of a unit has one of if its name ends so: where in the tables of strings it is, or itself.

    To parse the beginning takes milliseconds a unit, for the whole table of its forms is parsed with it; of the
    thousands of a QEMU, few have a mark.  Where strings go by their number (DWARF 5 of clang), every unit may be it.
    """
    if dwarf.debug_str_offsets_sec is not None:
        return {b""}
    texts = {name.encode() + b"\0" for name in names}
    sections = [each.stream.getvalue() for each in (dwarf.debug_str_sec, dwarf.debug_line_str_sec) if each is not None]
    places = {at.to_bytes(4, "little") for data in sections for text in texts for at in _beginnings(data, text)}
    return texts | places


def _beginnings(data: bytes, end: bytes) -> Iterator[int]:
    """Where the strings with such an end may begin: linkers let one begin in another."""
    at = data.find(end)
    while at >= 0:
        yield from range(data.rfind(b"\0", 0, at) + 1, at + 1)
        at = data.find(end, at + 1)


def _name(entry: Any) -> str:
    attribute = entry.attributes.get("DW_AT_name")
    return attribute.value.decode(errors="replace") if attribute else ""


def _offsets(unit: Any, struct: Struct) -> dict[str, int]:
    """Of all of a struct's fields; empty unless each is there."""
    for entry in _named(unit, struct.name.split("::")):
        offsets = {field: _offset(entry, field.split(".")) for field in struct.fields}
        known = {field: at for field, at in offsets.items() if at is not None and 0 <= at < _LARGEST_STRUCT_BYTES}
        if len(known) == len(offsets):
            return known
    return {}


def _named(scope: Any, path: list[str]) -> Iterator[Any]:
    """The definitions of a struct below an entry, by its namespaces and name."""
    first, *rest = path
    for entry in _children(scope):
        if _name(entry) != first or "DW_AT_declaration" in entry.attributes:
            continue
        if rest and entry.tag == "DW_TAG_namespace":
            yield from _named(entry, rest)
        elif not rest and entry.tag in ("DW_TAG_structure_type", "DW_TAG_class_type"):
            yield entry


def _children(scope: Any) -> Iterator[Any]:
    """What lies in a scope, and in the units that it imports: dwz takes out what several units share."""
    scopes, seen = [scope], {scope.offset}
    while scopes:
        for entry in scopes.pop().iter_children():
            if entry.tag != "DW_TAG_imported_unit":
                yield entry
                continue
            if entry.attributes["DW_AT_import"].form in ("DW_FORM_GNU_ref_alt", "DW_FORM_ref_sup4", "DW_FORM_ref_sup8"):
                raise BadInput("part of it lies in another file, as dwz leaves it, which is not looked for")
            unit = entry.get_DIE_from_attribute("DW_AT_import")
            if unit.offset not in seen and len(seen) < _MOST_IMPORTS:
                seen.add(unit.offset)
                scopes.append(unit)


def _offset(struct: Any, path: list[str]) -> int | None:
    """Where a field lies in a struct, or in one that is a field of it; None without such a field."""
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
    """A constant; or, up to DWARF 3, ``DW_OP_plus_uconst``.  Nothing at all stands for 0."""
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
