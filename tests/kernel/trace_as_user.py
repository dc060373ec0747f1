# SPDX-License-Identifier: Apache-2.0
"""
A program for `test_rights`: trace one process until a line comes on stdin, then print the counters as one JSON object.

    python -m tests.kernel.trace_as_user PID
"""

import json
import sys

from otel_qemu.errors import OtelQemuError
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer


def main() -> int:
    """Attach, say by which route, wait for a line, and report."""
    try:
        with Tracer(Selection(pids=(int(sys.argv[1]),))) as tracer:
            tracer.refresh()
            tracer.require_any()
            print(tracer.route, flush=True)
            sys.stdin.readline()
            print(json.dumps(tracer.counters() | {"read": len(tracer.read())}))
    except OtelQemuError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
