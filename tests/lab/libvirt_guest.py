# SPDX-License-Identifier: Apache-2.0
"""
A guest that libvirt runs, as production's are: the machine's own QEMU, and names that libvirt knows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import libvirt
import libvirt_qemu

from tests.lab import libvirtd
from tests.lab.disk import Disk
from tests.lab.domain_xml import Machine, domain_xml
from tests.lab.errors import GuestError, LabError
from tests.lab.guest import Guest


class LibvirtGuest(Guest):
    """
    One guest of the lab, a transient domain: its end leaves nothing.
    """

    def __init__(self, name: str, uuid: str, disks: Sequence[Disk], folder: Path) -> None:
        super().__init__(name, uuid, disks, folder)
        self.connection = libvirtd.connect()

    def start(self, machine: Machine, paused: bool) -> None:
        """Create the domain, paused or booted."""
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0
        with self._named("libvirt does not start it"):
            self.connection.createXML(domain_xml(machine), flags)
        if not paused:
            self.await_boot()

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        # libvirt's errors say what, but not about which guest.
        try:
            yield
        except libvirt.libvirtError as error:
            raise GuestError(f"{what}, guest {self.name}: {error}", self.console_tail()) from error

    @property
    def domain(self) -> libvirt.virDomain:
        """libvirt's handle of it."""
        with self._named("not running"):
            return self.connection.lookupByUUIDString(self.uuid)

    @property
    def pid(self) -> int:
        """Its QEMU process."""
        path = libvirtd.RUN / "qemu" / f"{self.name}.pid"
        try:
            return int(path.read_text())
        except FileNotFoundError:
            raise GuestError(f"not running, guest {self.name}: see {self.console}", self.console_tail()) from None

    def is_running(self) -> bool:
        """Whether libvirt still knows it."""
        try:
            self.connection.lookupByUUIDString(self.uuid)
        except libvirt.libvirtError:
            return False
        return True

    def suspend(self) -> None:
        """Stop its virtual CPUs."""
        with self._named("cannot be suspended"):
            self.domain.suspend()

    def resume(self) -> None:
        """Let a paused guest run; returns when it answers."""
        with self._named("cannot be resumed"):
            self.domain.resume()
        self.await_boot()

    def qmp(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a QMP command through libvirt; gives the whole answer, ``{"return": …}``."""
        with self._named(f"QMP {command.get('execute')} failed"):
            answer = libvirt_qemu.qemuMonitorCommand(self.domain, json.dumps(command), 0)
        return cast(dict[str, Any], json.loads(answer))

    def destroy(self) -> None:
        """End it at once, as ``virsh destroy`` does; the domain is gone afterwards."""
        try:
            libvirtd.destroy(self.uuid)
        except LabError as error:
            raise GuestError(str(error)) from error
