# SPDX-License-Identifier: Apache-2.0
"""Where the traps go: on which instruction, and whether the kernel emulates it."""

from pathlib import Path

import pytest

from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.sites import PROBES, Site, is_emulated, sites
from tests.support.builders import compiled
from tests.support.real_binaries import LIBRBD, QEMU

# QEMU 7.2 and librbd 16 of Debian 12 begin their functions so.
INSTRUCTIONS = {
    (QEMU, "scsi_req_enqueue"): ("push rbp", True),
    (QEMU, "scsi_req_complete"): ("push rbx", True),
    (LIBRBD, "rbd_aio_readv"): ("push rbp", True),
    (LIBRBD, "rbd_aio_writev"): ("push rbp", True),
    (LIBRBD, "rbd_aio_release"): ("jmp 0x", True),
    (LIBRBD, "rbd_aio_flush"): ("call 0x", True),
    (LIBRBD, "rbd_aio_discard"): ("call 0x", True),
    (LIBRBD, "rbd_aio_write_zeroes"): ("call 0x", True),
}

FUNCTIONS = """
.text
.globl scsi_req_enqueue, scsi_req_complete
.type scsi_req_enqueue, @function
.type scsi_req_complete, @function
scsi_req_enqueue: {first}
    ret
.size scsi_req_enqueue, . - scsi_req_enqueue
scsi_req_complete: push %rbx
    pop %rbx
    ret
.section .note.GNU-stack,"",@progbits
"""


def found(path: str, layer: str) -> dict[str, Site]:
    with open_binary(path) as binary:
        return {site.probe.function: site for site in sites(binary, layer)[0]}


@pytest.mark.parametrize(("path", "function"), INSTRUCTIONS)
def test_sites_of_this_machine(path: str, function: str) -> None:
    """Every hot function of the installed binaries is probed on an instruction that the kernel emulates."""
    site = found(path, "scsi" if path == QEMU else "rbd")[function]
    instruction, emulated = INSTRUCTIONS[path, function]
    assert site.instruction.startswith(instruction)
    assert (site.emulated, site.table) == (emulated, ".dynsym")


@pytest.mark.parametrize(("path", "layer"), [(QEMU, "scsi"), (LIBRBD, "rbd")])
def test_nothing_is_missing_on_this_machine(path: str, layer: str) -> None:
    """All functions are there, and their sites come in the order of attaching: ends before submits."""
    with open_binary(path) as binary:
        present, missing = sites(binary, layer)
    assert missing == []
    assert [site.probe for site in present] == [probe for probe in PROBES if probe.layer == layer]


def test_ends_are_attached_before_submits() -> None:
    """Nothing put in flight can miss its end."""
    names = [probe.function for probe in PROBES]
    assert names.index("scsi_req_enqueue") > max(names.index(n) for n in names if "complete" in n)
    assert names.index("rbd_aio_release") < min(names.index(n) for n in names if n.startswith("rbd_aio_read"))


def small(tmp_path: Path, first: str) -> Site:
    """The site of a function that begins so."""
    path = compiled(tmp_path, FUNCTIONS.format(first=first), "-shared", "-nostdlib", language="assembler")
    return found(str(path), "scsi")["scsi_req_enqueue"]


@pytest.mark.parametrize(
    ("first", "behind", "instruction", "emulated"),
    [
        ("push %rbp", 0, "push rbp", True),
        ("endbr64; push %rbp", 4, "push rbp", True),
        ("endbr64; push %r13", 4, "push r13", True),
        ("endbr64; sub $8, %rsp", 0, "endbr64", False),
        ("endbr64; sub $8, %rsp; push %rbp", 8, "push rbp", True),
        ("endbr64; endbr64", 0, "endbr64", False),
        ("endbr32; push %rbp", 4, "push rbp", True),
        ("mov %rdi, %rax; push %rbp", 3, "push rbp", True),
        ("xor %edi, %edi; push %rbp", 0, "xor edi, edi", False),
        ("mov $1, %dil; push %rbp", 0, "mov dil, 1", False),
        ("xor %esi, %esi; push %rbp", 2, "push rbp", True),
        ("sub $8, %rsp; 1: push %rbp; dec %eax; jnz 1b", 0, "sub rsp, 8", False),
        ("ret; push %rbp", 0, "ret", False),
        ("nop", 0, "nop", True),
        ("jmp scsi_req_complete@PLT", 0, "jmp 0x", True),
        ("mov %rdi, %rax", 0, "mov rax, rdi", False),
        (".byte 0x06", 0, "?", False),
    ],
)
def test_where_the_trap_goes(tmp_path: Path, first: str, behind: int, instruction: str, emulated: bool) -> None:
    """On the first instruction that is emulated while the argument lies in its register, else on the entry."""
    site = small(tmp_path, first)
    with open_binary(str(tmp_path / "binary")) as binary:
        function = binary.function("scsi_req_enqueue")
    assert function is not None
    assert site.offset - function.offset == behind
    assert site.instruction.startswith(instruction)
    assert site.emulated == emulated
    assert bool(site.slow_because) != emulated


