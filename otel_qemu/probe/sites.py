"""
Which functions are probed, and on which instruction of each the trap goes.

The kernel emulates some instructions and single-steps all others, which costs an exception more: on a virtual machine
20 times the hit.  So the trap goes on the first instruction that is emulated, as long as every argument still lies in
its register there: behind ``endbr64``, which opens every function of a CET build, at least.  Where there is no such
instruction, it goes on the entry, and `Site.slow_because` says why.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import capstone

from otel_qemu.events import SITES
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
        layer: ``scsi`` (in QEMU) or ``rbd`` (in librbd).
        arguments: how many of its arguments the probe reads.
        required: without it the layer cannot be traced; else the function is newer than some builds, or a rare way out.
    """

    function: str
    layer: str
    arguments: int
    required: bool


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
    Probe("rbd_aio_discard", "rbd", 4, required=False),
    Probe("rbd_aio_write_zeroes", "rbd", 4, required=False),
    Probe("rbd_aio_flush", "rbd", 2, required=False),
)
"""Ends before submits: the order of attaching, so that nothing put in flight can miss its end."""

assert {probe.function for probe in PROBES} == set(SITES)


@dataclass(frozen=True)
class Site:
    """
    Where a probe goes in one file.

    Attributes:
        probe: what it is for.
        offset: in the file, in bytes.
        table: the symbol table that named the function.
        instruction: what stands there, as a disassembler prints it.
        slow_because: why no instruction that the kernel emulates would do; None: one does.
    """

    probe: Probe
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
    The sites of a layer in a file, and the probes whose function the file does not have.

    Raises:
        BadInput: the file cannot be read.
    """
    found: list[Site] = []
    missing: list[Probe] = []
    for probe in PROBES:
        if probe.layer == layer:
            function = binary.function(probe.function)
            if function is None:
                missing.append(probe)
            else:
                found.append(_site(binary, probe, function))
    return found, missing


def _site(binary: Binary, probe: Probe, function: Function) -> Site:
    """The first good instruction of a function, or its entry."""
    code = list(_decode(binary.code(function.offset, _PROLOGUE_BYTES), function.offset))
    if not code:
        return Site(probe, function.offset, function.table, "?", "its first instruction is not understood")
    registers = set(_ARGUMENT_REGISTERS[: probe.arguments])
    because = "none of its first instructions is one that the kernel emulates"
    for instruction in code:
        if is_emulated(bytes(instruction.bytes)):
            if not _is_jumped_to(binary, function, instruction.address):
                return Site(probe, instruction.address, function.table, _text(instruction))
            because = "a jump leads back to the first instruction that the kernel emulates"
            break
        lost = registers & _written(instruction)
        if lost or _leaves(instruction):
            because = f"`{_text(instruction)}` comes before the first instruction that the kernel emulates"
            break
    return Site(probe, function.offset, function.table, _text(code[0]), because)


def _is_jumped_to(binary: Binary, function: Function, site: int) -> bool:
    """Whether a jump within the function leads behind its entry and not past the site: it would fire again, or late."""
    if site == function.offset:
        return False
    code = binary.code(function.offset, min(function.size, _LONGEST_FUNCTION_BYTES))
    return any(function.offset < target <= site for target in _jump_targets(code, function.offset))


def _jump_targets(code: bytes, offset: int) -> Iterator[int]:
    for instruction in _decode(code, offset):
        if instruction.group(capstone.CS_GRP_JUMP) and instruction.operands[0].type == capstone.x86.X86_OP_IMM:
            yield instruction.operands[0].imm


def _written(instruction: Any) -> set[str]:
    """The argument registers that an instruction writes, by their 64-bit names."""
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


def _decode(code: bytes, offset: int) -> Iterator[Any]:
    decoder = capstone.Cs(capstone.CS_ARCH_X86, capstone.CS_MODE_64)
    decoder.detail = True
    return iter(decoder.disasm(code, offset))


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
