# SPDX-License-Identifier: Apache-2.0
"""The memory of a traced process, with objects far enough apart that no wrong offset reaches a neighbour."""

import struct
from collections import defaultdict

from tests.bpf.library import MEMORY_BASE, MEMORY_BYTES

GAP = 512
"""Bytes of rubbish behind every object."""

_FRESH = b"\xa5"
_FREED = b"\xdb"


class Memory:
    """
    Gives and takes objects like malloc: what was freed last is given first, and nothing is cleared.

    Args:
        data: the bytes that address `MEMORY_BASE` stands for.
    """

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._end = 0
        self._free: dict[int, list[int]] = defaultdict(list)

    def allocate(self, size: int) -> int:
        """Address of an object full of rubbish."""
        if self._free[size]:
            address = self._free[size].pop()
            self._fill(address, size, _FRESH)
            return address
        address = MEMORY_BASE + self._end
        self._end += (size + GAP + 15) & ~15
        assert self._end <= MEMORY_BYTES, "the traced process is out of memory"
        self._fill(address, size + GAP, _FRESH)
        return address

    def free(self, address: int, size: int) -> None:
        """Spoil an object and make its address the next one given."""
        self._fill(address, size, _FREED)
        self._free[size].append(address)

    def write(self, address: int, form: str, *values: int | bytes) -> None:
        """Store `values` as `struct` would."""
        struct.pack_into("<" + form, self._data, address - MEMORY_BASE, *values)

    def _fill(self, address: int, size: int, byte: bytes) -> None:
        start = address - MEMORY_BASE
        self._data[start : start + size] = byte * size
