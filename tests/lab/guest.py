# SPDX-License-Identifier: Apache-2.0
"""
A running guest: run commands in it, ask its QEMU, count its requests, end it.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import children
from tests.lab import channel
from tests.lab.counts import BlockCounts, GuestCounts
from tests.lab.disk import Disk
from tests.lab.domain_xml import Machine
from tests.lab.errors import GuestError

BOOT_TIMEOUT_S = 300


class Guest(ABC):
    """
    One guest of the lab, whoever starts its QEMU: libvirt (LibvirtGuest), or the lab itself in a root (RootedGuest).
    """

    def __init__(self, name: str, uuid: str, disks: Sequence[Disk], folder: Path) -> None:
        self.name = name
        self.uuid = uuid
        self.disks = list(disks)
        self.console = folder / "console.log"
        self.channel = folder / "channel"
        self._devices: dict[str, str] = {}

    @abstractmethod
    def start(self, machine: Machine, paused: bool) -> None:
        """Start its QEMU, and leave it paused before its first instruction, or wait until it answers."""

    @property
    @abstractmethod
    def pid(self) -> int:
        """Its QEMU process."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether it is still there."""

    @abstractmethod
    def suspend(self) -> None:
        """Stop its virtual CPUs."""

    @abstractmethod
    def resume(self) -> None:
        """Let a paused guest run; returns when it answers."""

    @abstractmethod
    def qmp(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send a QMP command; gives the whole answer, ``{"return": …}``."""

    @abstractmethod
    def destroy(self) -> None:
        """End it at once; one that is gone already is fine."""

    def await_boot(self, timeout_s: float = BOOT_TIMEOUT_S) -> None:
        """Wait until it runs commands."""
        self.run("true", timeout_s)

    def run(self, command: str, timeout_s: float = 120) -> str:
        """Run a shell command inside, and give its standard output."""
        try:
            answer = channel.ask(self.channel, command, timeout_s)
        except channel.ChannelTimeout:
            raise GuestError(self._failure(f"no answer in {timeout_s:.0f} s", command), self.console_tail()) from None
        except channel.ChannelClosed:
            raise GuestError(self._failure("QEMU ended", command), self.console_tail()) from None
        if answer.status:
            # 137 is what the guest's `timeout -s KILL` makes of a command that took too long.
            reason = f"killed after {timeout_s:.0f} s" if answer.status == 137 else f"status {answer.status}"
            raise GuestError(self._failure(reason, command), answer.stdout + answer.stderr)
        return answer.stdout

    def _failure(self, reason: str, command: str) -> str:
        first_line = command.strip().partition("\n")[0]
        return f"{reason}, command in guest {self.name}: {first_line[:100]} (console: {self.console})"

    def write(self, path: str, text: str) -> None:
        """Put a text file into the guest."""
        self.run(f"cat > {path} <<'END-OF-FILE'\n{text.rstrip()}\nEND-OF-FILE\n")

    def console_tail(self, lines: int = 40) -> str:
        """The end of what it printed on its serial console."""
        try:
            return "\n".join(self.console.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""

    def block_counts(self) -> dict[str, BlockCounts]:
        """QEMU's own counts, by disk alias."""
        entries = self.qmp({"execute": "query-blockstats"})["return"]
        # The device's path ends in its alias, or holds it: /machine/peripheral/ua-ceph-x/…
        by_alias = {alias: entry for entry in entries for alias in entry.get("qdev", "").split("/")}
        return {disk.alias: BlockCounts.of(by_alias[disk.alias]["stats"]) for disk in self.disks}

    def device(self, disk: Disk) -> str:
        """
        What the guest calls a disk, such as ``sda``.

        The kernel probes disks in parallel, so the letters do not follow the order of the disks; the LUNs do.
        """
        if not self._devices:
            listing = self.run('for d in /sys/block/sd*; do echo "$(basename $d) $(readlink $d/device)"; done')
            by_lun = {path.rpartition(":")[2]: name for name, path in map(str.split, listing.splitlines())}
            self._devices = {disk.alias: by_lun[str(lun)] for lun, disk in enumerate(self.disks)}
        return self._devices[disk.alias]

    def guest_counts(self) -> dict[str, GuestCounts]:
        """The guest kernel's own counts, by device name in the guest."""
        listing = self.run('for d in /sys/block/sd*; do echo "$(basename $d) $(cat $d/stat)"; done')
        rows = (line.split(maxsplit=1) for line in listing.splitlines())
        return {device: GuestCounts.of(stat) for device, stat in rows}

    def shutdown(self, timeout_s: float = 120) -> None:
        """Power it off from inside, and wait for the end of its process."""
        pidfd = os.pidfd_open(self.pid)
        try:
            # Answer first, power off then: the answer would not get out any more.
            self.run("(sleep 0.2; poweroff -f) >/dev/null 2>&1 &", timeout_s)
            if not children.wait_end(pidfd, timeout_s):
                raise GuestError(f"still runs after {timeout_s:.0f} s, guest {self.name}", self.console_tail())
        finally:
            os.close(pidfd)
        self.destroy()
