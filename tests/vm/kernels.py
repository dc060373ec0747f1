# SPDX-License-Identifier: Apache-2.0
"""
Kernels of other Debian suites: found by an apt with lists of its own, unpacked into the cache, never installed.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError
from tests.lab.kernel import Kernel, cache_folder, newest_packages, unpack
from tests.lab.roots import debian_mirror

UPDATE_S = 120
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
CONFIGURATION = """\
Dir "{folder}/";
Dir::State "{folder}";
Dir::State::status "/var/lib/dpkg/status";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d";
APT::Sandbox::User "root";
Acquire::http::Timeout "20";
Acquire::Retries "1";
"""


@dataclass(frozen=True)
class Suite:
    """
    A Debian suite whose newest cloud kernel is wanted.

    Attributes:
        name: such as ``trixie-backports``.
    """

    name: str

    def kernel(self) -> Kernel:
        """
        The newest kernel of the suite, downloading it first where it is not cached; without a network, any cached one.

        Raises:
            LabError: there is no such kernel.
        """
        cache = cache_folder().with_name("kernels") / self.name
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            apt = _own_apt(Path(scratch) / "apt", self.name)
            packages = newest_packages(apt)
            cached = sorted(cache.glob("linux-*"), key=lambda path: path.stat().st_mtime)
            if not packages and not cached:
                raise LabError(f"no cloud kernel in the suite {self.name}: does {debian_mirror()} have it?")
            if not packages:
                return Kernel(cached[-1])
            folder = cache / packages[0].replace("=", "_")
            if not folder.is_dir():
                (downloads := Path(scratch) / "downloads").mkdir()
                unpack(packages, folder, downloads, apt)
            return Kernel(folder)


def _own_apt(folder: Path, suite: str) -> Mapping[str, str]:
    """Return the environment of an apt that knows this suite alone; the machine's own apt stays as it is."""
    for name in ("lists/partial", "cache/archives/partial", "etc/apt/apt.conf.d", "etc/apt/preferences.d"):
        (folder / name).mkdir(parents=True)
    (folder / "sources.list").write_text(f"deb [signed-by={KEYRING}] {debian_mirror()} {suite} main\n")
    (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder))
    environment = os.environ | {"APT_CONFIG": str(folder / "apt.conf")}
    with contextlib.suppress(subprocess.TimeoutExpired):  # then a kernel that is cached will do
        subprocess.run(
            ["apt-get", "-qq", "update"], env=environment, capture_output=True, check=False, timeout=UPDATE_S
        )
    return environment
