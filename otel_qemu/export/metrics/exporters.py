# SPDX-License-Identifier: Apache-2.0
"""The exporter of metrics that the environment asks for: OTLP's, the console's, or any that is installed."""

import sys
from typing import Any

from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk.metrics import Histogram, ObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, ConsoleMetricExporter, MetricExporter, MetricsData

from otel_qemu.export.metrics.export_settings import Temporality
from otel_qemu.export.transport import installed
from otel_qemu.export.transport.console import otlp_json
from otel_qemu.export.transport.endpoint import GRPC, Endpoint, Signal


def chosen() -> tuple[MetricExporter | None, str]:
    """The exporter that the environment asks for, and the name of its endpoint; raises as `installed.choose` does."""
    return installed.choose(
        Signal.METRICS,
        lambda place: _grpc(place) if place.protocol == GRPC else _http(place),
        lambda: ConsoleMetricExporter(sys.stdout, _line),
        lambda name: installed.load(Signal.METRICS, name, MetricExporter),  # type: ignore[type-abstract]
    )


def preferred_temporality(exporter: MetricExporter, otherwise: Temporality) -> Temporality:
    """What an exporter asks for of histograms and of counters that are observed, where it asks for anything."""
    asked = exporter._preferred_temporality  # as the SDK's own readers ask
    if not asked:
        return otherwise
    delta = {kind for kind in (Histogram, ObservableCounter) if asked.get(kind) is AggregationTemporality.DELTA}
    if ObservableCounter in delta:
        return Temporality.DELTA
    return Temporality.LOWMEMORY if delta else Temporality.CUMULATIVE


def _line(metrics_data: MetricsData) -> str:
    return otlp_json(encode_metrics(metrics_data))


# The SDK's own connect to nothing before the first export.  They are given everything that they would read from the
# environment, which they read otherwise than the specification says: of times, seconds.


def _grpc(place: Endpoint) -> MetricExporter:
    import grpc
    from opentelemetry.exporter.otlp.proto.grpc import exporter
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    from otel_qemu.export.transport import grpc as transport

    exporter.logger.filters.clear()  # it logs a reason once in 20 s only, and we need that of each failure
    return OTLPMetricExporter(
        f"{'https' if place.secure else 'http'}://{transport.target(place)}",
        insecure=not place.secure,
        credentials=transport.credentials(place) if place.secure else None,
        headers=transport.metadata(place),  # type: ignore[arg-type]  # binary values are bytes
        timeout=place.timeout_s,
        compression=grpc.Compression.Gzip if place.gzip else grpc.Compression.NoCompression,
        retryable_error_codes=transport.RETRYABLE,  # by default it tries what is too large again, too
        channel_options=transport.OPTIONS,  # type: ignore[arg-type]  # any number of any
    )


def _http(place: Endpoint) -> MetricExporter:
    import requests
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    session = requests.Session()
    session.hooks["response"].append(_refuse_redirect)
    session.trust_env = not place.certificate  # or else REQUESTS_CA_BUNDLE would replace it
    session.proxies.update(requests.utils.get_environ_proxies(place.url))
    if "authorization" in dict(place.headers):
        session.auth = lambda request: request  # or else an entry in ~/.netrc would replace it
    return OTLPMetricExporter(
        place.url,
        place.certificate,
        place.client_key,
        place.client_certificate,
        dict(place.headers),
        place.timeout_s,
        Compression.Gzip if place.gzip else Compression.NoCompression,
        session,
    )


def _refuse_redirect(answer: Any, **_: Any) -> None:
    """The SDK takes a redirect, which it does not follow, for a success."""
    if answer.is_redirect:
        answer.close()
        raise ValueError("redirects are not followed, set the endpoint to where it points")
