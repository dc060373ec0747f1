# SPDX-License-Identifier: Apache-2.0
"""
Offsets of fields from DWARF debug information: in the binary, in its debug file, or in one from debuginfod.
"""

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from otel_qemu.errors import BadInput
from otel_qemu.probe.child_process import Unwanted
from otel_qemu.probe.dwarf import Offsets, Struct
from otel_qemu.probe.dwarf_process import offsets_in
from otel_qemu.probe.elf import Binary
from otel_qemu.probe.layouts import BESIDE_TAG, COMPLETION, RBD_TASK, SCSI_REQUEST, Evidence

_SCSI_FIELDS = {"device": "dev", "tag": "tag", "sense": "sense"}
_BESIDE_TAG = {"lun": "lun", "cdb": "cmd.buf", "transfer_bytes": "cmd.xfer"}

_STRUCTS = (
    Struct("hw/scsi/scsi-bus.c", "SCSIRequest", (*_SCSI_FIELDS.values(), *_BESIDE_TAG.values())),
    Struct("block/rbd.c", "RBDTask", ("co", "ret")),
    Struct("block/rbd.c", "RADOSCB", ("acb", "ret")),
    Struct("librbd/io/AioCompletion.cc", "librbd::io::AioCompletion", ("complete_arg",)),
)

_MOST_KNOWN = 64


class UnsupportedLayout(BadInput):
    """The kernel side cannot read a struct with this layout."""


class DebugInformation:
    """
    Reads debug information, and remembers the results: a file takes seconds, and a hundred guests may run one binary.

    Args:
        read: returns the offsets of structs in a file.
    """

    def __init__(self, read: Callable[[str, Iterable[Struct]], Offsets] = offsets_in) -> None:
        self._read = read
        self._known: dict[tuple[str, int, int], Offsets | BadInput] = {}
        """Results by path, time and size."""

    def evidence(self, binary: Binary, struct: str, is_needed: bool = True) -> list[Evidence]:
        """
        Return the layout of a struct from the first file that has it; empty if no file has it.

        Args:
            binary: uses the struct.  If a file cannot be read, the reason goes to its `problems`.
            struct: `layouts.SCSI_REQUEST` or one of the others.
            is_needed: whether this is the only evidence.  If there is other evidence, an unreadable file is no problem.

        Raises:
            UnsupportedLayout: the kernel side cannot read the struct.
        """
        for path in binary.debug_files():
            try:
                offsets = _translated(struct, self._offsets(path))
            except UnsupportedLayout:
                raise
            except BadInput as error:
                if is_needed:
                    binary.report(str(error))
                continue
            if offsets:
                return [Evidence(offsets, f"debug information ({_shown(path, binary)})")]
        return []

    def _offsets(self, path: Path) -> Offsets:
        """
        Return the offsets of all structs that a file has.

        Raises:
            BadInput: the file cannot be read.  While it stays the same, it is not read again.
        """
        try:
            status = os.stat(path)
        except OSError as error:
            raise BadInput(f"cannot read {path}: {error.strerror}") from error
        key = str(path), status.st_mtime_ns, status.st_size
        if key not in self._known:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            try:
                self._known[key] = self._read(str(path), _STRUCTS)
            except Unwanted:
                raise
            except BadInput as error:
                self._known[key] = error
        known = self._known[key]
        if isinstance(known, BadInput):
            raise known
        return known


def _shown(path: Path, binary: Binary) -> str:
    """Return the file's name as its process sees it."""
    return "in the file itself" if str(path) == binary.path else re.sub(r"^/proc/\d+/root", "", str(path))


def _translated(struct: str, offsets: Offsets) -> dict[str, int] | None:
    """
    Return a struct's offsets as fields of `layouts.Layout`; None if the struct was not found.

    Raises:
        UnsupportedLayout: the kernel side cannot read the struct.
    """
    if struct == SCSI_REQUEST and (fields := offsets.get("SCSIRequest")):
        return _scsi_request(fields)
    if struct == RBD_TASK and (fields := offsets.get("RBDTask")):
        return {"coroutine": fields["co"], "through_acb": 0, "return_value": fields["ret"]}
    if struct == RBD_TASK and (fields := offsets.get("RADOSCB")):
        return {"coroutine": fields["acb"], "through_acb": 1, "return_value": fields["ret"]}
    if struct == COMPLETION and (fields := offsets.get("librbd::io::AioCompletion")):
        return {"completion_argument": fields["complete_arg"]}
    return None


def _scsi_request(fields: dict[str, int]) -> dict[str, int]:
    beside = {ours: fields[theirs] - fields["tag"] for ours, theirs in _BESIDE_TAG.items()}
    if beside != BESIDE_TAG:
        raise UnsupportedLayout(
            f"debug information has an unknown layout of SCSIRequest (distances from its tag: {beside}): "
            "report it with the output of `otel-qemu check --json`"
        )
    return {ours: fields[theirs] for ours, theirs in _SCSI_FIELDS.items()}
