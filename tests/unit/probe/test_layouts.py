# SPDX-License-Identifier: Apache-2.0
"""Offsets out of code: the binaries of this machine, and every make of the functions that show them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_qemu.probe import machine_code
from otel_qemu.probe.elf import Binary, open_binary
from otel_qemu.probe.layouts import (
    NEW_SCSI_REQUEST,
    OLD_SCSI_REQUEST,
    UNKNOWN_OFFSET,
    Disagreement,
    Evidence,
    Layout,
    agreed,
)  # fmt: skip
from tests.support.builders import compiled
from tests.support.real_binaries import BLOCK_RBD, LIBRBD, QEMU

RADOSCB = {"coroutine": 0, "through_acb": 1, "return_value": 0x20}
OLD_TASK = {"coroutine": 8, "through_acb": 0, "return_value": 0x18}
NEW_TASK = {"coroutine": 0, "through_acb": 0, "return_value": 0x08}

RETRY = "void scsi_req_retry(char *req) {{ {body} }}"
GET_ARG = """
struct AioCompletion {{ char before[{offset}]; void *complete_arg; }};
void *_ZN6librbd3RBD13AioCompletion7get_argEv(struct AioCompletion **self) {{ return (*self)->complete_arg; }}
"""
GET_ARG_WITH_FRAME = """
.text
.globl _ZN6librbd3RBD13AioCompletion7get_argEv
.type _ZN6librbd3RBD13AioCompletion7get_argEv, @function
_ZN6librbd3RBD13AioCompletion7get_argEv: push %rbp
    mov %rsp, %rbp
    mov (%rdi), %rax
    mov 0x60(%rax), %rax
    pop %rbp
    ret
.section .note.GNU-stack,"",@progbits
"""
CALLBACK = """
long rbd_aio_get_return_value(void *c);
void rbd_aio_release(void *c);
void callback(void *c, char *task)
{{
    *(long *)(task + {offset}) = rbd_aio_get_return_value(c);
    rbd_aio_release(c);
}}
{more}
"""
ASSEMBLER = """
.text
.globl callback
.type callback, @function
callback: push %rbx
    mov %rsi, %rbx
    call rbd_aio_get_return_value@PLT
    {body}
    call rbd_aio_release@PLT
    pop %rbx
    ret
.section .note.GNU-stack,"",@progbits
"""

CET = ("-fcf-protection=full",)
FRAME_POINTERS = ("-fno-omit-frame-pointer", "-mno-omit-leaf-frame-pointer")
MAKES = [(), CET, ("-O1",), ("-Os",), ("-O3", "-march=x86-64-v3")]


def library(tmp_path: Path, source: str, *options: str, language: str = "c", compiler: str = "gcc") -> str:
    return str(compiled(tmp_path, source, "-shared", "-fPIC", *options, language=language, compiler=compiler))


def offsets(read: Callable[[Binary], list[Evidence]], binary: Binary) -> dict[str, int] | None:
    """What the machine code of a binary shows."""
    evidence = agreed(read(binary))
    return evidence.offsets if evidence else None


class TestThisMachine:
    """The installed QEMU and librbd."""

    def test_scsi_request(self) -> None:
        """QEMU 7.2: the layout of 2.12 to 9.2."""
        with open_binary(QEMU) as binary:
            assert offsets(machine_code.scsi_request, binary) == OLD_SCSI_REQUEST

    def test_completion(self) -> None:
        """librbd 16: complete_arg at 0x60."""
        with open_binary(LIBRBD) as binary:
            assert offsets(machine_code.completion, binary) == {"completion_argument": 0x60}

    def test_task(self) -> None:
        """QEMU 7.2: RBDTask { bs, co, complete, ret }."""
        with open_binary(BLOCK_RBD) as binary:
            assert offsets(machine_code.rbd_task, binary) == OLD_TASK

    def test_the_wrong_file_shows_nothing(self) -> None:
        """A binary without the functions has no layout, and raises nothing."""
        with open_binary(LIBRBD) as binary:
            assert offsets(machine_code.scsi_request, binary) is None
            assert offsets(machine_code.rbd_task, binary) is None
        with open_binary(QEMU) as binary:
            assert offsets(machine_code.completion, binary) is None
            assert offsets(machine_code.rbd_task, binary) is None


class TestScsiRequest:
    """SCSIRequest, by scsi_req_retry()."""

    @pytest.mark.parametrize("options", [*MAKES, FRAME_POINTERS], ids=" ".join)
    @pytest.mark.parametrize(("offset", "expected"), [(0x172, OLD_SCSI_REQUEST), (0x17A, NEW_SCSI_REQUEST)])
    def test_old_and_new(self, tmp_path: Path, offset: int, expected: dict[str, int], options: tuple[str, ...]) -> None:
        """The store to `retry` tells which of the two it is, with endbr64 and frame pointers or without."""
        with open_binary(library(tmp_path, RETRY.format(body=f"req[{offset}] = 1;"), *options)) as binary:
            assert offsets(machine_code.scsi_request, binary) == expected

    @pytest.mark.parametrize("body", ["req[0x173] = 1;", "req[0] = 1;", "", "req[0x10172] = 1;"])
    def test_another_layout_is_not_guessed(self, tmp_path: Path, body: str) -> None:
        """A field where no known QEMU has it, or a function that stores nothing."""
        with open_binary(library(tmp_path, RETRY.format(body=body))) as binary:
            assert offsets(machine_code.scsi_request, binary) is None


FUNCTIONS = """
#include <stdlib.h>
#include <stdint.h>
struct request {{ char before[{tag}]; uint32_t tag, lun; int16_t status, host_status; char between[{between}];
                  uint32_t sense_len; _Bool enqueued, io_canceled, retry; }};
