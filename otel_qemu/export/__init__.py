"""
Traces into OTLP: ``semconv → spans → queue → client``, and from there whatever the ``OTEL_*`` variables name.

The only package that may import opentelemetry.
"""
