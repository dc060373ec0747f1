# SPDX-License-Identifier: Apache-2.0
"""A hit, by the instruction that it is on: an empty program, so that all of it is the kernel's."""

import subprocess
import tempfile
from collections import defaultdict
from pathlib import Path

from bench.figures import Figure, Samples, ratios
from bench.kernel import empty_program_on
from otel_qemu.probe.elf import open_binary
from otel_qemu.probe.sites import PROBES, Site

CALLS = 200_000
SLOW_CALLS = 20_000

KINDS = {
    "nop": ".byte 0x0f, 0x1f, 0x44, 0, 0; ret",  # 5 bytes, which newer kernels turn into a call
    "push": "push %rbp; pop %rbp; ret",
    "sub": "sub $8, %rsp; add $8, %rsp; ret",
    "endbr64": "endbr64; ret",
}
"""First instructions: code of the probed function."""
SINGLE_STEPPED = ("sub", "endbr64")

_SOURCE = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

%(functions)s
static const struct { const char *name; void (*function)(void); } functions[] = { %(table)s };

static double now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e9 + now.tv_nsec;
}

static double call(void (*volatile function)(void), long calls)
{
    double start = now_ns();
    for (long i = 0; i < calls; i++)
        function();
    return (now_ns() - start) / calls;
}

int main(int argc, char **argv)
{
    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++)
        if (!strcmp(functions[i].name, argv[1])) {
            call(functions[i].function, 1000);
            printf("%%f\\n", call(functions[i].function, atol(argv[2])));
        }
}
"""


def source() -> str:
    """The C program: NAME CALLS prints the ns a call of a function takes."""
    functions = "\n".join(
        f'__attribute__((naked, noinline)) void on_{kind}(void) {{ __asm__("{code}"); }}'
        for kind, code in KINDS.items()
    )
    table = ", ".join(f'{{"{kind}", on_{kind}}}' for kind in KINDS)
    return _SOURCE % {"functions": functions, "table": table}


def compile_into(folder: Path) -> Path:
    """Compile it; no instruction may stand before ours."""
    program = folder / "hit"
    command = ["gcc", "-O2", "-fcf-protection=none", "-x", "c", "-", "-o", str(program)]
    subprocess.run(command, input=source(), text=True, check=True)
    return program


def ns_a_call(program: Path, kind: str, attached: bool) -> float:
    """Run it, with or without an empty program on the function."""
    calls = SLOW_CALLS if attached and kind in SINGLE_STEPPED else CALLS
    with empty_program_on([(str(program), [_site(program, kind)])] if attached else []):
        command = [str(program), kind, str(calls)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _site(program: Path, kind: str) -> Site:
    with open_binary(str(program)) as binary:
        function = binary.function(f"on_{kind}")
    assert function is not None
    return Site(PROBES[0], PROBES[0].function, function.offset, function.table, kind)


def measure(repetitions: int) -> list[Figure]:
    """ns per hit by instruction, and the extra cost of single-stepping."""
    samples: Samples = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="otel-qemu-bench-") as folder:
        program = compile_into(Path(folder))
        for _ in range(repetitions):
            samples["nothing"].append(ns_a_call(program, "push", attached=False))
            for kind in KINDS:
                samples[kind].append(ns_a_call(program, kind, attached=True))
    figures = [Figure.of(f"{name}_ns", values) for name, values in samples.items()]
    return [*figures, Figure.of("sub_to_push_ratio", ratios(samples["sub"], samples["push"]))]
