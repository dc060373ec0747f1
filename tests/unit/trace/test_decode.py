# SPDX-License-Identifier: Apache-2.0
"""Records into rows: the columns, the block size, the byte range."""

import numpy as np
import pytest

from otel_qemu.events import RECORD, Ending, RbdOperation
from otel_qemu.trace import decode, scsi
from otel_qemu.trace.traces import CALL, REQUEST, Table
from tests.support import builders


def decoded(cdb: str, transfer_bytes: int) -> Table:
    """The row of one request."""
    record = builders.records(1, transfer_bytes=transfer_bytes)
    record["cdb"] = np.frombuffer(bytes.fromhex(cdb).ljust(16, b"\0"), "u1")
    return decode.request_rows(record).rows()


@pytest.mark.parametrize(
    ("cdb", "transfer_bytes", "block_bytes", "byte_range"),
    [
        ("2a 00 00000800 00 0008 00", 4096, 512, (1_048_576, 1_052_672)),
        ("28 00 00000800 00 0008 00", 32768, 4096, (8_388_608, 8_421_376)),
        ("08 000001 00 00", 131_072, 512, (512, 131_584)),
        ("88 00 0000000200000000 00000010 00 00", 65536, 4096, (2**45, 2**45 + 65536)),
        ("28 00 00000800 00 0000 00", 0, 0, (0, 0)),
        ("2a 00 00000800 00 0008 00", 0, 0, (0, 0)),
        ("35 00 00000800 00 0008 00", 0, 0, (0, 0)),
        ("42 00 00000000 00 0018 00", 24, 0, (0, 0)),
        ("41 00 00000800 00 0100 00", 512, 0, (0, 0)),
        ("2f 00 00000800 00 0008 00", 0, 0, (0, 0)),
        ("12 00 00 0040 00", 64, 0, (0, 0)),
    ],
    ids=[
        *("512-byte blocks", "4096-byte blocks", "READ(6) of 256", "beyond 32 bits", "no blocks", "nothing moved"),
        *("flush", "UNMAP", "WRITE SAME", "VERIFY", "INQUIRY"),
    ],
)
def test_block_size_and_range(cdb: str, transfer_bytes: int, block_bytes: int, byte_range: tuple[int, int]) -> None:
    """Transfer over blocks is the block size, where data moves; without one there is no range."""
    rows = decoded(cdb, transfer_bytes)
    assert rows["block_bytes"].tolist() == [block_bytes]
    assert rows["bytes"].tolist() == [transfer_bytes]
    assert tuple(int(column[0]) for column in decode.byte_ranges(rows)) == byte_range


def test_a_request_keeps_what_its_record_says() -> None:
    """Columns of one name are equal; opcode and operation come from the CDB; calls and times wait."""
    values = {"lun": 3, "tag": 9, "ending": Ending.FAILED, "status": 2, "host_status": 7, "retries": 1}
    values |= {"sense_key": 5, "asc": 0x24, "ascq": 1}
    record = builders.records(1, **values)
    row = decode.request_rows(record).rows()[0]

    assert row.dtype == REQUEST
    for name in (*values, "pid", "device", "request", "submit_ns", "complete_ns"):
        assert row[name] == record[name][0], name
    assert (row["opcode"], scsi.OPERATIONS[row["operation"]]) == (0x2A, "WRITE")
    assert (row["calls"], row["wait_ns"], row["rbd_ns"], row["completion_ns"]) == (0, 0, 0, 0)


def test_a_call_keeps_what_its_record_says() -> None:
    """The RBD half becomes a row without parent and without rule."""
    values = {"image": 5, "offset": 2**40, "length": 2**33, "return_value": -5, "operation": RbdOperation.DISCARD}
    record = builders.records(1, call_submit_ns=11, call_complete_ns=12, **values)
    row = decode.call_rows(record).rows()[0]

    assert row.dtype == CALL
    assert {name: row[name].item() for name in values} == values
    assert (row["submit_ns"], row["complete_ns"], row["parent"], row["join"]) == (11, 12, -1, 0)


def test_data_commands_are_reads_and_writes() -> None:
    """WRITE AND VERIFY moves the disk's data; VERIFY, UNMAP and WRITE SAME do not."""
    rows = np.concatenate([decoded(f"{opcode:02x}", 0) for opcode in (0x28, 0x8A, 0xAE, 0x2F, 0x42, 0x93, 0x35)])
    assert decode.is_data(rows).tolist() == [True, True, True, False, False, False, False]


def test_no_records_give_no_rows() -> None:
    """An empty batch is a batch."""
    empty = np.zeros(0, RECORD)
    assert len(decode.request_rows(empty)) == len(decode.call_rows(empty)) == 0
