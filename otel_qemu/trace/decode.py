"""Records into the rows of `traces`: what the kernel saw, with the CDB read and nothing joined yet."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otel_qemu.events import Records
from otel_qemu.trace import scsi
from otel_qemu.trace.traces import CALL, REQUEST, Table

_SAME_IN_REQUEST = (
    *("pid", "lun", "device", "request", "tag", "ending", "status", "host_status", "retries"),
    *("sense_key", "asc", "ascq", "submit_ns", "complete_ns"),
)
_DATA_CODES = [scsi.operation_code(name) for name in (*scsi.READS, *scsi.WRITES)]


def request_rows(records: Records) -> Table:
    """
    Rows of dtype `REQUEST` for request records; the time split and the calls are still zero.

    ``block_bytes`` is what transfer length and block count give: QEMU sets ``xfer`` to their product
    (scsi_req_xfer, hw/scsi/scsi-bus.c).
    """
    rows = np.zeros(len(records), dtype=REQUEST)
    for name in _SAME_IN_REQUEST:
        rows[name] = records[name]
    cdbs = records["cdb"]
    rows["opcode"] = cdbs[:, 0]
    rows["operation"] = scsi.operations(cdbs)
    rows["lba"], blocks = scsi.addresses(cdbs)
    rows["bytes"] = records["transfer_bytes"]
    moves_data = is_data(rows) & (blocks > 0)
    rows["block_bytes"] = np.where(moves_data, rows["bytes"] // np.maximum(blocks, 1), 0)
    return rows


def call_rows(records: Records) -> Table:
    """Rows of dtype `CALL` for the RBD halves of records; no parent and no join yet."""
    rows = np.zeros(len(records), dtype=CALL)
    for name in ("pid", "operation", "request", "image", "offset", "length", "return_value"):
        rows[name] = records[name]
    rows["submit_ns"], rows["complete_ns"] = records["call_submit_ns"], records["call_complete_ns"]
    rows["parent"] = -1
    return rows


def is_data(requests: Table) -> NDArray[np.bool_]:
    """Which requests move the disk's data: READ and WRITE, whose byte range the CDB tells."""
    mask: Any = np.isin(requests["operation"], _DATA_CODES)
    return mask


def byte_ranges(requests: Table) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """First byte and end of each request's range on the disk, uint64, shape (n,); both 0 where the CDB tells none."""
    start = requests["lba"] * requests["block_bytes"].astype("u8")
    return start, np.where(requests["block_bytes"] > 0, start + requests["bytes"], 0)
