# SPDX-License-Identifier: Apache-2.0
"""Room in the maps of the BPF program."""

from otel_qemu.events import RECORD

RECORD_BYTES = RECORD.itemsize + 8


def room_for(records: int) -> int:
    """Return the size of a ring that has room for exactly this many records; its last byte is never used."""
    return records * RECORD_BYTES + 1
