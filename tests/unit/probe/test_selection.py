# SPDX-License-Identifier: Apache-2.0
"""Selecting guests: by name, UUID and process id, while they come and go and libvirt does, too."""

from dataclasses import replace

import pytest

from otel_qemu.errors import NothingToTrace
from otel_qemu.probe import selection
from otel_qemu.probe.domains import Domain, Libvirt
from otel_qemu.probe.processes import MappedFile, QemuProcess
from otel_qemu.probe.selection import Selection
from tests.support.builders import ROOT

A, B = "6f0b1f7e-0000-4000-8000-00000000000a", "6f0b1f7e-0000-4000-8000-00000000000b"
QEMU = MappedFile("/usr/bin/qemu-system-x86_64", "/proc/7/exe", 1, 2)
LIBRBD = MappedFile("/usr/lib/librbd.so.1", "/proc/7/map_files/1-2", 1, 3)


class FakeLibvirt(Libvirt):
    """Imitates Libvirt: the domains it knows, and whether libvirtd answers."""

    def __init__(self) -> None:
        super().__init__()
        self.known = {A: Domain(A, "alpha", (ROOT,)), B: Domain(B, "Beta", ())}
        self.up = True
        self.asked = 0

    def domain(self, uuid: str) -> Domain | None:
        self.asked += 1
        self.problem = None if self.up else "libvirt does not answer"
        return self.known.get(uuid) if self.up else None


class Machine:
    """Imitates /proc as `probe.processes` reads it: QEMU processes, and those that may not be looked at."""

    def __init__(self) -> None:
        self.running: dict[int, QemuProcess] = {}
        self.refusing: type[OSError] | None = None
        self.looked = 0

    def start(self, pid: int, uuid: str | None = None, ticks: int = 100) -> None:
        self.running[pid] = QemuProcess(pid, ticks, QEMU, LIBRBD, None, uuid)

    def qemu_pids(self) -> list[int]:
        return list(self.running)

    def start_ticks(self, pid: int) -> int:
        if pid not in self.running:
            raise FileNotFoundError
        return self.running[pid].start_ticks

    def read_process(self, pid: int) -> QemuProcess:
        self.looked += 1
        if self.refusing:
            raise self.refusing
        return self.running[pid]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Two domains' processes, and one that libvirt knows nothing of."""
    machine = Machine()
    machine.start(7, A)
    machine.start(8, B)
    machine.start(9)
    for name in ("qemu_pids", "start_ticks", "read_process"):
        monkeypatch.setattr(selection, name, getattr(machine, name))
    return machine


def pids(chosen: Selection) -> list[int]:
    return sorted(pid for pid, _ in chosen.processes())


@pytest.mark.parametrize(
    ("domains", "asked", "expected"),
    [
        ((), (), [7, 8, 9]),
        (("alpha",), (), [7]),
        (("ALPHA", "beta"), (), [7, 8]),
        ((A.upper(),), (), [7]),
        ((), (8,), [8]),
        (("alpha",), (9,), [7, 9]),
        (("gamma",), (), []),
        ((), (55,), []),
    ],
)
def test_chooses(machine: Machine, domains: tuple[str, ...], asked: tuple[int, ...], expected: list[int]) -> None:
    """By name or UUID in any case, by process id, by either, or all."""
    chosen = Selection(domains, asked, FakeLibvirt())
    assert pids(chosen) == expected
    assert sorted(chosen.guests) == expected


def test_tells_who_they_are(machine: Machine) -> None:
    """A guest has its domain's names and disks, or its executable alone."""
    chosen = Selection(libvirt=FakeLibvirt())
    chosen.processes()
    assert (chosen.guests[7].name, chosen.guests[7].uuid, chosen.guests[7].disks) == ("alpha", A, (ROOT,))
    assert (chosen.guests[9].name, chosen.guests[9].executable) == (None, QEMU.name)


def test_looks_at_each_process_once(machine: Machine) -> None:
    """Asked every second, it reads nothing and asks nobody about processes it knows."""
    libvirt = FakeLibvirt()
    chosen = Selection(libvirt=libvirt)
    for _ in range(3):
        chosen.processes()
    assert (machine.looked, libvirt.asked) == (3, 2)


def test_guests_come_and_go(machine: Machine) -> None:
    """An ended process is left out; its id, used again, is another process."""
    chosen = Selection(libvirt=FakeLibvirt())
    chosen.processes()
    del machine.running[8]
    machine.start(7, B, ticks=200)
    machine.start(10, A)
    assert sorted(chosen.processes()) == [(7, 200), (9, 100), (10, 100)]
    assert {pid: guest.name for pid, guest in chosen.guests.items()} == {7: "Beta", 9: None, 10: "alpha"}


@pytest.mark.parametrize("error", [FileNotFoundError, ProcessLookupError, PermissionError])
def test_a_process_may_end_while_we_look(machine: Machine, error: type[OSError]) -> None:
    """Left out now, looked at again the next time."""
    chosen = Selection(libvirt=FakeLibvirt())
    machine.refusing = error
    assert pids(chosen) == []
    machine.refusing = None
    assert pids(chosen) == [7, 8, 9]


