# SPDX-License-Identifier: Apache-2.0
"""
The probed functions, and the instruction of each on which the trap is placed.

The kernel emulates some instructions and single-steps all others.  Single-stepping costs one more exception per hit,
which on a virtual machine makes a hit 20 times as expensive.  So the trap is placed on the first emulated instruction
at which the arguments are where one of our programs expects them: in their own registers or, for librbd's rare calls,
in those of the function behind the API (`Probe.inner`).  If there is no such instruction, the trap is placed on the
entry, and `Site.slow_because` gives the reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import capstone

from otel_qemu.events import SITES
from otel_qemu.probe.disassembly import decoded
from otel_qemu.probe.elf import Binary, Function

_ARGUMENT_REGISTERS = ("rdi", "rsi", "rdx", "rcx", "r8", "r9")  # System V AMD64 ABI
_PROLOGUE_BYTES = 64
_LONGEST_FUNCTION_BYTES = 4096


@dataclass(frozen=True)
class Probe:
    """
    One probed function; its program in ``bpf/sites.bpf.c`` has the same name.

    Attributes:
        function: the symbol.
        layer: ``scsi`` (in QEMU), ``rbd`` (in librbd) or ``audit`` (in QEMU, with ``--audit`` only).
        arguments: the number of arguments that the probe reads.
        required: whether its layer cannot be traced without it.  Some builds lack the others, or rarely call them.
        completion: the index of the rbd_completion_t argument, if there is an inner program; else None.
    """

    function: str
    layer: str
    arguments: int
    required: bool
    completion: int | None = None

    @property
    def entry(self) -> "Registers":
        """The contents of the argument registers at the entry, as the program ``FUNCTION`` needs them."""
        return {register: f"{index}" for index, register in enumerate(_ARGUMENT_REGISTERS[: self.arguments])}

    @property
    def inner(self) -> "Registers":
        """
        The contents of the registers where librbd calls the inner function, as ``FUNCTION_inner`` needs them.

        Source: librbd/librbd.cc, rbd_aio_discard and its like: ``Io<>::aio_discard(*ictx, get_aio_completion(comp),
        off, len, ...)``, where get_aio_completion is ``comp->pc``, its first field.
        """
        values = [str(index) for index in range(self.arguments) if index != self.completion]
        values.insert(1, f"*{self.completion}")
        return dict(zip(_ARGUMENT_REGISTERS, values, strict=False))


Registers = dict[str, str]
"""Values by 64-bit register: ``3`` is the fourth argument, ``*3`` the word that it points to."""

PROBES = (
    Probe("scsi_req_complete", "scsi", 2, required=True),
    Probe("scsi_req_complete_failed", "scsi", 2, required=False),
    Probe("scsi_req_cancel_complete", "scsi", 1, required=False),
    Probe("scsi_req_retry", "scsi", 1, required=False),
    Probe("scsi_req_enqueue", "scsi", 1, required=True),
    Probe("rbd_aio_release", "rbd", 1, required=True),
    Probe("rbd_aio_readv", "rbd", 5, required=True),
    Probe("rbd_aio_writev", "rbd", 5, required=True),
    Probe("rbd_aio_read", "rbd", 5, required=False),
    Probe("rbd_aio_write", "rbd", 5, required=False),
    Probe("rbd_aio_discard", "rbd", 4, required=False, completion=3),
    Probe("rbd_aio_write_zeroes", "rbd", 4, required=False, completion=3),
    Probe("rbd_aio_flush", "rbd", 2, required=False, completion=1),
)
"""The order of attaching is ends before submits, so that no request in flight misses its end."""

PROOF = Probe("scsi_req_new", "scsi", 4, required=False)
"""This function is probed until enough requests have proven the layout of SCSIRequest."""

AUDIT_PROBES = (
    Probe("dma_blk_io", "audit", 6, required=True),
    Probe("blk_aio_preadv", "audit", 6, required=True),
    Probe("blk_aio_pwritev", "audit", 6, required=True),
    Probe("blk_aio_pwrite_zeroes", "audit", 6, required=True),
    Probe("blk_aio_pdiscard", "audit", 5, required=True),
    Probe("blk_aio_flush", "audit", 3, required=True),
    Probe("qemu_coroutine_create", "audit", 0, required=True),
    Probe("aio_co_enter", "audit", 2, required=True),
    Probe("qemu_coroutine_switch", "audit", 3, required=True),
)
"""The exact chain of ``bpf/audit.bpf.c``, in QEMU; link-time optimisation may inline some of its functions."""

_INNER = "_inner"
assert {probe.function for probe in (*PROBES, *AUDIT_PROBES, PROOF)} == {name.removesuffix(_INNER) for name in SITES}


@dataclass(frozen=True)
class Site:
    """
    The place of a probe in one file.

    Attributes:
        probe: the probe.
        program: the program of ``bpf/sites.bpf.c`` and `events.SITES` that expects the arguments as they are here.
        offset: in the file, in bytes.
        table: the symbol table that has the function.
        instruction: the instruction there, as a disassembler prints it.
        slow_because: the reason why the kernel does not emulate the instruction; None if it does.
    """

    probe: Probe
    program: str
    offset: int
    table: str
    instruction: str
    slow_because: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether the kernel emulates the instruction (cheap) or single-steps it."""
        return self.slow_because is None


def sites(binary: Binary, layer: str) -> tuple[list[Site], list[Probe]]:
    """
    Return the sites of a layer in a file, and the probes whose function the file lacks.

    Raises:
        BadInput: the file cannot be read.
    """
    found: list[Site] = []
    missing: list[Probe] = []
    for probe in (*PROBES, *AUDIT_PROBES):
        if probe.layer == layer:
            function = binary.function(probe.function)
            if function is None:
                missing.append(probe)
            else:
                found.append(_site(binary, probe, function))
    return found, missing


