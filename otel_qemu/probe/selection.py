"""Which guests: by domain name, UUID or process id; all of them when nobody says."""

from collections.abc import Mapping

from otel_qemu.errors import NothingToTrace
from otel_qemu.probe.domains import Domain, Libvirt
from otel_qemu.probe.processes import QemuProcess, qemu_processes
from otel_qemu.trace.names import Guest


class Selection:
    """The processes to trace, and what libvirt calls them; asked again at every refresh."""

    def __init__(
        self, domains: tuple[str, ...] = (), pids: tuple[int, ...] = (), libvirt: Libvirt | None = None
    ) -> None:
        """
        Choose.

        Args:
            domains: names or UUIDs of libvirt domains.
            pids: process ids.
            libvirt: where domains are looked up.
        """
        self._wanted = frozenset(domain.lower() for domain in domains)
        self._pids = pids
        self._libvirt = libvirt or Libvirt()
        self.guests: dict[int, Guest] = {}
        """By process id, of what the last call of `processes` gave."""

    @property
    def problem(self) -> str | None:
        """Why names are missing, if they are."""
        return self._libvirt.problem

    def processes(self) -> list[QemuProcess]:
        """
        The chosen processes that run now.

        Raises:
            PermissionError: a process that was asked for by id may not be looked at.
        """
        everything = list(qemu_processes(() if self._wanted else self._pids))
        domains = self._libvirt.domains()
        chosen = [process for process in everything if self._is_wanted(process, domains.get(process.uuid or ""))]
        self.guests = {process.pid: _guest(process, domains) for process in chosen}
        return chosen

    def require(self) -> list[QemuProcess]:
        """
        Like `processes`, but there must be some.

        Raises:
            NothingToTrace: no QEMU process, or none of those asked for.
        """
        found = self.processes()
        if not found and self._wanted and self.problem:
            raise NothingToTrace(f"no domain can be looked up: {self.problem}, or select by --pid")
        if not found and (self._wanted or self._pids):
            asked = ", ".join([*sorted(self._wanted), *map(str, self._pids)])
            raise NothingToTrace(f"no running QEMU process for {asked}: `otel-qemu check` lists what runs here")
        if not found:
            raise NothingToTrace("no QEMU process runs here: start a guest first")
        return found

    def _is_wanted(self, process: QemuProcess, domain: Domain | None) -> bool:
        if not self._wanted and not self._pids:
            return True
        names = {domain.uuid, domain.name.lower()} if domain else {process.uuid}
        return process.pid in self._pids or bool(self._wanted & names)


def _guest(process: QemuProcess, domains: Mapping[str, Domain]) -> Guest:
    domain = domains.get(process.uuid or "")
    if domain is None:
        return Guest(process.pid, process.executable.name)
    return Guest(process.pid, process.executable.name, domain.uuid, domain.name, domain.disks)
