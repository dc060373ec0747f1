# SPDX-License-Identifier: Apache-2.0
"""
Say where one Jaeger listens, and write its configuration.

In: five ports, and a page if there is one.  Out: YAML: OTLP in, memory, /api/v3 and the page out, and nothing else.
There is no batch processor and no queue: once an export has succeeded, its spans can be read.
"""

import contextlib
import json
import random
import socket
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

LOOPBACK = "127.0.0.1"
MAX_TRACES = 100_000  # that its memory holds, and the most that one search may ask for
# Below the ports that the kernel gives to clients: none of them can take one of ours during an outage.
PORT_RANGE = range(20_000, 32_000)

CONFIG = """\
service:
  extensions: [jaeger_storage, jaeger_query, healthcheckv2]
  pipelines:
    traces:
      receivers: [otlp]
      exporters: [jaeger_storage_exporter]
  telemetry:
    resource:
      service.name: jaeger
    metrics:
      level: none
extensions:
  healthcheckv2:
    use_v2: true
    http:
      endpoint: {host}:{ports.health}
  jaeger_storage:
    backends:
      memory:
        memory:
          max_traces: {max_traces}
  jaeger_query:
    enable_tracing: false  # its own spans would go to whoever has port 4317, and hold up its end by 10 s
    storage:
      traces: memory
    http:
      endpoint: {host}:{ports.query}
    grpc:
      endpoint: {host}:{ports.query_grpc}
{page}receivers:
  otlp:
    protocols:
      grpc:
        endpoint: {host}:{ports.otlp_grpc}
      http:
        endpoint: {host}:{ports.otlp_http}
exporters:
  jaeger_storage_exporter:
    trace_storage: memory
"""

PAGE = """\
    ui:
      assets_path: {}
"""


@dataclass(frozen=True)
class Ports:
    """
    Where one Jaeger listens.
    """

    otlp_grpc: int
    otlp_http: int
    query: int
    query_grpc: int
    health: int

    @classmethod
    def free(cls) -> Self:
        """
        Choose ports that nobody listens on at this moment.
        """
        return cls(*free_ports(len(fields(cls))))


def free_ports(count: int) -> list[int]:
    """
    Choose different ports that nobody listens on at this moment.
    """
    with contextlib.ExitStack() as held:
        return [_hold_port(held) for _ in range(count)]


def config_yaml(ports: Ports, ui: Path | None = None) -> str:
    """
    Return the configuration; `ui` is the folder of Jaeger UI's build, where it is to serve one.
    """
    # A string in JSON is one in YAML, too, whatever characters the folder has.
    page = PAGE.format(json.dumps(str(ui.resolve()))) if ui else ""
    return CONFIG.format(host=LOOPBACK, ports=ports, max_traces=MAX_TRACES, page=page)


def _hold_port(held: contextlib.ExitStack) -> int:
    for port in random.sample(PORT_RANGE, 1_000):
        listener = held.enter_context(socket.socket())
        with contextlib.suppress(OSError):
            listener.bind((LOOPBACK, port))
            return port
    raise OSError(f"no free port from {PORT_RANGE.start} to {PORT_RANGE.stop} on {LOOPBACK}")
