"""
A layout of SCSIRequest out of samples: what scsi_req_new was called with, found in what scsi_req_enqueue was given.

Where neither debug information nor machine code shows the layout, the kernel side copies the first requests of a guest.
Device, tag, LUN and CDB of a request lie at the same places in all of them: all places but one are ruled out.
"""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.probe.layouts import BESIDE_TAG, NEW_SCSI_REQUEST, OLD_SCSI_REQUEST, UNKNOWN_OFFSET

SAMPLES = 64
"""Of one process, of either side: as many as ``bpf/tables.bpf.c`` keeps."""
ENOUGH_SAMPLES = 16
"""Requests, all of which have device, tag, LUN and CDB at the same places."""

EXPECTED = np.dtype([("device", "<u8"), ("cdb", "u1", 8), ("tag", "<u4"), ("lun", "<u4")])
"""``struct expected_request`` of ``bpf/tables.bpf.c``; of the CDB, 6 bytes."""
REQUEST_BYTES = 256
"""``struct request_bytes``."""

_CDB_BYTES = 6
_LAST_TAG = REQUEST_BYTES - BESIDE_TAG["cdb"] - _CDB_BYTES

Place = tuple[int, int]
"""Offsets of `device` and `tag`."""


def calibrated(made: NDArray[np.void], submitted: NDArray[np.uint8]) -> dict[str, int] | None:
    """
    Offsets of ``device``, ``tag`` and ``sense``, or None while more than one place, or none, is possible.

    The other fields are where they are beside the tag in every QEMU that is known.  Where the sense data are cannot be
    seen at a submit: known for the layouts that there are, else `UNKNOWN_OFFSET`.

    Args:
        made: what scsi_req_new was called with, dtype `EXPECTED`, shape (n,).
        submitted: what scsi_req_enqueue was given, shape (m, `REQUEST_BYTES`).
    """
    shown = [places for request in submitted if (places := _places(made, request))]
    left = set.intersection(*shown) if shown else set()
    if len(shown) < ENOUGH_SAMPLES or len(left) != 1:
        return None
    device, tag = left.pop()
    known = next(
        (each for each in (OLD_SCSI_REQUEST, NEW_SCSI_REQUEST) if (each["device"], each["tag"]) == (device, tag)), None
    )
    return {"device": device, "tag": tag, "sense": known["sense"] if known else UNKNOWN_OFFSET}


def _places(made: NDArray[np.void], request: NDArray[np.uint8]) -> set[Place]:
    """Where this request would have to have its fields, to be one of those that were made."""
    words, pointers = request.view("<u4"), request.view("<u8")
    found: set[Place] = set()
    for tag in range(0, _LAST_TAG + 1, 4):
        cdb = request[tag + BESIDE_TAG["cdb"] :][:_CDB_BYTES]
        same = (made["tag"] == words[tag // 4]) & (made["lun"] == words[(tag + BESIDE_TAG["lun"]) // 4])
        same &= (made["cdb"][:, :_CDB_BYTES] == cdb).all(axis=1)
        for device in made["device"][same]:
            found |= {(8 * int(index), tag) for index in np.flatnonzero(pointers == device)}
    return found
