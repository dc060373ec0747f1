# SPDX-License-Identifier: Apache-2.0
"""One OTLP request to wherever the ``OTEL_*`` variables name, and what the endpoint answered."""
