# SPDX-License-Identifier: Apache-2.0
"""The keep policy as the kernel has it: a threshold for each opcode."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_qemu.policy import COUNTS_ONLY, EVERYTHING, NEVER_NS, KeepPolicy
from otel_qemu.trace.scsi import OPERATION_OF_OPCODE, OPERATIONS

_SECONDS = st.integers(1, 10**13).map(lambda ns: ns / 1e9)


def test_everything_is_one_in_one_and_counts_only_is_none() -> None:
    """Neither looks at durations."""
    assert (EVERYTHING.one_in, COUNTS_ONLY.one_in) == (1, 0)
    for policy in (EVERYTHING, COUNTS_ONLY):
        assert set(policy.slow_ns.tolist()) == {NEVER_NS}
        assert policy.slow_call_ns == NEVER_NS


def test_no_duration_reaches_never() -> None:
    """The largest number of 64 bits stands for no threshold."""
    assert NEVER_NS == 2**64 - 1


@pytest.mark.parametrize(("slow_s", "slow_ns"), [(0.1, 100_000_000), (1e-9, 1), (0.0003, 300_000), (8e9, 8 * 10**18)])
def test_a_threshold_is_whole_ns(slow_s: float, slow_ns: int) -> None:
    """Rounded, not cut off."""
    policy = KeepPolicy(slow_s=slow_s)
    assert policy.slow_call_ns == slow_ns
    assert set(policy.slow_ns.tolist()) == {slow_ns}


def test_an_operation_has_all_its_opcodes() -> None:
    """READ is READ(6), (10), (12) and (16); all others have the common threshold."""
    slow_ns = KeepPolicy(slow_s=1.0, slow_by_operation_s=(("READ", 0.02),)).slow_ns
    reads = [0x08, 0x28, 0x88, 0xA8]
    assert slow_ns[reads].tolist() == [20_000_000] * 4
    assert set(np.delete(slow_ns, reads).tolist()) == {1_000_000_000}


def test_opcodes_without_a_name_are_other() -> None:
    """The operation OTHER is every opcode that has no name of its own."""
    slow_ns = KeepPolicy(slow_by_operation_s=(("OTHER", 0.5),)).slow_ns
    other = [opcode for opcode in range(256) if opcode not in OPERATION_OF_OPCODE]
    assert set(slow_ns[other].tolist()) == {500_000_000}
    assert set(slow_ns[list(OPERATION_OF_OPCODE)].tolist()) == {NEVER_NS}


def test_the_last_of_two_thresholds_of_an_operation_counts() -> None:
    """As options of a command line do."""
    slow_ns = KeepPolicy(slow_by_operation_s=(("UNMAP", 1.0), ("UNMAP", 2.0))).slow_ns
    assert slow_ns[0x42] == 2_000_000_000


@given(
    st.none() | _SECONDS,
    st.dictionaries(st.sampled_from(OPERATIONS), _SECONDS),
)
def test_every_opcode_has_the_threshold_of_its_operation_or_the_common_one(
    slow_s: float | None, by_operation_s: dict[str, float]
) -> None:
    """One by one, as a plain look-up gives them."""
    policy = KeepPolicy(0, slow_s, tuple(by_operation_s.items()))
    for opcode, found_ns in enumerate(policy.slow_ns.tolist()):
        threshold_s = by_operation_s.get(OPERATION_OF_OPCODE.get(opcode, "OTHER"), slow_s)
        assert found_ns == (NEVER_NS if threshold_s is None else round(threshold_s * 1e9))
    assert policy.slow_ns.dtype == np.uint64
    assert policy.slow_ns.shape == (256,)
