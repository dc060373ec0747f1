# SPDX-License-Identifier: Apache-2.0
"""
SCSI as the guest speaks it: operations, CDB fields, status and sense, by the column where requests are many.

Sources: SPC-5 (INQUIRY, LOG SENSE, ...), SBC-4 (READ, WRITE, UNMAP, ...), SAM-5 5.3.1 (status codes), SPC-5 4.4.8
(sense keys).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPCODES = {
    "TEST_UNIT_READY": (0x00,),
    "REQUEST_SENSE": (0x03,),
    "FORMAT_UNIT": (0x04,),
    "READ": (0x08, 0x28, 0x88, 0xA8),
    "WRITE": (0x0A, 0x2A, 0x8A, 0xAA),
    "INQUIRY": (0x12,),
    "MODE_SELECT": (0x15, 0x55),
    "RESERVE": (0x16,),
    "RELEASE": (0x17,),
    "MODE_SENSE": (0x1A, 0x5A),
    "START_STOP_UNIT": (0x1B,),
    "PREVENT_ALLOW_MEDIUM_REMOVAL": (0x1E,),
    "READ_CAPACITY": (0x25,),
    "WRITE_AND_VERIFY": (0x2E, 0x8E, 0xAE),
    "VERIFY": (0x2F, 0x8F, 0xAF),
    "PRE_FETCH": (0x34, 0x90),
    "SYNCHRONIZE_CACHE": (0x35, 0x91),
    "WRITE_SAME": (0x41, 0x93),
    "UNMAP": (0x42,),
    "GET_CONFIGURATION": (0x46,),
    "GET_EVENT_STATUS_NOTIFICATION": (0x4A,),
    "LOG_SENSE": (0x4D,),
    "PERSISTENT_RESERVE_IN": (0x5E,),
    "PERSISTENT_RESERVE_OUT": (0x5F,),
    "COMPARE_AND_WRITE": (0x89,),
    "SERVICE_ACTION_IN": (0x9E,),
    "REPORT_LUNS": (0xA0,),
    "MAINTENANCE_IN": (0xA3,),
    "MAINTENANCE_OUT": (0xA4,),
}
"""First bytes of each operation's CDBs: 6, 10, 12 and 16 byte forms are one operation."""

OPERATION_OF_OPCODE = {opcode: name for name, opcodes in OPCODES.items() for opcode in opcodes}
"""Operation name of a CDB's first byte; others are ``OTHER``."""

OPERATIONS = ("OTHER", *OPCODES)
"""Every operation name; the index is the operation's code in `traces.REQUEST`."""

READS = ("READ",)
WRITES = ("WRITE", "WRITE_AND_VERIFY")

STATUS_NAMES = {
    0x00: "GOOD",
    0x02: "CHECK_CONDITION",
    0x04: "CONDITION_MET",
    0x08: "BUSY",
    0x18: "RESERVATION_CONFLICT",
    0x28: "TASK_SET_FULL",
    0x30: "ACA_ACTIVE",
    0x40: "TASK_ABORTED",
}

SENSE_KEYS = (
    "NO_SENSE",
    "RECOVERED_ERROR",
    "NOT_READY",
    "MEDIUM_ERROR",
    "HARDWARE_ERROR",
    "ILLEGAL_REQUEST",
    "UNIT_ATTENTION",
    "DATA_PROTECT",
    "BLANK_CHECK",
    "VENDOR_SPECIFIC",
    "COPY_ABORTED",
    "ABORTED_COMMAND",
    "RESERVED",
    "VOLUME_OVERFLOW",
    "MISCOMPARE",
    "COMPLETED",
)

CODES = np.zeros(256, dtype="u1")
"""Operation code of each opcode, uint8, shape (256,)."""
for _opcode, _name in OPERATION_OF_OPCODE.items():
    CODES[_opcode] = OPERATIONS.index(_name)

_ADDRESSED = ("READ", "WRITE", "WRITE_AND_VERIFY", "VERIFY", "SYNCHRONIZE_CACHE", "WRITE_SAME", "PRE_FETCH")
_GROUPS = np.where(np.isin(CODES, [OPERATIONS.index(name) for name in _ADDRESSED]), np.arange(256) >> 5, 255).astype(
    "u1"
)
"""Group code of each opcode that names a range; 255 of others."""


def operation_code(name: str) -> int:
    """The code of an operation name in `traces.REQUEST`; raises ValueError for an unknown one."""
    return OPERATIONS.index(name)


def addresses(cdbs: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """
    Where each command begins and how many blocks it says it covers.

    Args:
        cdbs: shape (n, 16), uint8.

    Returns:
        LBAs and block counts, uint64, shape (n,); both 0 for a command that names no range.
    """
    lbas, blocks = np.zeros((2, len(cdbs)), dtype="u8")
    first, second = (half.astype("u8") for half in cdbs.view(">u8").T)  # bytes 0 to 7, and 8 to 15
    groups = _GROUPS[cdbs[:, 0]]
    for group, fields in _FIELDS.items():
        rows = np.flatnonzero(groups == group)
        if rows.size:
            lbas[rows], blocks[rows] = fields(first[rows], second[rows])
    return lbas, blocks


def _six(first: Any, _second: Any) -> tuple[Any, Any]:
    """21 bits of LBA, and 0 blocks mean 256 (SBC-4 5.12)."""
    return first >> 32 & 0x1FFFFF, ((first >> 24) - 1 & 0xFF) + 1


def _ten(first: Any, second: Any) -> tuple[Any, Any]:
    return first >> 16 & 0xFFFFFFFF, (first & 0xFF) << 8 | second >> 56


def _twelve(first: Any, second: Any) -> tuple[Any, Any]:
    return first >> 16 & 0xFFFFFFFF, (first & 0xFFFF) << 16 | second >> 48


def _sixteen(first: Any, second: Any) -> tuple[Any, Any]:
    return first << 16 | second >> 48, second >> 16 & 0xFFFFFFFF


# LBA and number of blocks, of the two halves of a CDB as numbers, by the opcode's group code (SPC-5 4.2.5.1).
_FIELDS = {0: _six, 1: _ten, 2: _ten, 4: _sixteen, 5: _twelve}


def status_name(status: int) -> str:
    """``GOOD``, ``CHECK_CONDITION``, ...; a reserved code is given as ``0x..``."""
    return STATUS_NAMES.get(status, f"0x{status:02x}")
