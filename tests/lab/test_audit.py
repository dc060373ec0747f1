# SPDX-License-Identifier: Apache-2.0
"""
Every join against the exact pointer chain, on every QEMU from 5.2 to 11.1, with everything going on at once.
"""

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest

from otel_qemu.events import RbdOperation
from otel_qemu.trace.audit_verdicts import Outcome
from otel_qemu.trace.scsi import OPERATIONS
from otel_qemu.trace.traces import Join
from tests.lab.audited import Audited
from tests.lab.lab import Lab
from tests.lab.roots import covered

HOST = "host"
MOST_WRONG = 1e-4
ENOUGH = 3000


@pytest.fixture(scope="module", params=[HOST, *covered()])
def audited(request: pytest.FixtureRequest, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    suite = cast(str, request.param)
    name = f"audited-{suite}"
    found = Audited(lab, name, tmp_path_factory.mktemp(name), None if suite == HOST else suite)
    print(found.report())
    return found


def column(audited: Audited, table: str, name: str) -> Any:
    return np.concatenate([getattr(traces, table)[name] for traces in audited.traces])


def test_every_kind_of_request_and_call_is_among_them(audited: Audited) -> None:
    """Reads, writes, flushes, discards and zeroing (QEMU 5.2 writes zeroes); of QEMU's own, the job's reads."""
    requests = Counter(OPERATIONS[code] for code in column(audited, "requests", "operation"))
    calls = Counter(RbdOperation(code) for code in column(audited, "calls", "operation"))
    assert min(requests[name] for name in ("READ", "WRITE")) > ENOUGH // 2
    assert min(requests[name] for name in ("SYNCHRONIZE_CACHE", "UNMAP", "WRITE_SAME")) > 30
    assert set(calls) | {RbdOperation.WRITE_ZEROES} == set(RbdOperation)
    own = column(audited, "calls", "parent") < 0
    assert set(column(audited, "calls", "operation")[own].tolist()) == {RbdOperation.READ}
    assert set(column(audited, "calls", "image")[own].tolist()) == {audited.image(audited.mirrored)}


def test_ranges_overlap_and_the_throttle_holds_back(audited: Audited) -> None:
    """The load is as hard as it was meant to be: requests on the same bytes, in a queue that the throttle makes."""
    names = ("submit_ns", "complete_ns", "lba", "bytes", "wait_ns", "rbd_ns", "device", "operation")
    rows = {name: column(audited, "requests", name) for name in names}
    data = np.isin(rows["operation"], [OPERATIONS.index(name) for name in ("READ", "WRITE")])
    ours = data & (rows["device"] == audited.device(audited.throttled))
    submits, ends, lbas, sizes = (rows[name][ours].astype("i8") for name in names[:4])
    beside = (submits[:, None] < ends) & (submits < ends[:, None])
    same_bytes = (lbas[:, None] < lbas + sizes // 512) & (lbas < lbas[:, None] + sizes[:, None] // 512)
    assert (beside & same_bytes).sum() > 2 * ours.sum(), "each shares bytes with itself and one more, on average"
    assert np.median(rows["wait_ns"][ours]) > 3 * np.median(rows["rbd_ns"][ours])


def test_the_joins_agree_with_the_chain(audited: Audited) -> None:
    """All but one in 10,000 at most; no call of a request is left alone, and the chain is silent about none."""
    tallies = audited.audit.joins
    joined = sum(
        tally[Outcome.AGREED] + tally[Outcome.DIFFER] for join, tally in tallies.items() if join < Join.INTERNAL
    )
    wrong = sum(tally[Outcome.DIFFER] + tally[Outcome.MISSED] for tally in tallies.values())
    assert joined > ENOUGH
    assert wrong <= MOST_WRONG * joined, audited.report()
    assert sum(tally[Outcome.SILENT] for tally in tallies.values()) == 0, audited.report()
    assert set(tallies) <= {Join.WALK, Join.WALK_RANGE, Join.INTERNAL}, audited.report()


def test_on_raw_images_ranges_alone_would_do(audited: Audited) -> None:
    """Without the walk, no call of a raw image is joined wrongly; a qcow2 image's ranges are not the guest's."""
    layered = audited.image(audited.layered)
    wrong = [d for d in audited.audit.unwalked_differences if d.ours is not None and d.call["image"] != layered]
    assert not wrong, audited.report()
    assert audited.audit.unwalked[Join.RANGE][Outcome.AGREED] > ENOUGH


def test_walk_and_range_disagree_on_the_qcow2_image_alone(audited: Audited) -> None:
    """There the walk is right, as the chain says; nowhere do image, direction and time contradict it."""
    assert audited.service.pipeline.stats.disagreements == 0
    assert audited.service.pipeline.stats.range_differs > 0
    for traces in audited.traces:
        calls = traces.calls[traces.calls["parent"] >= 0]
        parents = traces.requests[calls["parent"]]
        is_data = np.isin(parents["operation"], [OPERATIONS.index(name) for name in ("READ", "WRITE")])
        is_raw = calls["image"] != audited.image(audited.layered)
        assert (calls["join"][is_data & is_raw & (calls["operation"] != RbdOperation.FLUSH)] == Join.WALK_RANGE).all()
