# SPDX-License-Identifier: Apache-2.0
"""
Have Jaeger's web page: upstream's Go module lacks it, and a crate carries its production build.

In: a cache folder.  Out: the folder that Jaeger serves as `assets_path`, unpacked from an archive that was checked.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from .build import cache_folder, work_folder
from .go import Say

CRATE, CRATE_VERSION = "otlp-embedded", "0.0.2"
SHA256 = "89d4d073869615bdc3a377db062f33220ddb55787a8b5644c56ccc8bccc6a61e"
UI_VERSION = "v2.14.1"  # the newest that asks nothing of a Jaeger v2.13.0 that it does not have
BUILD = f"{CRATE}-{CRATE_VERSION}/jaeger-ui/build/"
TIMEOUT_S = 300.0


class UiMissing(Exception):
    """
    The page cannot be had here; the text says why.
    """


def install_ui(cache: Path, say: Say) -> Path | None:
    """
    Return the folder of Jaeger's page, fetched first where the cache has none.

    Where it cannot be had, say so in a sentence and return None: Jaeger runs without it.
    """
    try:
        return fetch_ui(cache)
    except UiMissing as missing:
        say(f"Jaeger is started without its page: {missing}")
        return None


def fetch_ui(cache: Path) -> Path:
    """
    Return the folder of Jaeger's page, fetched first where the cache has none.

    Raises:
        UiMissing: there is no cargo, or it did not fetch the crate, or that is another one.
    """
    folder = cache.resolve() / f"jaeger-ui-{UI_VERSION}"
    if not folder.is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with work_folder(folder.parent) as work:
            page = _unpacked(_archive(Path(work)), Path(work))
            if not folder.is_dir():  # another may have been faster; its page is the same
                page.replace(folder)
    return folder


def _archive(home: Path) -> bytes:
    # `cargo info` downloads and compiles nothing. A home of its own, so that the archive is where we look for it.
    cargo = _find_cargo()
    command = [cargo, "info", "-q", f"{CRATE}@{CRATE_VERSION}", "--registry", "crates-io"]
    environment = {**os.environ, "CARGO_HOME": str(home)}
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, cwd=home
        )
    except subprocess.TimeoutExpired:
        raise UiMissing(f"cargo did not fetch {CRATE} {CRATE_VERSION} in {TIMEOUT_S:.0f} s") from None
    found = next(home.glob(f"registry/cache/*/{CRATE}-{CRATE_VERSION}.crate"), None)
    if done.returncode or found is None:
        said = " ".join(done.stderr.split())[-300:] or "nothing was fetched"
        raise UiMissing(f"cargo could not fetch {CRATE} {CRATE_VERSION}, which needs cargo 1.82 or newer ({said})")
    archive = found.read_bytes()
    if hashlib.sha256(archive).hexdigest() != SHA256:
        raise UiMissing(f"the crate {CRATE} {CRATE_VERSION} has another SHA-256 than the one that we know")
    return archive


def _find_cargo() -> str:
    # sudo's PATH leaves rustup's folder out.
    path = os.pathsep.join((os.environ.get("PATH", ""), str(Path.home() / ".cargo/bin"), "/usr/local/cargo/bin"))
    cargo = shutil.which("cargo", path=path)
    if cargo is None:
        raise UiMissing("cargo is not installed, and 1.82 or newer fetches it")
    return cargo


def _unpacked(archive: bytes, folder: Path) -> Path:
    # By hand: Debian 12's Python 3.11.2 has no extraction filters yet. Names need no check: the archive has had one.
    with tarfile.open(fileobj=io.BytesIO(archive)) as crate:
        for member in crate:
            if member.isfile() and member.name.startswith(BUILD):
                content = crate.extractfile(member)
                assert content is not None
                path = folder / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.read())
    return folder / BUILD


def main() -> int:
    """
    `python3 -m tests.backends.ui`: have the page in the cache; exit code 4 where it cannot be had.
    """
    try:
        print(fetch_ui(cache_folder()))
    except UiMissing as missing:
        print(f"error: {missing}", file=sys.stderr)
        return 4
    return 0


if __name__ == "__main__":
    sys.exit(main())
