# SPDX-License-Identifier: Apache-2.0
"""SCSI: every CDB form, the edges of their fields, and whatever a guest may write instead."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_qemu.trace import scsi


def cdbs(*texts: str) -> "np.typing.NDArray[np.uint8]":
    """CDBs from hex, filled with zeros as QEMU's buffer is."""
    return np.array([list(bytes.fromhex(text).ljust(16, b"\0")) for text in texts], dtype="u1")


# CDB → operation, LBA, blocks; layouts as in SBC-4 5 and SPC-5 6.
TABLE = {
    "READ(6)": ("08 1fffff 10 00", "READ", 0x1FFFFF, 16),
    "READ(6) of 0 blocks": ("08 000001 00 00", "READ", 1, 256),
    "READ(6) with reserved bits set": ("08 ffffff 01 00", "READ", 0x1FFFFF, 1),
    "WRITE(6)": ("0a 012345 ff 00", "WRITE", 0x12345, 255),
    "READ(10)": ("28 00 ffffffff 00 ffff 00", "READ", 0xFFFFFFFF, 0xFFFF),
    "READ(10) of 0 blocks": ("28 00 00000005 00 0000 00", "READ", 5, 0),
    "READ(10) with flags, group and control": ("28 f8 00000005 1f 0008 ff", "READ", 5, 8),
    "WRITE(10)": ("2a 08 00000800 00 0008 00", "WRITE", 2048, 8),
    "WRITE AND VERIFY(10)": ("2e 00 00000800 00 0008 00", "WRITE_AND_VERIFY", 2048, 8),
    "VERIFY(10)": ("2f 00 00000800 00 0008 00", "VERIFY", 2048, 8),
    "READ(12)": ("a8 00 01020304 05060708 00 00", "READ", 0x01020304, 0x05060708),
    "WRITE(12)": ("aa 00 01020304 00000001 00 00", "WRITE", 0x01020304, 1),
    "READ(16)": ("88 00 0000000100000000 00000008 00 00", "READ", 1 << 32, 8),
    "READ(16) at the last block": ("88 00 ffffffffffffffff 00000001 00 00", "READ", 2**64 - 1, 1),
    "WRITE(16)": ("8a 08 0123456789abcdef ffffffff 00 00", "WRITE", 0x0123456789ABCDEF, 2**32 - 1),
    "SYNCHRONIZE CACHE(10)": ("35 00 00000800 00 0008 00", "SYNCHRONIZE_CACHE", 2048, 8),
    "SYNCHRONIZE CACHE(10) of all": ("35 00 00000000 00 0000 00", "SYNCHRONIZE_CACHE", 0, 0),
    "SYNCHRONIZE CACHE(16)": ("91 00 0000000100000000 00000008 00 00", "SYNCHRONIZE_CACHE", 1 << 32, 8),
    "WRITE SAME(10)": ("41 00 00000800 00 0100 00", "WRITE_SAME", 2048, 256),
    "WRITE SAME(16)": ("93 08 0000000100000000 00000100 00 00", "WRITE_SAME", 1 << 32, 256),
    "UNMAP": ("42 00 00000000 00 0018 00", "UNMAP", 0, 0),
    "TEST UNIT READY": ("00 00000000 00", "TEST_UNIT_READY", 0, 0),
    "INQUIRY": ("12 01 b0 0040 00", "INQUIRY", 0, 0),
    "READ CAPACITY(16)": ("9e 10 0000000000000001 00000020 00 00", "SERVICE_ACTION_IN", 0, 0),
    "REPORT LUNS": ("a0 00 00000000 00 00001000 00 00", "REPORT_LUNS", 0, 0),
    "vendor specific": ("c1 ff ffffffff ff ffff ff", "OTHER", 0, 0),
    "variable length": ("7f ff ffffffff ff ffff ff", "OTHER", 0, 0),
}


@pytest.mark.parametrize(("text", "operation", "lba", "blocks"), TABLE.values(), ids=TABLE)
def test_reads_the_cdb(text: str, operation: str, lba: int, blocks: int) -> None:
    """Each form tells its operation, first block and number of blocks."""
    commands = cdbs(text)
    assert scsi.OPERATIONS[scsi.CODES[commands[0, 0]]] == operation
    assert [column.tolist() for column in scsi.addresses(commands)] == [[lba], [blocks]]


def test_forms_may_be_mixed() -> None:
    """A batch of every form at once gives what each gives alone."""
    lbas, blocks = scsi.addresses(cdbs(*(row[0] for row in TABLE.values())))
    assert list(zip(lbas.tolist(), blocks.tolist(), strict=True)) == [row[2:] for row in TABLE.values()]


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=20))
def test_any_sixteen_bytes_are_a_command(texts: list[bytes]) -> None:
    """The guest may write what it likes: nothing raises, and a command that names no range has none."""
    commands = np.frombuffer(b"".join(texts), "u1").reshape(-1, 16)
    codes = scsi.CODES[commands[:, 0]]
    lbas, blocks = scsi.addresses(commands)

    assert lbas.dtype == blocks.dtype == np.uint64
    assert (codes < len(scsi.OPERATIONS)).all()
    unknown = codes == scsi.operation_code("OTHER")
    assert not lbas[unknown].any()
    assert not blocks[unknown].any()


def test_no_commands_give_no_addresses() -> None:
    """An empty batch is a batch."""
    empty = np.zeros((0, 16), "u1")
    assert [len(column) for column in scsi.addresses(empty)] == [0, 0]


def test_operation_codes_are_positions() -> None:
    """A code is the index of its name, OTHER is 0, and a name that is none raises."""
    assert [scsi.operation_code(name) for name in scsi.OPERATIONS] == list(range(len(scsi.OPERATIONS)))
    assert scsi.OPERATIONS[0] == "OTHER"
    with pytest.raises(ValueError, match="not in tuple"):
        scsi.operation_code("FLY")


def test_every_form_of_an_operation_is_known() -> None:
    """PRE-FETCH(16), 90h, is the operation that PRE-FETCH(10), 34h, is."""
    assert scsi.OPERATION_OF_OPCODE.get(0x90) == "PRE_FETCH"


def test_status_names() -> None:
    """A status has SAM-5's name, a reserved one its number."""
    named = [scsi.status_name(status) for status in (0, 2, 8, 0x18, 0x28, 0x40, 0x22, 0xFF)]
    assert named == [
        *("GOOD", "CHECK_CONDITION", "BUSY", "RESERVATION_CONFLICT", "TASK_SET_FULL", "TASK_ABORTED"),
        *("0x22", "0xff"),
    ]


def test_sense_keys_have_their_numbers() -> None:
    """Sixteen keys, in the order of SPC-5 table 48."""
    named = {2: "NOT_READY", 3: "MEDIUM_ERROR", 5: "ILLEGAL_REQUEST", 6: "UNIT_ATTENTION", 0xB: "ABORTED_COMMAND"}
    assert len(scsi.SENSE_KEYS) == 16
    assert {number: scsi.SENSE_KEYS[number] for number in named} == named
