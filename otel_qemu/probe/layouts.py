# SPDX-License-Identifier: Apache-2.0
"""
Layouts: the offsets of the fields that we read in QEMU's and librbd's structs.

Version strings are never used, because stable updates move fields.  Each struct is looked for in debug information and
in the machine code of several functions, and all the evidence must agree.  If neither shows SCSIRequest, its layout is
calibrated with a guest's first requests (`probe.calibration`).  Then the kernel proves each layout (`probe.proof`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

UNKNOWN_OFFSET = 0xFFFFFFFF

SCSI_REQUEST, RBD_TASK, COMPLETION = "SCSIRequest", "RBDTask", "AioCompletion"

CALIBRATION = "calibration with the first requests"
"""The source of a layout of SCSIRequest that is found at run time."""

OLD_SCSI_REQUEST = {"device": 0x08, "tag": 0x1C, "sense": 0x70}
"""QEMU 2.12 to 9.2."""
NEW_SCSI_REQUEST = {"device": 0x08, "tag": 0x24, "sense": 0x78}
"""From 10.0 on, where `ctx` stands before `refcount`."""

BESIDE_TAG = {"lun": 0x04, "cdb": 0x1C, "transfer_bytes": 0x34}
"""Distances from SCSIRequest.tag of the fields in ``struct scsi_request_fields`` of ``bpf/scsi.bpf.c``."""


@dataclass(frozen=True)
class Layout:
    """
    Offsets in bytes, the fields of ``struct process`` in ``bpf/tables.bpf.c``, in its order.

    `UNKNOWN_OFFSET` stands for an offset that is not known for this build.
    """

    device: int = UNKNOWN_OFFSET
    tag: int = UNKNOWN_OFFSET
    sense: int = UNKNOWN_OFFSET
    completion_argument: int = UNKNOWN_OFFSET
    coroutine: int = UNKNOWN_OFFSET
    through_acb: int = 0
    return_value: int = UNKNOWN_OFFSET

    @property
    def scsi_known(self) -> bool:
        """Whether SCSI requests can be read."""
        return self.tag != UNKNOWN_OFFSET

    @property
    def walk_known(self) -> bool:
        """Whether the parent of an RBD call can be found by pointers."""
        return UNKNOWN_OFFSET not in (self.completion_argument, self.coroutine)


@dataclass(frozen=True)
class Evidence:
    """
    The layout of one struct by one source.

    Attributes:
        offsets: some of the fields of `Layout`.
        source: in words: ``debug information (PATH)``, ``machine code of scsi_req_enqueue``.
    """

    offsets: dict[str, int]
    source: str


def agreed(evidence: Sequence[Evidence]) -> Evidence | None:
    """
    Return the layout that all sources agree on, with all their names; None without any source.

    Raises:
        Disagreement: two sources differ.
    """
    for other in evidence[1:]:
        if other.offsets != evidence[0].offsets:
            raise Disagreement(evidence[0], other)
    return Evidence(evidence[0].offsets, "; ".join(each.source for each in evidence)) if evidence else None


class Disagreement(Exception):
    """Two sources differ; the text names both and their offsets."""

    def __init__(self, one: Evidence, other: Evidence) -> None:
        super().__init__(f"{_in_words(one)}, but {_in_words(other)}")


def _in_words(evidence: Evidence) -> str:
    offsets = ", ".join(f"{field} at {offset:#x}" for field, offset in evidence.offsets.items())
    return f"{evidence.source}: {offsets}"
