# SPDX-License-Identifier: Apache-2.0
"""
Find functions by name in a full symbol table.

QEMU's table has some 100,000 entries.  Searching it as one array takes milliseconds; as one object per entry, seconds.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_ENTRY = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("address", "<u8"), ("size", "<u8")]
)  # Elf64_Sym
_UNDEFINED = 0  # SHN_UNDEF
_LOCAL = 0  # STB_LOCAL
# STT_FUNC.  Not STT_GNU_IFUNC: that address is the resolver's, which runs once and has other arguments.
_FUNCTION = 2

# Suffixes that leave the arguments of a function as they are:
#   .lto_priv.N  GCC's LTO gives it to a static symbol that it makes visible to other partitions, against clashes.
#   .llvm.N      ThinLTO does the same when another module imports a caller; N is a hash of the module.
# Both only rename the function.  Not accepted:
#   .constprop.N, .isra.N  are clones with parameters left out or replaced (GCC's ipa-cp, ipa-sra);
#   .part.N                is the tail of a function that was split, with parameters of its own (GCC's ipa-split);
#   .__part.N              is a group of a function's basic blocks, not its entry (LLVM's basic block sections);
#   .cold, .cold.N         are the unlikely blocks (GCC, LLVM's hot-cold splitting).
# Two suffixes are not accepted either: foo.isra.0.lto_priv.0 is a clone as well.
_SAME_SIGNATURE = re.compile(r"(\.lto_priv\.\d+|\.llvm\.\d+)?")


@dataclass(frozen=True)
class Symbol:
    """A defined function in a symbol table, by address (not file offset); its size is 0 if the table has none."""

    name: str
    address: int
    size: int
    is_local: bool


class FunctionTable:
    """The functions of a full symbol table, in memory."""

    def __init__(self, strings: bytes = b"", entries: bytes = b"") -> None:
        """
        Take the contents of ``.strtab`` and ``.symtab``.

        Raises:
            ValueError: the entries are not a whole number of symbols.
        """
        self._strings = strings
        table = np.frombuffer(entries, _ENTRY) if entries else np.empty(0, _ENTRY)
        self._functions = table[(table["info"] & 0xF == _FUNCTION) & (table["section"] != _UNDEFINED)]

    def named(self, name: str) -> list[Symbol]:
        """
        Return the functions that may be the one with this name.

        They are the exported ones with the exact name, if there are any; otherwise also local ones, and those with a
        suffix that leaves the arguments as they are.
        """
        symbols = [
            symbol
            for at, text in _strings_from(self._strings, name.encode())
            if _SAME_SIGNATURE.fullmatch(text.removeprefix(name))
            for symbol in self._at(at, text)
        ]
        exact = [symbol for symbol in symbols if symbol.name == name and not symbol.is_local]
        return exact or symbols

    def _at(self, string: int, text: str) -> Iterator[Symbol]:
        for entry in self._functions[self._functions["name"] == string]:
            yield Symbol(text, int(entry["address"]), int(entry["size"]), int(entry["info"]) >> 4 == _LOCAL)


def _strings_from(strings: bytes, start: bytes) -> Iterator[tuple[int, str]]:
    """Yield the offset and text of each string with this start, also inside another: linkers let names share ends."""
    at = strings.find(start) if start else -1
    while at >= 0:
        end = strings.find(b"\0", at)
        if end >= 0:
            yield at, strings[at:end].decode(errors="replace")
        at = strings.find(start, at + 1)
