# SPDX-License-Identifier: Apache-2.0
"""The way to an HTTP endpoint: to whom to connect, directly or by a proxy of the environment, and what to ask for."""

import base64
from typing import NamedTuple
from urllib.parse import SplitResult, quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from otel_qemu.errors import BadInput
from otel_qemu.export.text import printable, without_secrets
from otel_qemu.export.transport.endpoint import is_url

_PORTS = {"http": 80, "https": 443}
_IN_TARGETS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986: reserved characters, and those of percent-encoding


class Route(NamedTuple):
    """
    The way to an endpoint.

    Attributes:
        host, port: to connect to.
        target: of the request line: a path, or for a proxy the whole URL.
        headers: which the user names and passwords of URLs stand for, sent with each request.
        tunnel: host and port that a proxy is asked to connect to, for TLS; None: it is not asked.
        tunnel_headers: sent with that.
    """

    host: str
    port: int
    target: str
    headers: dict[str, str]
    tunnel: tuple[str, int] | None = None
    tunnel_headers: dict[str, str] = {}


def route(url: str) -> Route:
    """
    The way to a URL, as ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy`` have it.

    Raises:
        BadInput: the proxy is not an HTTP proxy.
    """
    there = urlsplit(url)
    host, port = there.hostname or "", there.port or _PORTS[there.scheme]
    own = _basic(there, "authorization")
    target = quote(there.path or "/", _IN_TARGETS) + (f"?{quote(there.query, _IN_TARGETS)}" if there.query else "")
    proxy = _proxy(there.scheme, there.netloc.rpartition("@")[2])
    if proxy is None:
        return Route(host, port, target, own)
    by, its = (proxy.hostname or "", proxy.port or _PORTS["http"]), _basic(proxy, "proxy-authorization")
    if there.scheme == "https":
        return Route(*by, target, own, (host, port), its)
    return Route(*by, f"http://{there.netloc.rpartition('@')[2]}{target}", own | its)


def _proxy(scheme: str, host: str) -> SplitResult | None:
    proxies = getproxies()
    found = proxies.get(scheme) or proxies.get("all")
    if not found or proxy_bypass(host):
        return None
    url = found if "://" in found else f"http://{found}"
    if not is_url(url, "http"):
        shown = printable(without_secrets(found))
        raise BadInput(f"{scheme}_proxy is {shown!r}: it must be a URL like http://proxy:3128")
    return urlsplit(url)


def _basic(parts: SplitResult, header: str) -> dict[str, str]:
    """The header that a URL's user name and password stand for (RFC 7617); none where it has none."""
    if parts.username is None:
        return {}
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {header: f"Basic {base64.b64encode(pair.encode()).decode()}"}