void seen(struct request *);
void called(struct request *, int);
int scsi_req_enqueue(struct request *req) {{ if (req->retry) abort(); seen(req); return req->lun; }}
void scsi_req_complete(struct request *req, int status)
{{
    if (req->status != -1 || req->host_status != -1) abort();
    req->status = status; seen(req);
}}
void scsi_req_complete_failed(struct request *req, int status)
{{
    if (req->status != -1 || req->host_status != -1) abort();
    req->host_status = status; seen(req);
}}
void scsi_req_cancel_complete(struct request *req) {{ if (!req->io_canceled) abort(); seen(req); }}
"""


class TestWithoutRetry:
    """SCSIRequest where link-time optimisation has left no scsi_req_retry."""

    @pytest.mark.parametrize("compiler", ["gcc", "clang"])
    @pytest.mark.parametrize(
        "options", [(), CET, ("-O1",), ("-Os",), ("-O3", "-march=x86-64-v3"), FRAME_POINTERS[:1]], ids=" ".join
    )
    @pytest.mark.parametrize(("tag", "expected"), [(0x1C, OLD_SCSI_REQUEST), (0x24, NEW_SCSI_REQUEST)])
    def test_the_other_functions_show_it(
        self, tmp_path: Path, tag: int, expected: dict[str, int], options: tuple[str, ...], compiler: str
    ) -> None:
        """What they assert tells which of the two it is; all that speak agree, and most do."""
        source = FUNCTIONS.format(tag=tag, between=0x144)
        with open_binary(library(tmp_path, source, *options, compiler=compiler)) as binary:
            (evidence,) = machine_code.scsi_request(binary)
        assert evidence.offsets == expected
        assert {"scsi_req_enqueue", "scsi_req_cancel_complete"} <= set(
            evidence.source.removeprefix("machine code of ").split(", ")
        )

    def test_functions_that_differ_are_both_reported(self, tmp_path: Path) -> None:
        """One reads an old SCSIRequest, the other a new one: no binary has that, so neither is believed."""
        source = (
            RETRY.format(body="req[0x172] = 1;")
            + "void seen(char *); void scsi_req_enqueue(char *req) { if (!req[0x17a]) seen(req); }"
        )
        with open_binary(library(tmp_path, source)) as binary, pytest.raises(Disagreement) as raised:
            agreed(machine_code.scsi_request(binary))
        assert "scsi_req_retry: device at 0x8, tag at 0x1c" in str(raised.value)
        assert "scsi_req_enqueue: device at 0x8, tag at 0x24" in str(raised.value)

    @pytest.mark.parametrize(
        "body",
        [
            "called(req, 1); req[0x172] = 1;",
            "req = other; req[0x172] = 1;",
        ],
    )
    def test_what_is_not_the_request_is_not_looked_at(self, tmp_path: Path, body: str) -> None:
        """Behind a call, or through another pointer."""
        source = f"extern char *other; void called(char *, int); void scsi_req_retry(char *req) {{ {body} }}"
        with open_binary(library(tmp_path, source)) as binary:
            assert offsets(machine_code.scsi_request, binary) is None


class TestCompletion:
    """io::AioCompletion, by get_arg()."""

    @pytest.mark.parametrize("options", MAKES, ids=" ".join)
    @pytest.mark.parametrize("offset", [0xB8, 0x60, 0x30])
    def test_every_librbd(self, tmp_path: Path, offset: int, options: tuple[str, ...]) -> None:
        """librbd 14, 16 to 18, and 20, as different compilers' options give them."""
        with open_binary(library(tmp_path, GET_ARG.format(offset=offset), *options)) as binary:
            assert offsets(machine_code.completion, binary) == {"completion_argument": offset}

    def test_frame_pointers(self, tmp_path: Path) -> None:
        """As clang makes it with frame pointers in leaf functions, which gcc leaves out here."""
        with open_binary(library(tmp_path, GET_ARG_WITH_FRAME, language="assembler")) as binary:
            assert offsets(machine_code.completion, binary) == {"completion_argument": 0x60}

    @pytest.mark.parametrize("body", ["return self;", "return *self;", "return **(void ***)*self;"])
    def test_another_function_is_not_guessed(self, tmp_path: Path, body: str) -> None:
        """More or fewer loads than two are not this function."""
        source = f"void *_ZN6librbd3RBD13AioCompletion7get_argEv(void **self) {{ {body} }}"
        with open_binary(library(tmp_path, source)) as binary:
            assert offsets(machine_code.completion, binary) is None


