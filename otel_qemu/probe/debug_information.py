"""
Offsets of fields, as the compiler has written them down: in a binary, in its debug file, or in debuginfod's.
"""

import os
import re
from pathlib import Path

from otel_qemu.errors import BadInput
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
_known: dict[tuple[str, int, int], Offsets | BadInput] = {}
"""What files have shown, by path, time and size: to read one takes seconds, and a hundred guests run one binary."""


class Misfit(BadInput):
    """A struct is laid out so that the kernel side cannot read it."""


def evidence(binary: Binary, struct: str, is_needed: bool = True) -> list[Evidence]:
    """
    What the first file that knows a struct says of it.

    Args:
        binary: that has the struct; what keeps a file from being used goes to its `problems`.
        struct: `layouts.SCSI_REQUEST` or one of the others.
        is_needed: nothing else shows the struct; if something does, a file that cannot be used is no problem.

    Raises:
        Misfit: it cannot be read by the kernel side.
    """
    for path in binary.debug_files():
        try:
            offsets = _translated(struct, _offsets(path))
        except Misfit:
            raise
        except BadInput as error:
            if is_needed:
                binary.report(str(error))
            continue
        if offsets:
            return [Evidence(offsets, f"debug information ({_shown(path, binary)})")]
    return []


def _shown(path: Path, binary: Binary) -> str:
    """A file as its process names it."""
    return "in the file itself" if str(path) == binary.path else re.sub(r"^/proc/\d+/root", "", str(path))


def _offsets(path: Path) -> Offsets:
    """
    What a file says of all the structs.

    Raises:
        BadInput: it is not readable; said again without another look while the file stays the same.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}") from error
    key = str(path), status.st_mtime_ns, status.st_size
    if key not in _known:
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        try:
            _known[key] = offsets_in(str(path), _STRUCTS)
        except BadInput as error:
            _known[key] = error
    known = _known[key]
    if isinstance(known, BadInput):
        raise known
    return known


def _translated(struct: str, offsets: Offsets) -> dict[str, int] | None:
    """
    In the fields of `layouts.Layout`; None where the struct was not found.

    Raises:
        Misfit: it cannot be read by the kernel side.
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
        raise Misfit(
            f"debug information lays out SCSIRequest as no QEMU that is known (behind its tag: {beside}): "
            "report it with the output of `otel-qemu check --json`"
        )
    return {ours: fields[theirs] for ours, theirs in _SCSI_FIELDS.items()}
