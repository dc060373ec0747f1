# SPDX-License-Identifier: Apache-2.0
"""
Find the layout of SCSIRequest in samples: the arguments of scsi_req_new appear in the objects of scsi_req_enqueue.

Samples are taken where neither debug information nor machine code shows the layout.  Device, tag, LUN and CDB lie at
the same offsets in every request, so with enough requests only one possibility is left.
"""

import numpy as np
from numpy.typing import NDArray

from otel_qemu.probe.layouts import BESIDE_TAG, NEW_SCSI_REQUEST, OLD_SCSI_REQUEST, UNKNOWN_OFFSET

SAMPLES = 64
"""Samples of one process, of each of the two functions: as many as ``bpf/tables.bpf.c`` keeps."""
ENOUGH_SAMPLES = 16
"""This many requests must have device, tag, LUN and CDB at the same offsets."""

EXPECTED = np.dtype([("device", "<u8"), ("cdb", "u1", 8), ("tag", "<u4"), ("lun", "<u4")])
"""``struct expected_request`` of ``bpf/tables.bpf.c``; 6 bytes of the CDB are used."""
REQUEST_BYTES = 256
"""``struct request_bytes``."""

_CDB_BYTES = 6
_LAST_TAG = REQUEST_BYTES - BESIDE_TAG["cdb"] - _CDB_BYTES

Place = tuple[int, int]
"""Offsets of `device` and `tag`."""


def calibrated(made: NDArray[np.void], submitted: NDArray[np.uint8]) -> dict[str, int] | None:
    """
    Return the offsets of ``device``, ``tag`` and ``sense``, or None unless exactly one possibility is left.

    The other fields have the same distance from the tag in every known QEMU.  Sense data are not there yet at a submit,
    so their offset is taken from the known layouts, and is `UNKNOWN_OFFSET` for any other.

    Args:
        made: arguments of scsi_req_new, dtype `EXPECTED`, shape (n,).
        submitted: beginnings of the objects that scsi_req_enqueue took, shape (m, `REQUEST_BYTES`).
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
    """Return each pair of offsets at which this object has the fields of one of the requests."""
    words, pointers = request.view("<u4"), request.view("<u8")
    found: set[Place] = set()
    for tag in range(0, _LAST_TAG + 1, 4):
        cdb = request[tag + BESIDE_TAG["cdb"] :][:_CDB_BYTES]
        same = (made["tag"] == words[tag // 4]) & (made["lun"] == words[(tag + BESIDE_TAG["lun"]) // 4])
        same &= (made["cdb"][:, :_CDB_BYTES] == cdb).all(axis=1)
        for device in made["device"][same]:
            found |= {(8 * int(index), tag) for index in np.flatnonzero(pointers == device)}
    return found
