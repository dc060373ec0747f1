# SPDX-License-Identifier: Apache-2.0
"""
The BPF ring buffer, mapped and viewed as one numpy array, without a callback or an object per record.

Layout (Linux kernel/bpf/ringbuf.c): the first page has the consumer's position, which we write.  The next page has the
producer's position, and then come the data, mapped twice in a row; these we only read.  Each record follows a header of
8 bytes: length with the busy bit, and a page number.  All records have one size, so their distance is `8 + size`.
"""

import mmap
from typing import Any

import numpy as np

from otel_qemu.events import RECORD, Records

_BUSY, _DISCARDED = np.uint32(1 << 31), np.uint32(1 << 30)  # include/uapi/linux/bpf.h
_SLOT = np.dtype([("length", "<u4"), ("page", "<u4"), ("record", RECORD)])


class Ring:
    """The reader of a ring.  A ring has only one, because reading moves the consumer's position."""

    def __init__(self, fd: int, size_bytes: int) -> None:
        """
        Map the ring.

        Args:
            fd: of the BPF_MAP_TYPE_RINGBUF map.
            size_bytes: its max_entries.
        """
        page = mmap.PAGESIZE
        self._size_bytes = size_bytes
        self._consumer_map = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._producer_map = mmap.mmap(fd, page + 2 * size_bytes, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer: Any = np.frombuffer(self._consumer_map, dtype="u8", count=1)
        self._producer: Any = np.frombuffer(self._producer_map, dtype="u8", count=1)
        self._data = np.frombuffer(self._producer_map, dtype="u1", offset=page)

    def read(self) -> Records:
        """
        Take every complete record, in order, and free its room.

        Returns:
            A copy, dtype `RECORD`, shape (n,).
        """
        start, end = int(self._consumer[0]), int(self._producer[0])
        first = start & (self._size_bytes - 1)
        slots = self._data[first : first + (end - start) // _SLOT.itemsize * _SLOT.itemsize].view(_SLOT)
        busy = np.flatnonzero(slots["length"] & _BUSY)
        if busy.size:  # a probe on another CPU has not yet submitted this record: it and all later ones come next time
            slots = slots[: busy[0]]
        records = slots["record"][slots["length"] & _DISCARDED == 0]  # a copy, because the room is freed now
        self._consumer[0] = start + len(slots) * _SLOT.itemsize
        return records

    def close(self) -> None:
        """Unmap."""
        del self._consumer, self._producer, self._data
        self._consumer_map.close()
        self._producer_map.close()
