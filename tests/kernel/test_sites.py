# SPDX-License-Identifier: Apache-2.0
"""The places of the traps: behind endbr64, on instructions that the kernel emulates, with layouts from the binaries."""

from dataclasses import asdict

import pytest

from otel_qemu.events import COUNTERS
from otel_qemu.probe.inlined import MANY, inlined_functions
from otel_qemu.probe.inspection import Inspector
from otel_qemu.probe.layouts import UNKNOWN_OFFSET
from otel_qemu.probe.processes import read_process
from otel_qemu.probe.sites import is_emulated
from tests.kernel.fake.build import INLINED, OPAQUE, QEMU_5_2, Variant
from tests.kernel.fake_qemu import FakeQemu
from tests.kernel.tracing import Tracing

HOT = ("scsi_req_enqueue", "scsi_req_complete", "rbd_aio_readv", "rbd_aio_writev", "rbd_aio_release")
INNER = {"rbd_aio_discard_inner", "rbd_aio_write_zeroes_inner", "rbd_aio_flush_inner"}
ENDBR64 = b"\xf3\x0f\x1e\xfa"


def test_layouts_are_read_off_the_binaries(variant: Variant, shared_qemu: FakeQemu) -> None:
    """Every offset that the walk needs is found, and equals the build's."""
    found = Inspector().inspect(read_process(shared_qemu.pid))
    assert asdict(found.layout) == {"through_acb": 0} | variant.layout
    assert found.problems == []
    assert found.qemu_version.startswith("fake")
    assert found.symbols == {"scsi": ".dynsym", "rbd": ".dynsym"}


def test_a_layout_that_cannot_be_read_off_is_unknown() -> None:
    """If get_arg() does more than two loads, its offset alone is unknown."""
    with FakeQemu(OPAQUE) as qemu:
        layout = asdict(Inspector().inspect(read_process(qemu.pid)).layout)
    assert layout == {"through_acb": 0, "completion_argument": UNKNOWN_OFFSET} | OPAQUE.layout


def test_no_trap_is_on_endbr64(variant: Variant, shared_qemu: FakeQemu) -> None:
    """In a build that begins every function with endbr64, no emulated site is on it."""
    for file, sites in Inspector().inspect(read_process(shared_qemu.pid)).binaries():
        with open(file.path, "rb") as stream:
            code = stream.read()
        for site in (site for site in sites if site.emulated):
            assert code[site.offset : site.offset + 4] != ENDBR64
            if variant.endbr64 and site.program == site.probe.function:
                assert code[site.offset - 4 : site.offset] == ENDBR64


def test_the_hot_probes_are_emulated(shared_qemu: FakeQemu) -> None:
    """As in the real binaries, the four traps of a read or write are emulated, so benchmarks are meaningful."""
    sites = [site for found in Inspector().inspect(read_process(shared_qemu.pid)).sites.values() for site in found]
    assert {site.probe.function for site in sites if site.emulated} >= set(HOT)
    assert {site.program for site in sites if site.program.endswith("_inner")} == INNER


def test_every_probe_has_its_site(variant: Variant, shared_qemu: FakeQemu) -> None:
    """There are thirteen; QEMU 5.2 lacks scsi_req_complete_failed, and is traced without it."""
    found = Inspector().inspect(read_process(shared_qemu.pid))
    functions = [site.probe.function for sites in found.sites.values() for site in sites]
    assert len(functions) == len(set(functions)) == (12 if variant is QEMU_5_2 else 13)


def test_a_function_that_is_never_entered_is_noticed() -> None:
    """Both functions have symbols and probes; only the counters show that one of them was inlined."""
    with FakeQemu(INLINED) as qemu, Tracing(qemu) as tracing:
        qemu.command(f"read {MANY} 4096 32")
        counted = dict.fromkeys(COUNTERS, 0) | tracing.counted()
    (warned,) = inlined_functions(counted)
    assert "scsi_req_complete is never hit" in warned


@pytest.mark.parametrize(
    ("code", "text", "emulated"),
    [
        ("90", "nop", True),
        ("0f1f440000", "nopl 0x0(%rax,%rax,1)", True),
        ("50", "push %rax", True),
        ("55", "push %rbp", True),
        ("57", "push %rdi", True),
        ("4154", "push %r12", True),
        ("4157", "push %r15", True),
        ("e900000000", "jmp rel32", True),
        ("eb00", "jmp rel8", True),
        ("e800000000", "call rel32", True),
        ("7400", "je rel8", True),
        ("7f00", "jg rel8", True),
        ("0f8400000000", "je rel32", True),
        ("0f8f00000000", "jg rel32", True),
        ("f30f1efa", "endbr64", False),
        ("4883ec08", "sub $8,%rsp", False),
        ("4889fb", "mov %rdi,%rbx", False),
        ("5b", "pop %rbx", False),
        ("c3", "ret", False),
        ("31c0", "xor %eax,%eax", False),
        ("c6877201000001", "movb $1,0x172(%rdi)", False),
        ("ff2500000000", "jmp *(%rip)", False),
        ("ffe0", "jmp *%rax", False),
        ("6a00", "push $0", False),
        ("ff30", "push (%rax)", False),
        ("415c", "pop %r12", False),
        ("0fb600", "movzbl (%rax),%eax", False),
        ("0f90c0", "seto %al", False),
        ("0f05", "syscall", False),
    ],
    ids=lambda value: value if isinstance(value, str) and " " in value else None,
)
def test_what_the_kernel_emulates(code: str, text: str, emulated: bool) -> None:
    """By arch/x86/kernel/uprobes.c: nop, push of a register, and jumps and calls to a fixed place."""
    assert is_emulated(bytes.fromhex(code)) is emulated


@pytest.mark.parametrize(
    ("code", "emulated"), [("4055", False), ("4855", False), ("4955", False), ("6690", True), ("f2e900000000", True)]
)
def test_rare_encodings(code: str, emulated: bool) -> None:
    """A push is emulated with the prefix 41 alone; nop and jmp with other prefixes are, though not ``66 e9``."""
    assert is_emulated(bytes.fromhex(code)) is emulated
