# SPDX-License-Identifier: Apache-2.0
"""Programs without symbols, what they were stripped of, and a server that has it."""

import contextlib
import http.server
import lzma
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from otel_qemu.probe.debuginfod import Client
from otel_qemu.probe.elf import Function
from otel_qemu.probe.symbols import open_with_symbols
from tests.children import join
from tests.support.builders import compiled
from tests.support.real_binaries import file_offset, nm, run

SOURCE = """
__attribute__((noinline)) int wanted(int *p) { return *p + 1; }
__attribute__((noinline)) int other(int *p) { return *p + 2; }
int main(int argc, char **argv) { return wanted(&argc) + other(&argc); }
"""
PIE = ("-pie", "-fPIE")
FIXED = ("-no-pie", "-fno-pie", "-Wl,-Ttext-segment=0x40000000")
BUILD_ID = "abcdef0123456789"
WITH_ID = f"-Wl,--build-id=0x{BUILD_ID}"
DEBUG_FILE = Path("usr/lib/debug/.build-id/ab/cdef0123456789.debug")
URL_PATH = f"/buildid/{BUILD_ID}/debuginfo"


class Stripped:
    """A program without symbols, what it was stripped of, and where its functions lie in it."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.path = compiled(directory, SOURCE, WITH_ID, *options)
        self.whole = directory / "whole"
        shutil.copy(self.path, self.whole)
        self.debug = directory / "binary.debug"
        self.root = directory / "root"
        self.client = Client()
        run("objcopy", "--only-keep-debug", self.path, self.debug)
        run("objcopy", "--strip-all", self.path)
        self.offsets = {n: file_offset(str(self.path), at) for n, at in nm(str(self.whole)).items() if n in SOURCE}

    def install(self, root: Path | None = None) -> Path:
        """Put the debug file where packages do."""
        path = (root or self.root) / DEBUG_FILE
        path.parent.mkdir(parents=True)
        shutil.copy(self.debug, path)
        return path

    def embed(self, data: bytes) -> None:
        """Put this into .gnu_debugdata."""
        section = self.path.with_name("section")
        section.write_bytes(data)
        run("objcopy", "--add-section", f".gnu_debugdata={section}", self.path)

    def mini(self) -> bytes:
        """What Fedora's find-debuginfo makes of the debug file."""
        small = self.path.with_name("mini")
        run("objcopy", "-S", "--keep-symbol=wanted", "--keep-symbol=other", self.debug, small)
        return lzma.compress(small.read_bytes())

    def find(self, name: str = "wanted", *, roots: tuple[Path, ...] = ()) -> tuple[Function | None, list[str]]:
        """The function and the problems met."""
        with open_with_symbols(str(self.path), ["wanted"], roots or [self.root], self.client) as binary:
            return binary.function(name), binary.problems


class Debuginfod(http.server.BaseHTTPRequestHandler):
    """As debuginfod answers; `files` by path, and every path asked for in `asked`."""

    files: ClassVar[dict[str, bytes]] = {}
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        data = self.files.get(self.path)
        self.send_response(404 if data is None else 200)
        self.end_headers()
        self.wfile.write(data or b"")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """The address of a debuginfod without files."""
    Debuginfod.files, Debuginfod.asked = {}, []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Debuginfod) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}"
        finally:
            listening.shutdown()
            join(thread)
