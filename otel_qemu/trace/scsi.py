"""
SCSI as the guest speaks it: operations, CDB fields, status and sense, columnar where requests are many.

Sources: SPC-5 (INQUIRY, LOG SENSE, ...), SBC-4 (READ, WRITE, UNMAP, ...), SAM-5 5.3.1 (status codes), SPC-5 4.4.8
(sense keys).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

OPERATION_OF_OPCODE = {
    0x00: "TEST_UNIT_READY",
    0x03: "REQUEST_SENSE",
    0x04: "FORMAT_UNIT",
    0x08: "READ",
    0x0A: "WRITE",
    0x12: "INQUIRY",
    0x15: "MODE_SELECT",
    0x16: "RESERVE",
    0x17: "RELEASE",
    0x1A: "MODE_SENSE",
    0x1B: "START_STOP_UNIT",
    0x1E: "PREVENT_ALLOW_MEDIUM_REMOVAL",
    0x25: "READ_CAPACITY",
    0x28: "READ",
    0x2A: "WRITE",
    0x2E: "WRITE_AND_VERIFY",
    0x2F: "VERIFY",
    0x34: "PRE_FETCH",
    0x35: "SYNCHRONIZE_CACHE",
    0x41: "WRITE_SAME",
    0x42: "UNMAP",
    0x46: "GET_CONFIGURATION",
    0x4A: "GET_EVENT_STATUS_NOTIFICATION",
    0x4D: "LOG_SENSE",
    0x55: "MODE_SELECT",
    0x5A: "MODE_SENSE",
    0x5E: "PERSISTENT_RESERVE_IN",
    0x5F: "PERSISTENT_RESERVE_OUT",
    0x88: "READ",
    0x89: "COMPARE_AND_WRITE",
    0x8A: "WRITE",
    0x8E: "WRITE_AND_VERIFY",
    0x8F: "VERIFY",
    0x90: "PRE_FETCH",
    0x91: "SYNCHRONIZE_CACHE",
    0x93: "WRITE_SAME",
    0x9E: "SERVICE_ACTION_IN",
    0xA0: "REPORT_LUNS",
    0xA3: "MAINTENANCE_IN",
    0xA4: "MAINTENANCE_OUT",
    0xA8: "READ",
    0xAA: "WRITE",
    0xAE: "WRITE_AND_VERIFY",
    0xAF: "VERIFY",
}
"""Operation name of a CDB's first byte; 6, 10, 12 and 16 byte forms are one operation.  Others are ``OTHER``."""

OPERATIONS = ("OTHER", *dict.fromkeys(OPERATION_OF_OPCODE.values()))
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

# Which bytes of a CDB hold the LBA and the number of blocks, by the opcode's group code (SPC-5 4.2.5.1).
_FIELDS = {
    0: ((1, 2, 3), (4,)),
    1: ((2, 3, 4, 5), (7, 8)),
    2: ((2, 3, 4, 5), (7, 8)),
    4: ((2, 3, 4, 5, 6, 7, 8, 9), (10, 11, 12, 13)),
    5: ((2, 3, 4, 5), (6, 7, 8, 9)),
}
_ADDRESSED = ("READ", "WRITE", "WRITE_AND_VERIFY", "VERIFY", "SYNCHRONIZE_CACHE", "WRITE_SAME", "PRE_FETCH")
_IS_ADDRESSED = np.isin(CODES, [OPERATIONS.index(name) for name in _ADDRESSED])


def operation_code(name: str) -> int:
    """The code of an operation name in `traces.REQUEST`; raises ValueError for an unknown one."""
    return OPERATIONS.index(name)


def operations(cdbs: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Operation codes, shape (n,), of CDBs, shape (n, 16)."""
    return CODES[cdbs[:, 0]]


def addresses(cdbs: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """
    Where each command begins and how many blocks it says it covers.

    Args:
        cdbs: shape (n, 16), uint8.

    Returns:
        LBAs and block counts, uint64, shape (n,); both 0 for a command that names no range.
    """
    lbas = np.zeros(len(cdbs), dtype="u8")
    blocks = np.zeros(len(cdbs), dtype="u8")
    groups = np.where(_IS_ADDRESSED[cdbs[:, 0]], cdbs[:, 0] >> 5, 255)
    for group, (lba_bytes, block_bytes) in _FIELDS.items():
        rows = np.flatnonzero(groups == group)
        if rows.size:
            some = cdbs[rows]
            lbas[rows] = _big_endian(some, lba_bytes)
            blocks[rows] = _big_endian(some, block_bytes)
            if group == 0:  # READ(6), WRITE(6): 21 bits of LBA, and 0 blocks mean 256 (SBC-4 5.12)
                lbas[rows] &= np.uint64(0x1FFFFF)
                blocks[rows] = np.where(blocks[rows] == 0, 256, blocks[rows])
    return lbas, blocks


def _big_endian(cdbs: NDArray[np.uint8], positions: tuple[int, ...]) -> Any:
    first, width = positions[0], len(positions)
    if width == 3:
        return _big_endian(cdbs, positions[:1]) << np.uint64(16) | _big_endian(cdbs, positions[1:])
    return cdbs[:, first : first + width].view(f">u{width}")[:, 0].astype("u8")


def status_name(status: int) -> str:
    """``GOOD``, ``CHECK_CONDITION``, ...; a reserved code is given as ``0x..``."""
    return STATUS_NAMES.get(status, f"0x{status:02x}")
