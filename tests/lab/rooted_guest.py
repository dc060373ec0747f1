# SPDX-License-Identifier: Apache-2.0
"""
A guest whose QEMU is another version: it runs in a root of its own (tests.lab.roots), and libvirt knows nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.lab import processes, qmp
from tests.lab.disk import Disk
from tests.lab.domain_xml import Machine
from tests.lab.errors import GuestError, LabError
from tests.lab.guest import Guest
from tests.lab.qemu_line import command_line, throttling
from tests.lab.roots import Root
from tests.lab.state import State

# Where QEMU finds the lab's folder and the cache; both are empty in a fresh root.
LAB, CACHE = "/mnt", "/srv"
START_TIMEOUT_S = 120


class RootedGuest(Guest):
    """
    One guest of the lab, in the root of a suite.
    """

    def __init__(self, name: str, uuid: str, disks: Sequence[Disk], folder: Path, state: State, root: Root) -> None:
        super().__init__(name, uuid, disks, folder)
        self.root = root
        self.log = folder / "qemu.log"
        self._state = state
        self._qmp = folder / "qmp"

    def start(self, machine: Machine, paused: bool) -> None:
        """Start QEMU in its root, and set the limits; then leave it paused, or boot it."""
        mounts = {self._state.root: LAB, machine.initramfs.parent: CACHE}
        line = command_line(_as_seen(machine, mounts), _inside(self._qmp, mounts))
        self._qmp.unlink(missing_ok=True)
        processes.start(self._state, _key(self.name), self.root.command(line, mounts), self.uuid, self.log)
        self._await_qmp()
        for limits in throttling(self.disks):
            self._order(limits)
        if not paused:
            self.resume()

    def _await_qmp(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                qmp.ask(self._qmp, {"execute": "query-status"}, START_TIMEOUT_S)
                return
            except OSError:
                processes.check_alive(self._state.processes[_key(self.name)], self.log)
            if time.monotonic() > deadline:
                raise GuestError(f"no QMP in {START_TIMEOUT_S} s, guest {self.name}: see {self.log}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        """Its QEMU process."""
        if not self.is_running():
            raise GuestError(f"not running, guest {self.name}: see {self.log}", self.console_tail())
        return self._state.processes[_key(self.name)].pid

    def is_running(self) -> bool:
        """Whether its process does."""
        process = self._state.processes.get(_key(self.name))
        return process is not None and processes.is_alive(process)

    def suspend(self) -> None:
        """Stop its virtual CPUs."""
        self._order({"execute": "stop"})

    def resume(self) -> None:
        """Let a paused guest run; returns when it answers."""
        self._order({"execute": "cont"})
        self.await_boot()

    def qmp(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a QMP command; gives the whole answer, ``{"return": …}``."""
        try:
            return qmp.ask(self._qmp, command)
        except OSError as error:
            raise GuestError(f"QMP {command.get('execute')} failed, guest {self.name}: {error}") from error

    def _order(self, command: dict[str, Any]) -> None:
        answer = self.qmp(command)
        if "error" in answer:
            raise GuestError(f"QMP {command['execute']} failed, guest {self.name}: {answer['error']['desc']}")

    def destroy(self) -> None:
        """End it at once."""
        try:
            destroy(self._state, self.name)
        except LabError as error:
            raise GuestError(str(error)) from error


def destroy(state: State, name: str) -> None:
    """End a guest's QEMU, by the state file alone; one that is gone already is fine."""
    processes.stop(state, _key(name), timeout_s=5)


def _as_seen(machine: Machine, mounts: Mapping[Path, str]) -> Machine:
    return replace(
        machine,
        kernel=_inside(machine.kernel, mounts),
        initramfs=_inside(machine.initramfs, mounts),
        console=_inside(machine.console, mounts),
        channel=_inside(machine.channel, mounts),
        ceph_conf=_inside(machine.ceph_conf, mounts),
    )


def _inside(path: Path, mounts: Mapping[Path, str]) -> Path:
    folder = next(folder for folder in mounts if path.is_relative_to(folder))
    return mounts[folder] / path.relative_to(folder)


def _key(name: str) -> str:
    # Among QEMU's arguments, as is the UUID: so it is found even when the lab had no time to record its process.
    return f"guest={name}"
