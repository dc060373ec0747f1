# SPDX-License-Identifier: Apache-2.0
"""Every standard variable of an endpoint, for each signal: what it does, whose wins, and what it must not be."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_qemu.errors import BadInput
from otel_qemu.export.transport.endpoint import GRPC, HTTP, Endpoint, Signal, endpoint
from tests.support.made_certificates import Authority

SIGNALS = list(Signal)


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)


@pytest.fixture
def set_variable(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Set ``OTEL_EXPORTER_OTLP_`` and what follows."""
    return lambda name, value: monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)


Set = Callable[[str, str], None]


@pytest.mark.parametrize("signal", SIGNALS)
def test_without_any_it_is_grpc_to_this_machine(signal: Signal) -> None:
    assert endpoint(signal) == Endpoint(signal, GRPC, "http://localhost:4317", timeout_s=10.0)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("variable", "general", "own", "attribute", "of_general", "of_own"),
    [
        ("HEADERS", "a=1", "A=2,b=x%20y", "headers", (("a", "1"),), (("a", "2"), ("b", "x y"))),
        ("COMPRESSION", "gzip", "none", "gzip", True, False),
        ("TIMEOUT", "1500", "2", "timeout_s", 1.5, 0.002),
        ("PROTOCOL", "http/protobuf", "grpc", "protocol", HTTP, GRPC),
        ("ENDPOINT", "http://a:1", "https://b:2", "url", "http://a:1", "https://b:2"),
    ],
)
def test_a_signals_own_wins(
    signal: Signal, variable: str, general: str, own: str, attribute: str, of_general: Any, of_own: Any,
    set_variable: Set,
) -> None:  # fmt: skip
    """Over the general one; and is nothing to the other signal."""
    set_variable(variable, general)
    assert getattr(endpoint(signal), attribute) == of_general
    set_variable(f"{signal.upper()}_{variable}", own)
    assert getattr(endpoint(signal), attribute) == of_own
    (other,) = set(Signal) - {signal}
    assert getattr(endpoint(other), attribute) == of_general
    set_variable(f"{signal.upper()}_{variable}", "")
    assert getattr(endpoint(signal), attribute) == of_general


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("scope", ["", "own"])
def test_certificates_are_files_that_are_looked_at(
    signal: Signal, scope: str, tmp_path: Path, set_variable: Set
) -> None:
    authority = Authority(tmp_path, "authority")
    ours = authority.sign("client")
    prefix = f"{signal.upper()}_" if scope else ""
    set_variable(f"{prefix}CERTIFICATE", authority.certificate)
    set_variable(f"{prefix}CLIENT_KEY", ours.key)
    set_variable(f"{prefix}CLIENT_CERTIFICATE", ours.certificate)
    place = endpoint(signal)
    assert (place.certificate, place.client_key) == (authority.certificate, ours.key)
    assert place.client_certificate == ours.certificate


@pytest.mark.parametrize("signal", SIGNALS)
def test_of_http_the_general_one_is_a_folder(signal: Signal, set_variable: Set) -> None:
    set_variable("PROTOCOL", HTTP)
    assert endpoint(signal).url == f"http://localhost:4318/v1/{signal}"
    for url, of_signal in {
        "http://a:1": "http://a:1/v1/",
        "http://a:1/": "http://a:1/v1/",
        "https://a/otlp": "https://a/otlp/v1/",
        "https://a/otlp/": "https://a/otlp/v1/",
    }.items():
        set_variable("ENDPOINT", url)
        assert endpoint(signal).url == of_signal + signal
    set_variable("ENDPOINT", "http://a/otlp?token=1")
    assert endpoint(signal).url == f"http://a/otlp/v1/{signal}?token=1"
    set_variable(f"{signal.upper()}_ENDPOINT", "http://b/as/it/is")
    assert endpoint(signal).url == "http://b/as/it/is"


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("url", "insecure", "expected", "secure"),
    [
        ("collector:4317", "", "https://collector:4317", True),
        ("collector:4317", "false", "https://collector:4317", True),
        ("collector:4317", "TRUE", "http://collector:4317", False),
        ("https://collector:4317", "true", "https://collector:4317", True),
        ("http://[::1]:4317", "false", "http://[::1]:4317", False),
    ],
)
def test_of_grpc_insecure_speaks_where_the_endpoint_does_not(
    signal: Signal, url: str, insecure: str, expected: str, secure: bool, set_variable: Set
) -> None:
    set_variable(f"{signal.upper()}_ENDPOINT", url)
    set_variable("INSECURE", insecure)
    place = endpoint(signal)
    assert (place.url, place.secure) == (expected, secure)
    if "://" not in url:
        set_variable(f"{signal.upper()}_INSECURE", "true")
        assert not endpoint(signal).secure