INNER = """
.text
.globl rbd_aio_discard
.type rbd_aio_discard, @function
rbd_aio_discard: {body}
    call inner
    ret
inner: ret
.size rbd_aio_discard, . - rbd_aio_discard
.section .note.GNU-stack,"",@progbits
"""
IN_ORDER = "mov %rdx, %rcx; mov %rsi, %rdx; mov %rax, %rsi"


@pytest.mark.parametrize(
    ("body", "program"),
    [
        (f"sub $8, %rsp; mov (%rcx), %rax; {IN_ORDER}", "rbd_aio_discard_inner"),
        (f"endbr64; mov (%rcx), %rax; {IN_ORDER}; mov $1, %r9d", "rbd_aio_discard_inner"),
        ("mov %rsi, %rax; mov (%rcx), %rsi; mov %rdx, %rcx; push $1; mov %rax, %rdx", "rbd_aio_discard_inner"),
        ("mov 8(%rdi), %rax", "rbd_aio_discard"),
        ("push %rbp; mov (%rcx), %rax", "rbd_aio_discard"),
        (f"mov (%rcx), %rax; mov 8(%rdi), %rdi; {IN_ORDER}", None),
        (f"mov 8(%rcx), %rax; {IN_ORDER}", None),
        (f"mov (%rcx), %eax; {IN_ORDER}", None),
        (f"mov (%rcx), %rax; mov (%rax), %rax; {IN_ORDER}", None),
        (f"mov (%rcx,%rdx), %rax; {IN_ORDER}", None),
        (f"mov %fs:(%rcx), %rax; {IN_ORDER}", None),
        (f"mov (%rcx), %rax; {IN_ORDER}; add $1, %rdx", None),
        (f"mov (%rcx), %rax; {IN_ORDER}; mov $1, %dl", None),
        ("mov (%rcx), %rsi; mov %rdx, %rcx; mov %rsi, %rdx", None),
    ],
)
def test_arguments_are_followed_to_the_inner_call(tmp_path: Path, body: str, program: str | None) -> None:
    """The inner program only where image, *completion, offset and length are in its registers, whatever came before."""
    path = compiled(tmp_path, INNER.format(body=body), "-shared", "-nostdlib", language="assembler")
    site = found(str(path), "rbd")["rbd_aio_discard"]
    assert site.program == (program or "rbd_aio_discard")
    assert site.emulated == (program is not None)
    assert site.instruction.startswith("call") == (program is not None and not body.startswith("push"))


def test_what_a_file_lacks_is_told(tmp_path: Path) -> None:
    """The probes whose functions are not there, required or not."""
    small(tmp_path, "nop")
    with open_binary(str(tmp_path / "binary")) as binary:
        present, missing = sites(binary, "scsi")
    assert {site.probe.function for site in present} == {"scsi_req_enqueue", "scsi_req_complete"}
    assert all(not probe.required for probe in missing)


# Linux arch/x86/kernel/uprobes.c: push_setup_xol_ops and branch_setup_xol_ops.
@pytest.mark.parametrize(
    ("code", "emulated"),
    [
        *((bytes([0x50 + register]), True) for register in range(8)),
        *((bytes([0x41, 0x50 + register]), True) for register in range(8)),
        ("90", True),
        ("eb 10", True),
        ("e9 10 00 00 00", True),
        ("e8 10 00 00 00", True),
        ("74 10", True),
        ("0f 84 10 00 00 00", True),
        ("58", False),
        ("41 58", False),
        ("ff 75 08", False),
        ("68 10 00 00 00", False),
        ("6a 08", False),
        ("f3 0f 1e fa", False),
        ("48 83 ec 08", False),
        ("48 89 f8", False),
        ("ff 25 10 00 00 00", False),
        ("0f 05", False),
        ("c3", False),
        ("66 e9 10 00", False),
    ],
)
def test_what_the_kernel_emulates(code: str | bytes, emulated: bool) -> None:
    """Pushes of a 64-bit register, nop, and branches with an immediate target."""
    assert is_emulated(bytes.fromhex(code) if isinstance(code, str) else code) == emulated


@pytest.mark.parametrize("prefix", [0x40, 0x48, 0x49])
def test_a_push_with_another_prefix_is_stepped(prefix: int) -> None:
    """push_setup_xol_ops: "only support rex_prefix 0x41"."""
    assert not is_emulated(bytes([prefix, 0x53]))
