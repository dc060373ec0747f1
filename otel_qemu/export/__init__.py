"""
Traces and counts into OTLP, and from there to whatever the ``OTEL_*`` variables name.

The only package that may import opentelemetry.  What is on the right of an arrow is made of what is on its left:

    traces      semconv text ids attributes numbers times kinds verdict waits sampling wire resources → spans → encoded
    their way   sink → limits portions pile queue → sender (backoff) or spooler spool frames → stats losses → client
    counts      metric_names instruments metric_resources → guest_metrics own_metrics → totals → metrics,
                exponential exemplars → data_points → metric_client (metric_settings, metric_report)
    where to    environment certificates → endpoint → destination → transport: grpc_transport http_transport console
"""
