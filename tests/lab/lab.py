# SPDX-License-Identifier: Apache-2.0
"""
The lab as a whole: up, guests, down.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.lab import initramfs, libvirtd, preflight, rooted_guest
from tests.lab.built_qemu import root_of
from tests.lab.ceph import POOL, Ceph
from tests.lab.disk import Disk
from tests.lab.domain_xml import Machine
from tests.lab.errors import LabError
from tests.lab.guest import Guest
from tests.lab.kernel import Kernel, cache_folder
from tests.lab.libvirt_guest import LibvirtGuest
from tests.lab.rooted_guest import RootedGuest
from tests.lab.state import Domain, State, remove

DEFAULT_ROOT = Path("/var/lib/otel-qemu-lab")
Say = Callable[[str], None]


def print_progress(line: str) -> None:
    """Say one step on stderr."""
    print(line, file=sys.stderr, flush=True)


class Lab:
    """
    A Ceph, a libvirtd and guests; a context manager that takes everything down again.
    """

    def __init__(self, state: State, say: Say) -> None:
        self.state = state
        self.root = state.root
        self.ceph = Ceph(state)
        self.say = say
        self.guests: dict[str, Guest] = {}

    @classmethod
    def up(cls, root: Path = DEFAULT_ROOT, say: Say = print_progress, port: int | None = None) -> Self:
        """Bring everything up but guests; what was started is taken down again if that fails."""
        say = _with_seconds(say)
        root = root.absolute()
        cache = cache_folder()
        preflight.check(root, cache)
        free_port = preflight.port(port)
        lab = cls(State.create(root), say)
        try:
            lab._up(cache, free_port)
        except BaseException:
            lab.down()
            raise
        return lab

    def _up(self, cache: Path, port: int) -> None:
        self.state.port = self.ceph.port = port
        self.say(f"state in {self.state.path}")
        scratch = cache / f".scratch-{os.getpid()}"
        self.state.leftovers.append(str(scratch))
        self.state.save()
        scratch.mkdir(parents=True, exist_ok=True)
        kernel = Kernel.cached(cache, scratch)
        archive = initramfs.cached(cache, kernel, scratch)
        remove(scratch)
        self.state.kernel, self.state.initramfs = str(kernel.image), str(archive)
        self.state.save()
        self.say(f"guest kernel {kernel.image.name}")
        self.say(libvirtd.up(self.root))
        self.ceph.up(self.say)
        self.say("lab is up")

    @classmethod
    def attach(cls, root: Path = DEFAULT_ROOT, say: Say = print_progress) -> Self:
        """The lab that another process brought up at `root`."""
        state = State.load(root.absolute())
        if state is None:
            raise LabError(f"no lab there, {root}: python3 -m tests.lab up --root {root}")
        lab = cls(state, _with_seconds(say))
        for name, domain in state.domains.items():
            lab.guests[name] = lab._guest(domain)
        return lab

    def guest(
        self,
        name: str,
        disks: Iterable[Disk] = (),
        paused: bool = False,
        memory_mib: int = 384,
        vcpus: int = 1,
        accelerator: str = "qemu",
        suite: str | None = None,
    ) -> Guest:
        """
        Start a guest, and wait until it answers; or leave it paused before its first instruction.

        A guest that has ended can be started again by its name; its images are kept.  With a `suite` (tests.lab.roots)
        its QEMU is that of another Debian, in a root of its own, or one of tests.lab.built_qemu, and libvirt does not
        know of it.
        """
        if suite:
            type(root_of(suite)).cached(suite, self.say)
        machine = self._machine(name, tuple(disks), memory_mib, vcpus, accelerator)
        for disk in machine.disks:
            self.ceph.create_image(disk.image, disk.size_mib)
        self._folder(name).mkdir(parents=True, exist_ok=True)
        guest = self.guests[name] = self._guest(self._record(machine, suite))
        try:
            guest.start(machine, paused)
        except LabError:
            guest.destroy()
            raise
        self.say(f"guest {name} {'is paused' if paused else 'answers'}, QEMU process {guest.pid}")
        return guest

    def _machine(self, name: str, disks: tuple[Disk, ...], memory_mib: int, vcpus: int, accelerator: str) -> Machine:
        known = self.state.domains.get(name)
        folder = self._folder(name)
        return Machine(
            name=name,
            uuid=known.uuid if known else str(uuid.uuid4()),
            disks=disks,
            kernel=Path(self.state.kernel),
            initramfs=Path(self.state.initramfs),
            console=folder / "console.log",
            channel=folder / "channel",
            ceph_conf=self.ceph.conf,
            ceph_port=self.ceph.port,
            ceph_pool=POOL,
            memory_mib=memory_mib,
            vcpus=vcpus,
            accelerator=accelerator,
        )

    def _record(self, machine: Machine, suite: str | None) -> Domain:
        disks = [asdict(disk) for disk in machine.disks]
        domain = self.state.domains[machine.name] = Domain(machine.name, machine.uuid, disks, suite)
        self.state.save()
        if not suite:
            libvirtd.expect_leftover(self.state, libvirtd.log_file(machine.name))
        return domain

    def _guest(self, domain: Domain) -> Guest:
        disks = [Disk(**disk) for disk in domain.disks]
        folder = self._folder(domain.name)
        if domain.suite:
            return RootedGuest(domain.name, domain.uuid, disks, folder, self.state, root_of(domain.suite))
        return LibvirtGuest(domain.name, domain.uuid, disks, folder)

    def _folder(self, name: str) -> Path:
        return self.root / "guests" / name

    def down(self) -> None:
        """Undo everything in the state file; again and again, if need be."""
        take_down(self.state, self.say)
        self.guests.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()


def down(root: Path = DEFAULT_ROOT, say: Say = print_progress) -> None:
    """Take down whatever is left of the lab at `root`, by its state file alone."""
    state = State.load(root.absolute())
    if state is None:
        say(f"no lab at {root}")
        return
    take_down(state, _with_seconds(say))


def take_down(state: State, say: Say) -> None:
    """Undo what the state file tells of: guests, Ceph, libvirt's daemons, files."""
    if not state.path.exists():
        return
    if not all(domain.suite for domain in state.domains.values()) and not libvirtd.is_answering():
        # Ours died, or was killed; only it can end its domains properly.
        libvirtd.up(state.root)
    for name, domain in list(state.domains.items()):
        if domain.suite:
            rooted_guest.destroy(state, name)
        else:
            libvirtd.destroy(domain.uuid)
        del state.domains[name]
        state.save()
        say(f"guest {name} is gone")
    Ceph(state).down()
    libvirtd.down(state.root)
    state.remove_leftovers()
    state.erase()
    say("lab is down")


def _with_seconds(say: Say) -> Say:
    start = time.monotonic()
    return lambda line: say(f"{time.monotonic() - start:6.1f} s  {line}")
