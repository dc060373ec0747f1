"""Records into the rows of `traces`: what the kernel saw, with the CDB read and nothing joined yet."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import RECORD, Records
from otel_qemu.trace import scsi
from otel_qemu.trace.traces import CALL, REQUEST, Table

_SAME_IN_REQUEST = ("pid", "ending", "kept")
_SAME_IN_CALL = ("pid", "operation", "request", "return_value", "kept")
_IS_DATA = np.zeros(256, dtype=bool)
_IS_DATA[[scsi.operation_code(name) for name in (*scsi.READS, *scsi.WRITES)]] = True


class _Block:
    """Neighbouring columns that records and rows have in the same order: copied as one, several times as fast."""

    def __init__(self, records: tuple[str, ...], table: np.dtype[np.void], rows: tuple[str, ...]) -> None:
        """Of these columns in `RECORD`, and in a table of a dtype."""
        self._from, self._to = _as_one(RECORD, records), _as_one(table, rows)

    def copy(self, records: Records, rows: Table, which: Any = slice(None)) -> None:
        """Fill the columns of rows from some records."""
        rows.view(self._to)["block"] = records.view(self._from)["block"][which]


def _as_one(dtype: np.dtype[np.void], names: tuple[str, ...]) -> np.dtype[np.void]:
    assert dtype.fields is not None
    assert dtype.names is not None
    first = dtype.names.index(names[0])
    assert dtype.names[first : first + len(names)] == names, f"{names} are no neighbours"
    start, (last, end) = dtype.fields[names[0]][1], dtype.fields[names[-1]][:2]
    block = f"V{end + last.itemsize - start}"
    return np.dtype({"names": ["block"], "formats": [block], "offsets": [start], "itemsize": dtype.itemsize})


_IDENTITY = ("request", "submit_ns", "complete_ns", "device")
_STATE = ("tag", "lun", "status", "host_status", "sense_key", "asc", "ascq", "retries")
_REQUEST_BLOCKS = (_Block(_IDENTITY, REQUEST, _IDENTITY), _Block(_STATE, REQUEST, _STATE))
_CALL_BLOCK = _Block(
    ("image", "call_submit_ns", "call_complete_ns", "offset", "length"),
    *(CALL, ("image", "submit_ns", "complete_ns", "offset", "length")),
)


def request_rows(records: Records) -> Table:
    """
    Rows of dtype `REQUEST` for request records; the time split and the calls are still zero.

    ``block_bytes`` is what transfer length and block count give: QEMU sets ``xfer`` to their product
    (scsi_req_xfer, hw/scsi/scsi-bus.c).
    """
    rows = np.zeros(len(records), dtype=REQUEST)
    for name in _SAME_IN_REQUEST:
        rows[name] = records[name]
    for block in _REQUEST_BLOCKS:
        block.copy(records, rows)
    cdbs = records["cdb"]
    rows["opcode"] = cdbs[:, 0]
    rows["operation"] = scsi.operations(cdbs)
    rows["lba"], blocks = scsi.addresses(cdbs)
    rows["bytes"] = records["transfer_bytes"]
    moves_data = is_data(rows) & (blocks > 0)
    rows["block_bytes"] = np.where(moves_data, rows["bytes"] // np.maximum(blocks, 1), 0)
    return rows


def call_rows(records: Records, rows: Any = slice(None)) -> Table:
    """Rows of dtype `CALL` for the RBD halves of some records; no parent and no join yet."""
    calls = np.zeros(len(records[rows]) if isinstance(rows, slice) else len(rows), dtype=CALL)
    for name in _SAME_IN_CALL:
        calls[name] = records[name][rows]
    _CALL_BLOCK.copy(records, calls, rows)
    calls["parent"] = -1
    return calls


def is_data(requests: Table) -> NDArray[np.bool_]:
    """Which requests move the disk's data: READ and WRITE, whose byte range the CDB tells."""
    mask: Any = _IS_DATA[requests["operation"]]
    return mask


def byte_ranges(requests: Table) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First byte and end of each request's range on the disk, uint64, shape (n,); both 0 where the CDB tells none."""
    start = requests["lba"] * requests["block_bytes"].astype("u8")
    return start, np.where(requests["block_bytes"] > 0, start + requests["bytes"], 0)
