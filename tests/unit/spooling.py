"""
A process that spools, for a test to kill: `python -m tests.unit.spooling FOLDER URL TRACES`.

It sends so many traces to an HTTP endpoint, with room for few in memory, and prints what became of them: spooled,
restored, sent.
"""

import sys
import time
from pathlib import Path

from otel_qemu.export.delivery.limits import Limits

from .encoded_traces import many
from .otlp_server import HTTP
from .sending import sender_to

LIMITS = Limits(queue_spans=400, request_spans=40, delay_s=0, first_pause_s=0.01, longest_pause_s=0.05)


def main(folder: str, url: str, traces: str) -> None:
    sender = sender_to(url, HTTP, limits=LIMITS, spool_directory=Path(folder))
    left = int(traces)
    while True:
        while left and sender.stats.queued_spans < 300:
            sender.send(many(10))
            left -= 10
        stats = sender.stats
        print(stats.spooled_traces, stats.restored_traces, stats.sent_traces, flush=True)
        time.sleep(0.005)


if __name__ == "__main__":
    main(*sys.argv[1:])
