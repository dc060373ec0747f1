# SPDX-License-Identifier: Apache-2.0
"""Records into the columns of `traces`: what the kernel saw, with the CDB read and nothing joined yet."""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Link, RecordKind, Records
from otel_qemu.trace import scsi
from otel_qemu.trace.arrays.columns import Columns, Table, TableLike, as_columns
from otel_qemu.trace.traces import CALL, REQUEST

_WHOLE_IN_REQUEST = ("request", "submit_ns", "complete_ns", "device", "lun")
"""Columns of 8 bytes that are the same: with ``lun`` goes what follows it, up to ``retries``."""
_SAME_IN_REQUEST = ("pid", "ending", "kept", "tag")
_SAME_IN_CALL = ("pid", "operation", "request", "return_value", "kept", "image", "offset", "length")
_IS_DATA = np.zeros(256, dtype=bool)
_IS_DATA[[scsi.operation_code(name) for name in (*scsi.READS, *scsi.WRITES)]] = True


def request_rows(records: Table | Columns) -> Columns:
    """
    Columns of dtype `REQUEST` for request records; the time split and the calls are still zero.

    ``block_bytes`` is what transfer length and block count give: QEMU sets ``xfer`` to their product
    (scsi_req_xfer, hw/scsi/scsi-bus.c).
    """
    records = as_columns(records)
    rows = Columns.zeros(REQUEST, len(records))
    for name in _WHOLE_IN_REQUEST:
        rows.word(name)[:] = records.word(name)
    for name in _SAME_IN_REQUEST:
        rows[name] = records[name]
    cdbs, transfer_bytes = records["cdb"], records["transfer_bytes"]
    rows["opcode"] = cdbs[:, 0]
    rows["operation"] = scsi.CODES[cdbs[:, 0]]
    rows["lba"], blocks = scsi.addresses(cdbs)
    rows["bytes"] = transfer_bytes
    rows["block_bytes"] = transfer_bytes // np.maximum(blocks.astype("u4"), 1) * (is_data(rows) & (blocks > 0))
    return rows


def call_rows(records: Table | Columns, rows: NDArray[np.int64] | None = None) -> Columns:
    """Columns of dtype `CALL` for the RBD half of records, of all or of those numbered; no parent and no join yet."""
    records = as_columns(records)
    rows = np.arange(len(records)) if rows is None else rows
    calls = Columns.zeros(CALL, len(rows))
    for name in _SAME_IN_CALL:
        calls[name] = records[name].take(rows)
    for name in ("submit_ns", "complete_ns"):
        calls[name] = records[f"call_{name}"].take(rows)
    calls["parent"] = -1
    return calls


def is_data(requests: TableLike) -> NDArray[np.bool_]:
    """Which requests move the disk's data: READ and WRITE, whose byte range is in the CDB."""
    return _IS_DATA[requests["operation"]]


def byte_ranges(requests: TableLike) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First byte and end of each request's range on the disk, uint64, shape (n,); both 0 where the CDB has none."""
    start = requests["lba"] * requests["block_bytes"].astype("u8")
    return start, np.where(requests["block_bytes"] > 0, start + requests["bytes"], 0)


_TIMES = ("submit_ns", "complete_ns", "call_submit_ns", "call_complete_ns")
_LAST_NS = np.iinfo("i8").max


def impossible(records: Records) -> str | None:
    """Name a value in the records that no probe writes and no reader can interpret; None if there is none."""
    if (~np.isin(records["kind"], list(RecordKind))).any():
        return "records of no kind"
    if (records["link"] > max(Link)).any():
        return "links of no kind"
    if any((records[name] > _LAST_NS).any() for name in _TIMES):
        return "times that no clock shows"
    return None
