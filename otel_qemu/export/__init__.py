# SPDX-License-Identifier: Apache-2.0
"""
Traces and counts into OTLP, and from there to whatever the ``OTEL_*`` variables name.

The only package that may import opentelemetry.  A room imports only from itself and from rooms above it
(`tests/unit/repository/test_architecture.py` holds it):

    semconv     names of OpenTelemetry's semantic conventions, and our own
    text        strangers' text, made fit to be shown
    attributes  attributes as OTLP has them
    transport   one request out, and the answer
    resources   who an export is about
    spans       traces into spans
    delivery    whole traces on their way, and what became of each
    metrics     counts and health into metrics
    sink        the service's traces into all of these
    exporter    the one face of it all: a sink and a meter
"""
