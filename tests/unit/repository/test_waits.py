# SPDX-License-Identifier: Apache-2.0
"""No wait of the tests is without an end: a child or a thread that never ends may not hang the whole suite."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FILES = sorted(path for folder in ("tests", "deploy") for path in (ROOT / folder).rglob("*.py"))
RUNS = ("run", "check_call", "check_output", "call")
"""Functions of subprocess that wait for the end of what they start."""


def endless(source: str) -> Iterator[int]:
    """Numbers of the lines with a wait that has no limit."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.With | ast.AsyncWith):
            yield from (item.context_expr.lineno for item in node.items if _is_popen(item.context_expr))
        elif isinstance(node, ast.Call) and _waits_for_ever(node):
            yield node.lineno


def _is_popen(expression: ast.expr) -> bool:
    # Its __exit__ waits for ever: tests.children.child is for this.
    return isinstance(expression, ast.Call) and ast.unparse(expression.func) in ("subprocess.Popen", "Popen")


def _waits_for_ever(call: ast.Call) -> bool:
    limits = {keyword.arg for keyword in call.keywords} & {"timeout", "timeout_s", None}
    if limits or not isinstance(call.func, ast.Attribute):
        return False
    of_subprocess = ast.unparse(call.func.value) == "subprocess" and call.func.attr in RUNS
    if ast.unparse(call.func) == "os.wait":  # a reaper's whole work
        return False
    bare = call.func.attr in ("wait", "join", "result") and not call.args
    return of_subprocess or bare or call.func.attr == "communicate"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_wait_has_an_end(path: Path) -> None:
    """Give it a timeout, use tests.children, or say `timeout=None` where a person ends it."""
    lines = list(endless(path.read_text()))
    assert not lines, f"waits without an end in {path.relative_to(ROOT)}, lines {lines}"


@pytest.mark.parametrize(
    "source",
    [
        "with subprocess.Popen(['true']) as process: pass",
        "process.wait()",
        "thread.join()",
        "process.communicate('x')",
        "future.result()",
        "subprocess.run(['true'], check=True)",
    ],
)
def test_an_endless_wait_is_found(source: str) -> None:
    """So this test can fail."""
    assert list(endless(source)) == [1]


@pytest.mark.parametrize("source", ["process.wait(3)", "', '.join(words)", "subprocess.run(line, timeout=3)"])
def test_a_wait_with_an_end_passes(source: str) -> None:
    """A limit, or no wait at all."""
    assert not list(endless(source))