class TestTask:
    """QEMU's object of one call, by its callback."""

    @pytest.mark.parametrize("options", [*MAKES, FRAME_POINTERS, ("-Wl,-z,lazy", *CET)], ids=" ".join)
    @pytest.mark.parametrize(("offset", "expected"), [(0x20, RADOSCB), (0x18, OLD_TASK), (0x08, NEW_TASK)])
    def test_every_qemu(self, tmp_path: Path, offset: int, expected: dict[str, int], options: tuple[str, ...]) -> None:
        """RADOSCB and both forms of RBDTask, by where the return value is stored."""
        with open_binary(library(tmp_path, CALLBACK.format(offset=offset, more=""), *options)) as binary:
            assert offsets(machine_code.rbd_task, binary) == expected

    @pytest.mark.parametrize(
        ("offset", "more", "options"),
        [
            (0x10, "", ()),
            (0x18, "void another(void *c, long *task) { task[1] = rbd_aio_get_return_value(c); }", ()),
            (0x18, "", ("-fno-plt",)),
        ],
        ids=["another offset", "two that differ", "no PLT"],
    )
    def test_another_object_is_not_guessed(
        self, tmp_path: Path, offset: int, more: str, options: tuple[str, ...]
    ) -> None:
        """An offset of no known QEMU, callbacks that disagree, calls that cannot be seen: nothing is known."""
        with open_binary(library(tmp_path, CALLBACK.format(offset=offset, more=more), *options)) as binary:
            assert offsets(machine_code.rbd_task, binary) is None

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            ("mov %rax, 0x18(%rbx)", OLD_TASK),
            ("mov %rbx, %rdi; mov %rax, 0x8(%rbx)", NEW_TASK),
            ("mov %eax, 0x18(%rbx)", None),
            ("mov %rax, %rdx; mov %rdx, 0x18(%rbx)", None),
            ("jmp 1f; 1: mov %rax, 0x18(%rbx)", None),
        ],
    )
    def test_the_store_behind_the_call(self, tmp_path: Path, body: str, expected: dict[str, int] | None) -> None:
        """The whole of rax, straight behind the call, or nothing."""
        with open_binary(library(tmp_path, ASSEMBLER.format(body=body), language="assembler")) as binary:
            assert offsets(machine_code.rbd_task, binary) == expected

    @pytest.mark.parametrize("spill", ["mov %rax, 0x8(%rsp)", "mov %rax, 0x20(%rbp)", "mov %rax, %fs:0x8(%rdx)"])
    def test_a_spilled_register_is_not_the_task(self, tmp_path: Path, spill: str) -> None:
        """A copy on the stack or in thread storage is no field of RBDTask: return values would be read elsewhere."""
        source = ASSEMBLER.format(body=f"{spill}; mov %rax, 0x18(%rbx)")
        with open_binary(library(tmp_path, source, language="assembler")) as binary:
            assert offsets(machine_code.rbd_task, binary) in (OLD_TASK, None)


def test_what_is_unknown_is_said() -> None:
    """Nothing is known of an empty layout; the walk needs both of its structs."""
    empty, half = Layout(), Layout(completion_argument=0x60)
    assert (empty.scsi_known, empty.walk_known, empty.sense) == (False, False, UNKNOWN_OFFSET)
    assert not half.walk_known
    assert Layout(**OLD_SCSI_REQUEST, **OLD_TASK, completion_argument=0x60).walk_known
