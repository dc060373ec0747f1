# SPDX-License-Identifier: Apache-2.0
"""TLS as it goes wrong: whose certificate is believed, and what is said of one that is not."""

from pathlib import Path

import pytest

from otel_qemu.export.delivery.fates import Fate
from otel_qemu.export.delivery.limits import Limits
from tests.support.encoded_traces import arrived, ids, many
from tests.support.made_certificates import Authority, Pair
from tests.support.otlp_server import GRPC, HTTP, Tls, serving
from tests.support.sending import WAIT_S, is_final, sender_to, until

LIMITS = Limits(delay_s=0, first_pause_s=0.01, longest_pause_s=0.05)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture(params=[GRPC, HTTP])
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def served(pair: Pair, clients: Authority | None = None) -> Tls:
    return Tls(pair.certificate, pair.key, clients.certificate if clients else "")


def test_an_endpoint_that_is_believed(authority: Authority, protocol: str) -> None:
    traces = many(6)
    with serving(protocol, tls=served(authority.sign("server"))) as server:
        sender = sender_to(server.url, protocol, certificate=authority.certificate)
        sender.send(traces)
        assert sender.flush(WAIT_S)
        assert is_final(sender.close())
    assert server.url.startswith("https://")
    assert arrived(server.taken) == ids(traces)


@pytest.mark.parametrize("in_one_file", [False, True])
def test_an_endpoint_that_wants_to_know_who_we_are(authority: Authority, protocol: str, in_one_file: bool) -> None:
    traces, ours = many(6), authority.sign("client")
    if in_one_file:
        Path(ours.certificate).write_text(Path(ours.certificate).read_text() + Path(ours.key).read_text())
    with serving(protocol, tls=served(authority.sign("server"), authority)) as server:
        sender = sender_to(
            server.url,
            protocol,
            certificate=authority.certificate,
            client_certificate=ours.certificate,
            client_key=None if in_one_file else ours.key,
        )
        sender.send(traces)
        assert sender.flush(WAIT_S)
        assert is_final(sender.close())
    assert arrived(server.taken) == ids(traces)


@pytest.mark.parametrize("wrong", ["authority", "expired", "no-client-certificate", "plain"])
def test_what_is_not_believed_is_said_and_nothing_is_sent(
    authority: Authority, protocol: str, wrong: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Traces wait: certificates are replaced; what waits at the close is counted."""
    other = Authority(tmp_path, "other")
    tls = served(authority.sign("server", expired=wrong == "expired"), other if wrong.startswith("no-client") else None)
    trusted = other if wrong == "authority" else authority
    with serving(protocol, tls=None if wrong == "plain" else tls) as server:
        url = server.url.replace("http:", "https:")
        sender = sender_to(url, protocol, limits=LIMITS, certificate=trusted.certificate)
        sender.send(many(6))
        until(lambda: bool(caplog.messages))
        assert sender.stats[Fate.WAITING] == (12, 6)
        stats = sender.close(0.5)
    assert stats[Fate.AT_CLOSE] == (12, 6)
    assert is_final(stats)
    assert not server.taken
    # gRPC says no more of a server that hangs up on a client without certificate.
    assert any(word in caplog.messages[0].lower() for word in ("certificate", "ssl", "handshake", "socket closed"))


def test_the_environment_of_requests_does_not_replace_what_is_set(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the authorities to believe, nor the authorization."""
    other = Authority(tmp_path, "other")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", other.certificate)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login wrong password wrong\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(HTTP, tls=served(authority.sign("server"))) as server:
        sender = sender_to(
            server.url, HTTP, certificate=authority.certificate, headers=(("authorization", "Bearer 1"),)
        )
        sender.send(many(1))
        assert sender.flush(WAIT_S)
        sender.close()
    assert server.headers[0]["authorization"] == "Bearer 1"
