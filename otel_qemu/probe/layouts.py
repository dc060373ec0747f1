"""
Where the fields we read lie in QEMU's and librbd's structs, shown by the bytes of the very files that are running.

No version string is ever looked at: stable updates move fields.  Each derivation reads one short exported function that
touches the field and nothing else; where its bytes are not understood, the field is reported as unknown, and what needs
it is left out.  The kernel's in-flight table is the second check: a walk along wrong offsets ends at no request.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import capstone

from otel_qemu.probe.elf import Binary

UNKNOWN_OFFSET = 0xFFFFFFFF

_GET_ARG = "_ZN6librbd3RBD13AioCompletion7get_argEv"  # librbd::RBD::AioCompletion::get_arg()


@dataclass(frozen=True)
class Layout:
    """
    Offsets in bytes, the fields of ``struct process`` in ``bpf/tables.bpf.c``, in its order.

    `UNKNOWN_OFFSET` stands for what this build does not show.
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


# SCSIRequest by the offset of its field `retry`: QEMU 2.12 to 9.2, and from 10.0 on, where `ctx` stands before
# `refcount`.  `dev` lies before both.
_SCSI_REQUEST = {
    0x172: {"device": 0x08, "tag": 0x1C, "sense": 0x70},
    0x17A: {"device": 0x08, "tag": 0x24, "sense": 0x78},
}

# QEMU's object of one call by where its callback stores the return value (block/rbd.c): RADOSCB up to 6.0; RBDTask
# { bs, co, complete, ret } from 6.1; RBDTask { co, ret } from 10.0.7.
_RBD_TASK = {
    0x20: {"coroutine": 0, "through_acb": 1, "return_value": 0x20},
    0x18: {"coroutine": 8, "through_acb": 0, "return_value": 0x18},
    0x08: {"coroutine": 0, "through_acb": 0, "return_value": 0x08},
}


def scsi_request_offsets(qemu: Binary) -> dict[str, int] | None:
    """
    Offsets in SCSIRequest, or None.

    ``scsi_req_retry(req)`` (hw/scsi/scsi-bus.c) is ``req->retry = true``: one store that shows the field's offset.
    """
    for instruction in _instructions(qemu, "scsi_req_retry", 16):
        if instruction.mnemonic == "mov" and _memory(instruction, 0, "rdi") is not None:
            return _SCSI_REQUEST.get(_memory(instruction, 0, "rdi") or 0)
    return None


def completion_argument_offset(librbd: Binary) -> int | None:
    """
    Offset of ``complete_arg`` in librbd::io::AioCompletion, or None.

    ``librbd::RBD::AioCompletion::get_arg()`` is ``return pc->complete_arg`` (librbd/librbd.cc): two loads.
    """
    moves = [i for i in _instructions(librbd, _GET_ARG, 24) if i.mnemonic == "mov"]
    loads = [move for move in moves if move.operands[1].type == capstone.x86.X86_OP_MEM]
    if len(loads) != 2 or _memory(loads[0], 1, "rdi") != 0:
        return None
    return _memory(loads[1], 1, str(loads[0].reg_name(loads[0].operands[0].reg)))


def rbd_task_offsets(block_rbd: Binary) -> dict[str, int] | None:
    """
    Offsets in RBDTask or RADOSCB, or None.

    QEMU's callback (block/rbd.c: qemu_rbd_completion_cb, rbd_finish_aiocb) stores what rbd_aio_get_return_value()
    returned before it calls anything else, so the one store of rax behind that call shows the field's offset.
    """
    try:
        sites = list(block_rbd.calls_to("rbd_aio_get_return_value"))
    except LookupError:
        return None
    stores = {store for site in sites for store in _stores(block_rbd, site)}
    return _RBD_TASK.get(stores.pop()) if len(stores) == 1 else None


def _stores(binary: Binary, offset: int) -> Iterator[int]:
    """Displacements of ``mov %rax, disp(reg)`` before the next call or jump; not those that put rax by on the stack."""
    for instruction in _decode(binary.code(offset, 48)):
        if instruction.mnemonic in ("call", "jmp", "ret"):
            return
        if instruction.mnemonic == "mov" and instruction.reg_name(instruction.operands[1].reg) == "rax":
            target = instruction.operands[0]
            is_field = target.type == capstone.x86.X86_OP_MEM and not target.mem.segment
            if is_field and instruction.reg_name(target.mem.base) != "rsp":
                yield int(target.mem.disp)


def _instructions(binary: Binary, function: str, size: int) -> Iterator[Any]:
    """The instructions of a short function up to its return."""
    found = binary.function(function)
    if found is None:
        return
    for instruction in _decode(binary.code(found.offset, size)):
        if instruction.mnemonic == "ret":
            return
        yield instruction


def _decode(code: bytes) -> Iterator[Any]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return iter(decoder.disasm(code, 0))


def _memory(instruction: Any, operand: int, base: str) -> int | None:
    """Displacement of a plain ``disp(base)`` operand, or None when it is something else."""
    what = instruction.operands[operand]
    if what.type != capstone.x86.X86_OP_MEM or what.mem.index or instruction.reg_name(what.mem.base) != base:
        return None
    return int(what.mem.disp)
