# SPDX-License-Identifier: Apache-2.0
"""The guests to trace: selected by domain name, UUID or process id, or all of them."""

import contextlib

from otel_qemu.errors import NothingToTrace
from otel_qemu.probe.domains import Domain, Libvirt
from otel_qemu.probe.processes import QemuProcess, qemu_pids, read_process, start_ticks
from otel_qemu.trace.names import Guest

Identity = tuple[int, int]
"""Process id and start time in ticks; a process id alone is used again."""


class Selection:
    """
    The processes to trace, and their names from libvirt.

    The loop asks for the processes again and again.  Only for a new process are its files read and libvirt asked.
    """

    def __init__(
        self, domains: tuple[str, ...] = (), pids: tuple[int, ...] = (), libvirt: Libvirt | None = None
    ) -> None:
        """
        Select processes; without domains and pids, all QEMU processes.

        Args:
            domains: names or UUIDs of libvirt domains.
            pids: process ids, whatever their executable is called.
            libvirt: where domains are looked up.
        """
        self._domains = frozenset(domain.lower() for domain in domains)
        self._pids = pids
        self._libvirt = libvirt or Libvirt()
        self._seen: dict[Identity, QemuProcess | None] = {}
        self._nameless: set[int] = set()
        self.guests: dict[int, Guest] = {}
        """The guest of each selected process, by process id."""

    @property
    def problem(self) -> str | None:
        """The reason why names are missing; None if libvirt answers."""
        return self._libvirt.problem

    def processes(self) -> dict[Identity, QemuProcess]:
        """Return the selected processes that run now."""
        present = {identity for pid in self._candidates() if (identity := _identity(pid))}
        for gone in self._seen.keys() - present:
            if self._seen.pop(gone):
                del self.guests[gone[0]]
                self._nameless.discard(gone[0])
        for identity in sorted(present - self._seen.keys()):
            self._look_at(identity)
        self._look_again()
        return {identity: process for identity, process in self._seen.items() if process}

    def require(self) -> dict[Identity, QemuProcess]:
        """
        Return the selected processes that run now; there must be at least one.

        Raises:
            NothingToTrace: no QEMU process runs, or none of those that were selected.
        """
        found = self.processes()
        if found:
            return found
        if self._domains and self.problem:
            raise NothingToTrace(f"no domain can be looked up: {self.problem}, or select guests by --pid")
        if self._domains or self._pids:
            asked = ", ".join([*sorted(self._domains), *(f"pid {pid}" for pid in self._pids)])
            raise NothingToTrace(f"no running QEMU process for {asked}: `otel-qemu check` lists what runs here")
        raise NothingToTrace("no QEMU process runs here: start a guest first")

    def describe(self, pid: int) -> Guest | None:
        """Ask libvirt again about a selected process, because a disk may have been plugged in since."""
        process = next((process for process in self._seen.values() if process and process.pid == pid), None)
        if process:
            domain = self._domain(process)
            if domain or not self.problem:
                self.guests[pid] = _guest(process, domain)
                self._nameless.discard(pid)
        return self.guests.get(pid)

    def describe_all(self) -> None:
        """Ask libvirt again about the guests that it knew, because a disk may have been unplugged since."""
        for process in [process for process in self._seen.values() if process]:
            # A guest that libvirt no longer knows is about to end, and keeps its name until then.
            if self.guests[process.pid].uuid and (domain := self._domain(process)):
                self.guests[process.pid] = _guest(process, domain)

    def _candidates(self) -> set[int]:
        return set(self._pids) | (set() if self._pids and not self._domains else set(qemu_pids()))

    def _look_at(self, identity: Identity) -> None:
        """Decide whether a new process is selected.  If that cannot be known yet, the next call decides."""
        try:
            process = read_process(identity[0])
        except OSError:
            return  # it has just ended, or we may not read it
        domain = self._domain(process)
        if self._is_chosen(process, domain):
            self._seen[identity] = process
            self.guests[process.pid] = _guest(process, domain)
            if self.problem:
                self._nameless.add(process.pid)
        elif not self.problem:
            self._seen[identity] = None

    def _look_again(self) -> None:
        """
        Look again at processes that were incomplete.

        A process maps librbd when it opens its first rbd disk, which may be plugged in much later.  And libvirtd may
        have been down, so that a guest has no name yet.
        """
        for identity, process in self._seen.items():
            if process and not process.librbd:
                with contextlib.suppress(OSError):
                    self._seen[identity] = read_process(process.pid)
        for pid in [pid for pid in self._nameless if pid in self.guests]:
            self.describe(pid)

    def _domain(self, process: QemuProcess) -> Domain | None:
        return self._libvirt.domain(process.uuid) if process.uuid else None

    def _is_chosen(self, process: QemuProcess, domain: Domain | None) -> bool:
        if not self._domains and not self._pids:
            return True
        names = {domain.uuid, domain.name.lower()} if domain else {process.uuid}
        return process.pid in self._pids or bool(self._domains & names)


def _identity(pid: int) -> Identity | None:
    try:
        return pid, start_ticks(pid)
    except OSError:
        return None


def _guest(process: QemuProcess, domain: Domain | None) -> Guest:
    if domain is None:
        return Guest(process.pid, process.executable.name)
    return Guest(process.pid, process.executable.name, domain.uuid, domain.name, domain.disks)
