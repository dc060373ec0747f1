"""One OTLP request to wherever the ``OTEL_*`` variables name, and what the endpoint answered."""
