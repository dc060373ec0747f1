# SPDX-License-Identifier: Apache-2.0
"""
Drive a Chromium without a screen, through Debian's chromedriver.

In: addresses and scripts.  Out: what the scripts return, and pictures.
The protocol is W3C's WebDriver, JSON over HTTP.  Three of its commands are needed; selenium would bring a urllib3 that
Debian 12's requests does not work with.
"""

import base64
import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.backends.config import LOOPBACK, free_ports
from tests.backends.daemon import Daemon, launched
from tests.backends.query import wait_for

TIMEOUT_S = 120.0
# It runs as root, has neither screen nor GPU, and asks nobody for news.
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip

_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Chromium(Daemon):
    """
    One chromedriver with one window: `with Chromium.start(directory) as browser: …`.
    """

    def __init__(self, directory: Path, port: int, size: tuple[int, int]) -> None:
        super().__init__("chromedriver", directory / "chromedriver.log")
        self._url = f"http://{LOOPBACK}:{port}"
        self._profile = directory / "profile"
        self._size = size
        self._session = ""

    @classmethod
    def start(cls, directory: Path, size: tuple[int, int] = (1280, 900)) -> Self:
        """
        Start one whose pages are `size` pixels wide and high; its log and profile are in the directory.
        """
        browser = launched(lambda: cls(directory, free_ports(1)[0], size))
        try:
            browser._open_session()
        except BaseException:
            browser.stop()
            raise
        return browser

    @property
    def command(self) -> Sequence[str]:
        port = self._url.rpartition(":")[2]
        return ["chromedriver", f"--port={port}", f"--allowed-ips={LOOPBACK}"]

    @property
    def variables(self) -> Mapping[str, str]:
        return {"HOME": str(self._profile), "no_proxy": LOOPBACK}

    @property
    def ready_url(self) -> str:
        return f"{self._url}/status"

    def open(self, url: str) -> None:
        """
        Go to a page; what it fetches by script may come later.
        """
        self._ask("POST", "/url", {"url": url})

    def script(self, body: str, *arguments: object) -> Any:
        """
        Return what a function with this body returns in the page, as JSON has it.
        """
        return self._ask("POST", "/execute/sync", {"script": body, "args": arguments})

    def wait_for(self, body: str, what: str, timeout_s: float = TIMEOUT_S) -> Any:
        """
        Run a script until what it returns is true, and return that.

        Raises:
            TimeoutError: it was not in time.
        """
        return wait_for(lambda: self.script(body), timeout_s, what)

    def screenshot(self) -> bytes:
        """
        Return a picture of the window, PNG.
        """
        return base64.b64decode(self._ask("GET", "/screenshot"))

    def stop(self) -> None:
        """
        End the browser, and its driver.
        """
        if self._session and self.process is not None:
            self._ask("DELETE", "")
            self._session = ""
        super().stop()

    def _open_session(self) -> None:
        flags = [*FLAGS, f"--user-data-dir={self._profile}"]
        options = {"args": flags, "binary": shutil.which("chromium") or "chromium"}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._session = f"/session/{self._ask('POST', '/session', wanted)['sessionId']}"
        # A window without a screen has a title bar, too.
        width, height = self._size
        bars = self.script("return [outerWidth - innerWidth, outerHeight - innerHeight]")
        self._ask("POST", "/window/rect", {"width": width + bars[0], "height": height + bars[1]})

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self._url}{self._session}{path}", data, headers, method=method)
        try:
            with _opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            with error:
                said = json.load(error)["value"]
                raise ChromiumFailed(f"{said['error']}: {said['message']}") from None


class ChromiumFailed(Exception):
    """
    chromedriver refused a command; the text holds its reason.
    """
