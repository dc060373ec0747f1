# SPDX-License-Identifier: Apache-2.0
"""
Offsets of fields from the machine code of the running files.

Each derivation reads the beginning of a function that uses the field.  Code that it does not understand gives no
evidence.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import capstone

from otel_qemu.probe.disassembly import decoded
from otel_qemu.probe.elf import Binary
from otel_qemu.probe.layouts import NEW_SCSI_REQUEST, OLD_SCSI_REQUEST, Evidence

_GET_ARG = "_ZN6librbd3RBD13AioCompletion7get_argEv"  # librbd::RBD::AioCompletion::get_arg()
_PROLOGUE_BYTES = 128
_MINUS_ONE = (-1, 0xFFFF, 0xFFFFFFFF)

# SCSIRequest by the offset of one of its fields.
_BY_FIELD = {
    "status": {0x24: OLD_SCSI_REQUEST, 0x2C: NEW_SCSI_REQUEST},
    "io_canceled": {0x171: OLD_SCSI_REQUEST, 0x179: NEW_SCSI_REQUEST},
    "retry": {0x172: OLD_SCSI_REQUEST, 0x17A: NEW_SCSI_REQUEST},
}
# The field of the request that each function (hw/scsi/scsi-bus.c) accesses first:
#   scsi_req_retry                     req->retry = true
#   scsi_req_enqueue                   assert(!req->retry)
#   scsi_req_complete, .._failed       assert(req->status == -1 && ...)
#   scsi_req_cancel_complete           assert(req->io_canceled)
# Link-time optimisation inlines some of them, such as scsi_req_retry, and leaves the others.
_SCSI_FUNCTIONS = {
    "scsi_req_retry": "retry",
    "scsi_req_enqueue": "retry",
    "scsi_req_complete": "status",
    "scsi_req_complete_failed": "status",
    "scsi_req_cancel_complete": "io_canceled",
}

# QEMU's object of one call, by the offset at which its callback stores the return value (block/rbd.c): RADOSCB up to
# 6.0; RBDTask { bs, co, complete, ret } from 6.1 on; RBDTask { co, ret } from 10.0.7 on.
_RBD_TASK = {
    0x20: {"coroutine": 0, "through_acb": 1, "return_value": 0x20},
    0x18: {"coroutine": 8, "through_acb": 0, "return_value": 0x18},
    0x08: {"coroutine": 0, "through_acb": 0, "return_value": 0x08},
}


def scsi_request(qemu: Binary) -> list[Evidence]:
    """Return which of the two layouts of SCSIRequest the functions show; both layouts if the functions differ."""
    functions: dict[int, list[str]] = defaultdict(list)
    layouts: dict[int, dict[str, int]] = {}
    for function, field in _SCSI_FUNCTIONS.items():
        layout = _BY_FIELD[field].get(_first_look(qemu, function, field) or 0)
        if layout:
            functions[layout["tag"]].append(function)
            layouts[layout["tag"]] = layout
    return [Evidence(layouts[tag], f"machine code of {', '.join(names)}") for tag, names in functions.items()]


def completion(librbd: Binary) -> list[Evidence]:
    """
    Return the offset of ``complete_arg`` in librbd::io::AioCompletion.

    ``librbd::RBD::AioCompletion::get_arg()`` is ``return pc->complete_arg`` (librbd/librbd.cc): two loads.
    """
    moves = [i for i in _instructions(librbd, _GET_ARG, 24) if i.mnemonic == "mov"]
    loads = [move for move in moves if move.operands[1].type == capstone.x86.X86_OP_MEM]
    if len(loads) != 2 or _memory(loads[0], 1, "rdi") != 0:
        return []
    offset = _memory(loads[1], 1, str(loads[0].reg_name(loads[0].operands[0].reg)))
    return [] if offset is None else [Evidence({"completion_argument": offset}, "machine code of get_arg")]


def rbd_task(block_rbd: Binary) -> list[Evidence]:
    """
    Return the layout of RBDTask or RADOSCB.

    QEMU's callback (block/rbd.c: qemu_rbd_completion_cb, rbd_finish_aiocb) calls rbd_aio_get_return_value() and stores
    the result before it calls anything else.  So the one store of rax behind that call shows the field's offset.
    """
    try:
        sites = list(block_rbd.calls_to("rbd_aio_get_return_value"))
    except LookupError:
        return []
    stores = {store for site in sites for store in _stores(block_rbd, site)}
    offsets = _RBD_TASK.get(stores.pop()) if len(stores) == 1 else None
    return [Evidence(offsets, "machine code behind the call of rbd_aio_get_return_value")] if offsets else []


def _first_look(binary: Binary, function: str, field: str) -> int | None:
    """Return the offset of the first field of its argument that a function accesses: a byte, or compared with -1."""
    holders = {"rdi"}
    for instruction in _instructions(binary, function, _PROLOGUE_BYTES):
        if instruction.group(capstone.CS_GRP_CALL) or instruction.mnemonic == "jmp":
            return None
        for operand in instruction.operands:
            if _is_field(instruction, operand, holders) and (
                _is_minus_one(instruction) if field == "status" else operand.size == 1
            ):
                return int(operand.mem.disp)
        _follow(instruction, holders)
    return None


def _is_field(instruction: Any, operand: Any, holders: set[str]) -> bool:
    return (
        operand.type == capstone.x86.X86_OP_MEM
        and not operand.mem.index
        and not operand.mem.segment
        and instruction.reg_name(operand.mem.base) in holders
    )


def _is_minus_one(instruction: Any) -> bool:
    """Whether it compares 16 or 32 bits with -1; from QEMU 6.0 on, two 16-bit fields there are -1 at first."""
    last = instruction.operands[-1]
    return instruction.mnemonic == "cmp" and last.type == capstone.x86.X86_OP_IMM and last.imm in _MINUS_ONE


def _follow(instruction: Any, holders: set[str]) -> None:
    """Update the set of registers that hold the first argument, after an instruction."""
    copied = (
        instruction.id == capstone.x86.X86_INS_MOV
        and all(operand.type == capstone.x86.X86_OP_REG for operand in instruction.operands)
        and instruction.reg_name(instruction.operands[1].reg) in holders
    )
    _read, written = instruction.regs_access()
    holders.difference_update(map(_whole, map(instruction.reg_name, written)))
    if copied:
        holders.add(instruction.reg_name(instruction.operands[0].reg))


def _whole(register: str) -> str:
    """Return the 64-bit register that this register is a part of."""
    if register.startswith("r") and register[1:2].isdigit():
        return register.rstrip("dwb")
    return "r" + register.removeprefix("e").removeprefix("r")


def _stores(binary: Binary, offset: int) -> Iterator[int]:
    """Yield displacements of ``mov %rax, disp(reg)`` before the next call or jump, except stores on the stack."""
    for instruction in decoded(binary.code(offset, 48)):
        if instruction.mnemonic in ("call", "jmp", "ret"):
            return
        if instruction.mnemonic == "mov" and instruction.reg_name(instruction.operands[1].reg) == "rax":
            target = instruction.operands[0]
            is_field = target.type == capstone.x86.X86_OP_MEM and not target.mem.segment
            if is_field and instruction.reg_name(target.mem.base) != "rsp":
                yield int(target.mem.disp)


def _instructions(binary: Binary, function: str, size: int) -> Iterator[Any]:
    """Yield the instructions of a function's beginning, up to its return."""
    found = binary.function(function)
    if found is None:
        return
    for instruction in decoded(binary.code(found.offset, min(size, found.size or size))):
        if instruction.mnemonic == "ret":
            return
        yield instruction


def _memory(instruction: Any, operand: int, base: str) -> int | None:
    """Return the displacement of a plain ``disp(base)`` operand; None if it is another operand."""
    place = instruction.operands[operand]
    if place.type != capstone.x86.X86_OP_MEM or place.mem.index or instruction.reg_name(place.mem.base) != base:
        return None
    return int(place.mem.disp)
