# SPDX-License-Identifier: Apache-2.0
"""
A Ceph of one monitor and one OSD that keeps its data in memory, on loopback, all of it below the lab's root.

No manager is started: RBD does not need one, and it is the slowest daemon to come up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

from tests.lab import processes
from tests.lab.errors import LabError
from tests.lab.state import State

POOL = "rbd"
CONF = """\
[global]
fsid = {fsid}
mon_host = v2:127.0.0.1:{port}
public_addr = 127.0.0.1
auth_cluster_required = none
auth_service_required = none
auth_client_required = none
osd_pool_default_size = 1
osd_pool_default_min_size = 1
osd_pool_default_pg_num = 8
osd_crush_chooseleaf_type = 0
mon_allow_pool_size_one = true
mon_data_avail_warn = 1
mon_data_avail_crit = 1
run_dir = {run}
admin_socket = {run}/$name.asok

[mon]
mon_data = {data}/mon
log_file = {log}/$name.log
mon_cluster_log_file = {log}/cluster.log
# Otherwise the OSD of a half-dead lab is waited for.
mon_osd_report_timeout = 3600
# A cluster of one has nobody to wait for.
paxos_propose_interval = 0.05
mon_tick_interval = 1

[osd]
osd_data = {data}/osd
log_file = {log}/$name.log
osd_objectstore = memstore
memstore_device_bytes = {memory_bytes}
# A fast shutdown would forget what is in memory; a slow one writes it to osd_data, for the next start.
osd_fast_shutdown = false

[client]
admin_socket =
log_file =
"""


class Ceph:
    """
    The cluster of one lab.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.root = state.root / "ceph"
        self.conf = self.root / "ceph.conf"
        self.port = state.port

    def up(self, say: Callable[[str], None], memory_bytes: int = 8 << 30) -> None:
        """Create and start the cluster; returns when its pool answers."""
        folders = {name: self.root / name for name in ("run", "log", "data")}
        for folder in (self.root, *folders.values()):
            folder.mkdir()
        fsid = uuid.uuid4()
        self.conf.write_text(CONF.format(fsid=fsid, port=self.port, memory_bytes=memory_bytes, **folders))
        # What is started below runs as root; guests read only this file.
        self._mon_up(folders["data"] / "mon")
        say(f"ceph monitor on 127.0.0.1:{self.port}")
        self._osd_up(folders["data"] / "osd")
        self._await_pool()
        say("ceph OSD in memory, pool rbd")

    def _mon_up(self, data: Path) -> None:
        data.mkdir()
        monmap = self.root / "monmap"
        fsid = self._run("ceph-conf", "--lookup", "fsid").strip()
        self._run(
            "monmaptool",
            "--create",
            "--fsid",
            fsid,
            "--addv",
            "a",
            f"[v2:127.0.0.1:{self.port}]",
            str(monmap),
        )
        self._run("ceph-mon", "--mkfs", "--id", "a", "--monmap", str(monmap))
        self._start("ceph-mon", "a")
        self.command("osd", "pool", "create", POOL, "8")

    def _osd_up(self, data: Path) -> None:
        data.mkdir()
        osd_uuid = str(uuid.uuid4())
        self.command("osd", "new", osd_uuid)
        self._run("ceph-osd", "--mkfs", "--id", "0", "--osd-uuid", osd_uuid)
        self._start("ceph-osd", "0")

    def _start(self, program: str, name: str) -> None:
        command = [program, "--foreground", "--id", name, "--conf", str(self.conf)]
        processes.start(self.state, program, command, str(self.conf), self.root / "log" / f"{program}.out")

    def command(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run ``ceph ARGUMENTS``, and give what it prints."""
        return self._run("ceph", "--connect-timeout", str(int(timeout_s)), *arguments, timeout_s=timeout_s + 5)

    def rbd(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run ``rbd ARGUMENTS`` on the lab's pool, and give what it prints."""
        return self._run("rbd", "--pool", POOL, *arguments, timeout_s=timeout_s)

    def create_image(self, image: str, size_mib: int) -> None:
        """Create an image; one that is already there is kept as it is."""
        try:
            self.rbd("create", "--size", str(size_mib), image)
        except LabError as error:
            if "File exists" not in str(error):
                raise

    def osd_pid(self) -> int:
        """Process of the OSD."""
        return self.state.processes["ceph-osd"].pid

    def pause_osd(self) -> None:
        """Freeze the OSD (SIGSTOP): requests hang until `resume_osd`."""
        os.kill(self.osd_pid(), signal.SIGSTOP)

    def resume_osd(self) -> None:
        """Let a frozen OSD go on."""
        os.kill(self.osd_pid(), signal.SIGCONT)

    def stop_osd(self) -> None:
        """End the OSD for real; it keeps its data for `start_osd`."""
        processes.stop(self.state, "ceph-osd", timeout_s=60)

    def start_osd(self) -> None:
        """Start the OSD again; returns when the pool answers."""
        self._start("ceph-osd", "0")
        self._await_pool()

    def _await_pool(self) -> None:
        # The first write to a pool waits for its placement groups, and they for the OSD. By itself a client
        # looks for a new map every five seconds only.
        self.rbd("create", "--size", "1", "pool-answers", "--objecter-tick-interval", "0.2")
        self.rbd("rm", "--no-progress", "pool-answers")

    def down(self) -> None:
        """Stop the daemons; without the patience for data that is thrown away anyway."""
        for program in ("ceph-osd", "ceph-mon"):
            processes.stop(self.state, program, timeout_s=0.2)
        # A client that a killed lab left would wait for the monitor for ever.
        for client in ("ceph", "rbd"):
            processes.end_all(client, str(self.conf))

    def _run(self, *command: str, timeout_s: float = 120) -> str:
        full = [command[0], "--conf", str(self.conf), *command[1:]]
        if command[0] == "monmaptool":
            full = list(command)
        try:
            done = subprocess.run(full, capture_output=True, text=True, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self._explain()
            raise LabError(f"no answer in {timeout_s:.0f} s, {' '.join(command)}: see {self.root / 'log'}") from None
        if done.returncode:
            self._explain()
            raise LabError(f"failed, {' '.join(command)}: see {self.root / 'log'}\n{done.stderr.strip()[-2000:]}")
        return done.stdout

    def _explain(self) -> None:
        # A dead daemon's own words are worth more than its client's timeout.
        for program, process in self.state.processes.items():
            if program.startswith("ceph-") and process.pid:
                processes.check_alive(process, self.root / "log" / f"{program}.out")