def proof_site(binary: Binary) -> Site | None:
    """Return the site of `PROOF` in QEMU's binary; None if it lacks the function."""
    function = binary.function(PROOF.function)
    return _site(binary, PROOF, function) if function else None


def _site(binary: Binary, probe: Probe, function: Function) -> Site:
    """Return the site at the first suitable instruction of a function, or at its entry."""
    code = list(decoded(binary.code(function.offset, _PROLOGUE_BYTES), function.offset))
    if not code:
        return Site(probe, probe.function, function.offset, function.table, "?", "its first instruction is unknown")
    because = "none of its first instructions is one that the kernel emulates"
    registers = dict(probe.entry)
    for instruction in code:
        if is_emulated(bytes(instruction.bytes)):
            program = _program(probe, registers)
            if program and not _is_jumped_to(binary, function, instruction.address):
                return Site(probe, program, instruction.address, function.table, _text(instruction))
            because = _because(program, instruction)
        if _leaves(instruction):
            break
        _execute(instruction, registers)
    return Site(probe, probe.function, function.offset, function.table, _text(code[0]), because)


def _program(probe: Probe, registers: Registers) -> str | None:
    """Return the program that expects the arguments in these registers; None if there is none."""
    if probe.entry.items() <= registers.items():
        return probe.function
    if probe.completion is not None and probe.inner.items() <= registers.items():
        return probe.function + _INNER
    return None


def _because(program: str | None, instruction: Any) -> str:
    if program:
        return "a jump leads back to the first instruction that the kernel emulates"
    return f"arguments are lost before `{_text(instruction)}`, the first instruction that the kernel emulates"


def _execute(instruction: Any, registers: Registers) -> None:
    """Update the contents of the registers after an instruction, which may copy, load or overwrite arguments."""
    moved = _moved(instruction, registers) if instruction.id == capstone.x86.X86_INS_MOV else None
    for name in _written(instruction):
        registers.pop(name, None)
    if moved:
        registers[instruction.reg_name(instruction.operands[0].reg)] = moved


def _moved(instruction: Any, registers: Registers) -> str | None:
    """Return the value that a ``mov`` puts into a 64-bit register: an argument, or the word that one points to."""
    to, source = instruction.operands
    if to.type != capstone.x86.X86_OP_REG or to.size != 8:
        return None
    if source.type == capstone.x86.X86_OP_REG:
        return registers.get(instruction.reg_name(source.reg))
    if source.type != capstone.x86.X86_OP_MEM or source.mem.disp or source.mem.index or source.mem.segment:
        return None
    pointer = registers.get(instruction.reg_name(source.mem.base) or "", "*")
    return None if "*" in pointer else f"*{pointer}"


def _is_jumped_to(binary: Binary, function: Function, site: int) -> bool:
    """Whether a jump in the function leads behind its entry, up to the site: the probe would fire again, or late."""
    if site == function.offset:
        return False
    # A symbol may have no size.  Then later functions are searched, too, but they do not jump into this one.
    size = min(function.size or _LONGEST_FUNCTION_BYTES, _LONGEST_FUNCTION_BYTES)
    code = binary.code(function.offset, size)
    return any(function.offset < target <= site for target in _jump_targets(code, function.offset))


def _jump_targets(code: bytes, offset: int) -> Iterator[int]:
    for instruction in decoded(code, offset):
        if instruction.group(capstone.CS_GRP_JUMP) and instruction.operands[0].type == capstone.x86.X86_OP_IMM:
            yield instruction.operands[0].imm


def _written(instruction: Any) -> set[str]:
    """Return the registers that an instruction writes, by their 64-bit names."""
    _read, written = instruction.regs_access()
    return {_WHOLE.get(name, name) for name in map(instruction.reg_name, written)}


_WHOLE = {
    part: whole
    for whole, parts in {
        "rdi": ("edi", "di", "dil"),
        "rsi": ("esi", "si", "sil"),
        "rdx": ("edx", "dx", "dl", "dh"),
        "rcx": ("ecx", "cx", "cl", "ch"),
        "r8": ("r8d", "r8w", "r8b"),
        "r9": ("r9d", "r9w", "r9b"),
    }.items()
    for part in parts
}


def _leaves(instruction: Any) -> bool:
    groups = (capstone.CS_GRP_JUMP, capstone.CS_GRP_CALL, capstone.CS_GRP_RET, capstone.CS_GRP_INT)
    return any(instruction.group(group) for group in groups)


def _text(instruction: Any) -> str:
    return f"{instruction.mnemonic} {instruction.op_str}".strip()


def is_emulated(instruction: bytes) -> bool:
    """
    Whether the kernel emulates an instruction under a uprobe.

    Source: Linux arch/x86/kernel/uprobes.c, branch_setup_xol_ops and push_setup_xol_ops: nop, ``push`` of a 64-bit
    register (of the prefixes, only 41), ``jmp``, ``call`` and conditional jumps with an immediate target.  The rarer
    encodings are as Linux 6.18 was seen to treat them.
    """
    if instruction in (b"\x66\x90", b"\x90"):
        return True
    code = instruction.removeprefix(b"\xf2")  # bnd, which changes nothing
    if code[0] == 0x41:
        return len(code) == 2 and 0x50 <= code[1] <= 0x57
    if code[0] == 0x0F:
        return code[1] == 0x1F or 0x80 <= code[1] <= 0x8F
    return code[0] in (0xEB, 0xE9, 0xE8) or 0x50 <= code[0] <= 0x57 or 0x70 <= code[0] <= 0x7F
