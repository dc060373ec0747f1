"""The choice of the route to attach by; attaching itself is shown in tests/kernel."""

from unittest.mock import Mock

import pytest

from otel_qemu.errors import NotPossible
from otel_qemu.probe.attach import PERF, route_of


def test_a_program_that_the_kernel_refuses_is_said_and_the_smaller_ones_are_used(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Imitates a verifier that finds the one program for all sites too long.
    program = Mock()
    program.function.side_effect = NotPossible("the kernel does not load the BPF program scsi_site")
    assert route_of(program) == PERF
    assert "scsi_site; attaching function by function" in caplog.text