WRONG = [
    ("PROTOCOL", "http/json", "must be one of grpc, http/protobuf"),
    ("COMPRESSION", "zip", "must be one of none, gzip"),
    ("TIMEOUT", "soon", "number of milliseconds, 1 to"),
    ("TIMEOUT", "0", "number of milliseconds, 1 to"),
    ("TIMEOUT", "-1", "number of milliseconds, 1 to"),
    ("TIMEOUT", "1e3", "number of milliseconds, 1 to"),
    ("TIMEOUT", "9" * 5000, "number of milliseconds, 1 to"),
    ("ENDPOINT", "ftp://collector", "must be a URL like http://localhost:4317"),
    ("ENDPOINT", "http://", "must be a URL like"),
    ("ENDPOINT", "http://collector:x", "must be a URL like"),
    ("ENDPOINT", "http://collector:70000", "must be a URL like"),
    ("ENDPOINT", "http://collector:0", "must be a URL like"),
    ("ENDPOINT", "http://[::1", "must be a URL like"),
    ("ENDPOINT", "http://a b:4318", "must be a URL like"),
    ("HEADERS", "api-key", "name=value"),
    ("HEADERS", "=x", "name=value"),
    ("HEADERS", "a b=x", "name=value"),
    ("HEADERS", "a!b=x", "name=value"),
    ("HEADERS", "a=x%0d%0aHost: y", "name=value"),
    ("HEADERS", "a=ä", "name=value"),
    ("CERTIFICATE", "/nowhere.pem", "No such file"),
    ("CERTIFICATE", "/dev/null", "must be a file of PEM certificates"),
    ("CLIENT_CERTIFICATE", "/nowhere.pem", "No such file"),
    ("CLIENT_CERTIFICATE", "/dev/null", "must be PEM files of a certificate and its key"),
]


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("of_signal", [True, False])
@pytest.mark.parametrize(
    ("variable", "value", "words"), WRONG, ids=[f"{name}={value[:20]}" for name, value, _ in WRONG]
)
def test_a_wrong_value_is_refused_by_name(
    signal: Signal, of_signal: bool, variable: str, value: str, words: str, set_variable: Set
) -> None:
    name = f"{signal.upper()}_{variable}" if of_signal else variable
    set_variable(name, value)
    with pytest.raises(BadInput) as raised:
        endpoint(signal)
    text = str(raised.value)
    assert text.startswith(f"OTEL_EXPORTER_OTLP_{name}")
    assert words in text
    assert text.isprintable()
    assert len(text) < 600


@pytest.mark.parametrize("signal", SIGNALS)
def test_insecure_is_true_or_false(signal: Signal, set_variable: Set) -> None:
    set_variable("ENDPOINT", "collector:4317")
    set_variable("INSECURE", "yes")
    with pytest.raises(BadInput, match=r"OTEL_EXPORTER_OTLP_INSECURE is 'yes': it must be one of true, false"):
        endpoint(signal)


@pytest.mark.parametrize("signal", SIGNALS)
def test_http_needs_a_whole_url(signal: Signal, set_variable: Set) -> None:
    set_variable("PROTOCOL", HTTP)
    set_variable("ENDPOINT", "collector:4318")
    with pytest.raises(BadInput, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is 'collector:4318': it must be a URL like http"):
        endpoint(signal)


def test_a_key_and_its_certificate_belong_together(tmp_path: Path, set_variable: Set) -> None:
    authority = Authority(tmp_path, "authority")
    ours, others, encrypted = authority.sign("ours"), authority.sign("others"), authority.sign("third", password=b"x")
    set_variable("CLIENT_KEY", ours.key)
    with pytest.raises(BadInput, match=r"CLIENT_KEY is set and OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE is not"):
        endpoint(Signal.TRACES)
    set_variable("CLIENT_CERTIFICATE", others.certificate)
    with pytest.raises(BadInput, match=r"CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: "):
        endpoint(Signal.TRACES)
    set_variable("CLIENT_CERTIFICATE", encrypted.certificate)
    set_variable("CLIENT_KEY", encrypted.key)
    with pytest.raises(BadInput, match="not encrypted"):
        endpoint(Signal.TRACES)


def test_a_password_in_the_endpoint_is_told_to_nobody(set_variable: Set) -> None:
    set_variable("PROTOCOL", HTTP)
    set_variable("TRACES_ENDPOINT", "http://me:secret@collector:4318/v1/traces?token=1")
    place = endpoint(Signal.TRACES)
    assert "secret" in place.url
    assert place.name == "http://collector:4318/v1/traces"


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    variable=st.sampled_from(["ENDPOINT", "HEADERS", "TIMEOUT", "PROTOCOL", "COMPRESSION", "CERTIFICATE"]),
    value=st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=40),
)
def test_any_value_is_taken_or_refused(variable: str, value: str, set_variable: Set) -> None:
    set_variable(variable, value)
    try:
        endpoint(Signal.TRACES)
    except BadInput as error:
        assert str(error).startswith(f"OTEL_EXPORTER_OTLP_{variable}")  # noqa: PT017
    set_variable(variable, "")