class TestWithoutLibvirt:
    """libvirtd is down, or was."""

    def test_a_uuid_is_enough(self, machine: Machine) -> None:
        """libvirt gives every QEMU its UUID as an argument: that selects while libvirtd is down."""
        libvirt = FakeLibvirt()
        libvirt.up = False
        assert pids(Selection((A,), libvirt=libvirt)) == [7]

    def test_a_name_is_looked_up_when_libvirt_is_back(self, machine: Machine) -> None:
        """Nobody is left out for good because libvirtd was down."""
        libvirt = FakeLibvirt()
        libvirt.up = False
        chosen = Selection(("alpha",), libvirt=libvirt)
        assert pids(chosen) == []
        libvirt.up = True
        assert pids(chosen) == [7]

    def test_who_was_chosen_stays(self, machine: Machine) -> None:
        """A restart of libvirtd ends no tracing and takes no name."""
        libvirt = FakeLibvirt()
        chosen = Selection(("alpha",), libvirt=libvirt)
        chosen.processes()
        libvirt.up = False
        assert pids(chosen) == [7]
        assert chosen.guests[7].name == "alpha"

    def test_names_come_when_libvirt_does(self, machine: Machine) -> None:
        """Traced from the start without a name, a guest gets its name when libvirtd can be asked."""
        libvirt = FakeLibvirt()
        libvirt.up = False
        chosen = Selection(libvirt=libvirt)
        chosen.processes()
        libvirt.up = True
        chosen.processes()
        assert chosen.guests[7].name == "alpha"


def test_what_a_young_process_maps_later_is_seen(machine: Machine) -> None:
    """A QEMU that had just begun, or got its first rbd disk by hot-plug, has librbd mapped the next time we look."""
    machine.running[7] = replace(machine.running[7], librbd=None)
    chosen = Selection(libvirt=FakeLibvirt())
    assert chosen.processes()[7, 100].librbd is None
    machine.start(7, A)
    assert chosen.processes()[7, 100].librbd == LIBRBD


class TestRequire:
    """There must be something to trace."""

    def test_gives_what_there_is(self, machine: Machine) -> None:
        """The same as `processes`, when there are some."""
        assert len(Selection(libvirt=FakeLibvirt()).require()) == 3

    @pytest.mark.parametrize(
        ("domains", "asked", "text"), [(("gamma",), (), "gamma"), ((), (55,), "pid 55"), (("x",), (6,), "x, pid 6")]
    )
    def test_names_what_is_missing(
        self, machine: Machine, domains: tuple[str, ...], asked: tuple[int, ...], text: str
    ) -> None:
        """What was asked for and does not run."""
        with pytest.raises(NothingToTrace, match=f"no running QEMU process for {text}: "):
            Selection(domains, asked, FakeLibvirt()).require()

    def test_says_that_libvirt_is_down(self, machine: Machine) -> None:
        """A name cannot be looked up: the reason, and another way."""
        libvirt = FakeLibvirt()
        libvirt.up = False
        with pytest.raises(NothingToTrace, match=r"does not answer.* --pid"):
            Selection(("alpha",), libvirt=libvirt).require()

    def test_says_that_nothing_runs(self, machine: Machine) -> None:
        """No QEMU at all."""
        machine.running.clear()
        with pytest.raises(NothingToTrace, match="start a guest"):
            Selection(libvirt=FakeLibvirt()).require()


def test_describes_a_guest_anew(machine: Machine) -> None:
    """A disk was plugged in: libvirt is asked again; of a process that is not chosen nothing is known."""
    libvirt = FakeLibvirt()
    chosen = Selection(("alpha",), libvirt=libvirt)
    chosen.processes()
    libvirt.known[A] = replace(libvirt.known[A], disks=(ROOT, ROOT))
    described = chosen.describe(7)
    assert described is not None
    assert len(described.disks) == 2
    assert chosen.guests[7] == described
    assert chosen.describe(8) is None


def test_describes_all_guests_anew(machine: Machine) -> None:
    """A disk was unplugged; a domain that has just ended keeps its name, and a process without one is no question."""
    libvirt = FakeLibvirt()
    chosen = Selection(libvirt=libvirt)
    chosen.processes()
    libvirt.known[A] = replace(libvirt.known[A], disks=())
    beta = libvirt.known.pop(B)
    before = libvirt.asked
    chosen.describe_all()
    assert chosen.guests[7].disks == ()
    assert chosen.guests[8].name == beta.name
    assert libvirt.asked == before + 2
    libvirt.up = False
    chosen.describe_all()
    assert chosen.guests[7].name == "alpha"


def test_a_description_that_failed_takes_no_name(machine: Machine) -> None:
    """libvirtd is down when a new disk is met: what was known of the guest stays."""
    libvirt = FakeLibvirt()
    chosen = Selection(libvirt=libvirt)
    chosen.processes()
    libvirt.up = False
    described = chosen.describe(7)
    assert described is not None
    assert described.name == "alpha"
