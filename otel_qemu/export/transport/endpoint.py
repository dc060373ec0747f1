# SPDX-License-Identifier: Apache-2.0
"""
Where OTLP goes, by the standard ``OTEL_EXPORTER_OTLP_*`` variables; a signal's own wins over the general one.

Source: OpenTelemetry specification, protocol/exporter.md, and configuration/sdk-environment-variables.md: an empty
variable is an unset one, durations are in milliseconds.
"""

import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from urllib.parse import urlsplit

from otel_qemu.errors import BadInput
from otel_qemu.export.text import printable, without_secrets
from otel_qemu.export.transport import environment

GRPC, HTTP = "grpc", "http/protobuf"
_DEFAULT_URLS = {GRPC: "http://localhost:4317", HTTP: "http://localhost:4318"}
_DEFAULT_TIMEOUT_MS = 10_000
_NOT_OF_HOSTS = re.compile(r"[\x00-\x20\x7f]")
_HEADER_NAMES = {
    GRPC: re.compile(r"[0-9a-z_.-]+"),  # gRPC over HTTP2, "Custom-Metadata"; it refuses the whole request otherwise
    HTTP: re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+"),  # a token, RFC 9110 5.6.2
}


class Signal(StrEnum):
    """The kind of telemetry; its value is its name in variables, paths and settings."""

    TRACES = "traces"
    METRICS = "metrics"


@dataclass(frozen=True)
class Endpoint:
    """
    One place to send to, and how.

    Attributes:
        signal: that is sent there.
        protocol: `GRPC` or `HTTP`.
        url: whole; of gRPC, only scheme and authority count.
        headers: sent with each request.
        certificate: path of a PEM file with the authorities to trust; None: the system's.
        client_key, client_certificate: paths of PEM files; None: the client has none.
        gzip: whether requests are compressed.
        timeout_s: for each request.
    """

    signal: Signal
    protocol: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    certificate: str | None = None
    client_key: str | None = None
    client_certificate: str | None = None
    gzip: bool = False
    timeout_s: float = _DEFAULT_TIMEOUT_MS / 1000

    @property
    def name(self) -> str:
        """The URL as a person may read it: without the password that it may hold."""
        parts = urlsplit(self.url)
        return printable(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}")

    @property
    def secure(self) -> bool:
        """Whether it is reached by TLS."""
        return urlsplit(self.url).scheme == "https"


def endpoint(signal: Signal) -> Endpoint:
    """
    The endpoint that the environment names for a signal; by default this machine, over gRPC.

    Raises:
        BadInput: a variable has a value that it must not have; it says which, and what is allowed.
    """
    protocol = environment.choice(GRPC, tuple(_DEFAULT_URLS), *_variables(signal, "PROTOCOL"))
    compression = environment.choice("none", ("none", "gzip"), *_variables(signal, "COMPRESSION"))
    return Endpoint(
        signal,
        protocol,
        _url(signal, protocol),
        environment.parsed(partial(_headers, _HEADER_NAMES[protocol]), (), *_variables(signal, "HEADERS")),
        environment.parsed(_authorities, None, *_variables(signal, "CERTIFICATE")),
        *_client_pair(signal),
        compression == "gzip",
        environment.parsed(_milliseconds, _DEFAULT_TIMEOUT_MS, *_variables(signal, "TIMEOUT")) / 1000,
    )


def _variables(signal: Signal, what: str) -> tuple[str, str]:
    return f"OTEL_EXPORTER_OTLP_{signal.upper()}_{what}", f"OTEL_EXPORTER_OTLP_{what}"


def _url(signal: Signal, protocol: str) -> str:
    """The URL; for HTTP the general variable gives a folder, and the signal's own is used as it is."""
    own, general = _variables(signal, "ENDPOINT")
    variable, url = environment.setting(own, general)
    url = url or _DEFAULT_URLS[protocol]
    if protocol == GRPC:
        url = _with_scheme(signal, url)
    if not is_url(url, "http", "https"):
        raise BadInput(
            f"{variable} is {printable(without_secrets(url))!r}: it must be a URL like {_DEFAULT_URLS[protocol]}"
        )
    if protocol == HTTP and variable != own:
        parts = urlsplit(url)
        return parts._replace(path=f"{parts.path.rstrip('/')}/v1/{signal}").geturl()
    return url


def _with_scheme(signal: Signal, url: str) -> str:
    """gRPC takes ``host:port`` too; then INSECURE says whether it is reached without TLS."""
    if "://" in url:
        return url
    insecure = environment.choice("false", ("true", "false"), *_variables(signal, "INSECURE"))
    return f"{'http' if insecure == 'true' else 'https'}://{url}"


def is_url(url: str, *schemes: str) -> bool:
    """Whether it has one of these schemes, a host without spaces and controls, and no port or a valid one."""
    try:
        parts = urlsplit(url)
        is_host = bool(parts.hostname) and not _NOT_OF_HOSTS.search(parts.hostname or "")
        return parts.scheme in schemes and is_host and parts.port != 0
    except ValueError:
        return False


def _authorities(path: str) -> str:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # an SSLError is one
        raise ValueError(f"{path}: {error.strerror or error}; it must be a file of PEM certificates") from None
    return path


def _client_pair(signal: Signal) -> tuple[str | None, str | None]:
    """The client's key and certificate: both, neither, or a certificate whose file holds the key as well."""
    of_key, key = environment.setting(*_variables(signal, "CLIENT_KEY"))
    of_certificate, certificate = environment.setting(*_variables(signal, "CLIENT_CERTIFICATE"))
    if key and not certificate:
        raise BadInput(f"{of_key} is set and {of_certificate} is not: set both, or neither")
    if certificate:
        variables = f"{of_certificate} and {of_key}" if key else of_certificate
        _check_pair(variables, certificate, key or None)
    return key or None, certificate or None


def _check_pair(variables: str, certificate: str, key: str | None) -> None:
    try:
        # The password is asked for at the terminal, if nobody answers.
        ssl.create_default_context().load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:
        files = printable(f"{certificate} and {key}" if key else certificate)
        reason = f"{error.strerror or error}; they must be PEM files of a certificate and its key, not encrypted"
        raise BadInput(f"{variables}: {files}: {reason}") from None


def _headers(names: re.Pattern[str], text: str) -> tuple[tuple[str, str], ...]:
    """Names, each of which must match, and values as HTTP and gRPC take them."""
    found = tuple((name.lower(), value) for name, value in environment.pairs_of(text))
    for number, (name, value) in enumerate(found, 1):
        if not names.fullmatch(name) or not (value.isascii() and value.isprintable()):
            raise ValueError(f"part {number} is not a header like name=value, in printable ASCII")
    return found


def _milliseconds(text: str) -> int:
    if not re.fullmatch("[0-9]{1,8}", text) or not int(text):
        raise ValueError(f"it must be a number of milliseconds, 1 to 99999999, not {text!r}")
    return int(text)
