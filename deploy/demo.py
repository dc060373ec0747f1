# SPDX-License-Identifier: Apache-2.0
"""The demo's course: one guest, one throttled disk, its histograms, its slowest request, and its traces in Jaeger."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

from tests.backends import detached
from tests.backends.detached import Running
from tests.backends.jaeger import BackendFailed, BackendMissing, Trace, cache_folder, install, wait_for
from tests.backends.query import Reader
from tests.backends.ui import install_ui
from tests.lab.disk import Disk
from tests.lab.errors import LabError
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing, otel_qemu

BEGIN = time.monotonic()
JAEGER_DIRECTORY = Path("/run/otel-qemu-demo")  # only root may write there, and a reboot, which ends Jaeger, empties it
DISK = Disk("web1-root", size_mib=256, bytes_per_s=20_000_000)
WORKLOAD = """
dd if=/dev/zero of=/dev/sda bs=1M count=64 oflag=direct
dd if=/dev/sda of=/dev/null bs=4k count=500 iflag=direct
blkdiscard -o 1048576 -l 1048576 /dev/sda
sync /dev/sda
"""


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stderr.isatty() else ("", "")
    print(f"{bold}{time.monotonic() - BEGIN:4.0f}s{plain}  {text}", file=sys.stderr, flush=True)


def show(*arguments: str) -> None:
    """Run a command of the product, and show it with what it prints."""
    print(f"\n$ otel-qemu {' '.join(arguments)}", flush=True)
    print(otel_qemu(*arguments).stdout, flush=True)


def record(guest: Guest, recording: Path) -> None:
    """Trace the workload into a file, from the guest's first request on."""
    with Tracing("record", "-o", str(recording), "--domain", guest.name) as tracing:
        guest.resume()
        say("the guest writes 64 MiB through a limit of 20 MB/s, then reads, discards and flushes")
        guest.run(WORKLOAD)
        tracing.stop()


def export(guest: Guest, jaeger: Running) -> Trace:
    """Trace the workload again, to Jaeger; returns the slowest WRITE that stands there."""
    begin_ns = time.time_ns()
    only_traces = {"OTEL_EXPORTER_OTLP_ENDPOINT": jaeger.otlp_grpc, "OTEL_METRICS_EXPORTER": "none"}
    everything = ("--one-in", "1", "--guest-rate", "off")
    with Tracing("run", "--domain", guest.name, *everything, env={**os.environ, **only_traces}):
        guest.run(WORKLOAD)
    reader = Reader(jaeger.query)
    found = wait_for(lambda: reader.traces("qemu", begin_ns, time.time_ns(), operation="WRITE"), 120, "the traces")
    return max(found, key=lambda trace: trace.roots[0].duration_ns)


def main() -> None:
    """Run the demo: first what has been seen, and then the same in Jaeger, which may have to be built."""
    with tempfile.TemporaryDirectory() as folder, Lab.up(say=say) as lab:
        recording = Path(folder) / "demo.otq"
        guest = lab.guest("web1", disks=[DISK], paused=True)
        show("check", "--domain", "web1")
        record(guest, recording)
        say("this is where the time went: QEMU's block layer (wait), or Ceph (rbd)?")
        show("replay", str(recording), "--hist")
        say("and this is its slowest request")
        show("replay", str(recording), "--tree", "--slowest", "1")
        last_words = _demonstrate_jaeger(guest)
    say("the lab is down")
    print(last_words, flush=True)


def _demonstrate_jaeger(guest: Guest) -> str:
    say("the same once more, as a service would do it: over OTLP to Jaeger")
    try:
        binary = install(cache_folder(), say)
    except BackendMissing as missing:
        return f"\nNo Jaeger here: {missing}"
    ui = install_ui(cache_folder(), say)
    detached.stop(JAEGER_DIRECTORY)  # of an earlier demo
    jaeger = detached.start(binary, JAEGER_DIRECTORY, ui)
    trace = export(guest, jaeger)
    for span in trace.spans:
        print(f"  {span.name:<24} {span.duration_ns / 1e6:9.3f} ms  {span.kind}", flush=True)
    page = "trace" if ui else "api/v3/traces"
    return f"""
The slowest WRITE in Jaeger:  {jaeger.query}/{page}/{trace.trace_id}
Jaeger keeps running; this ends it:  .venv/bin/python -m tests.backends jaeger --stop --dir {JAEGER_DIRECTORY}"""


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)  # so that the lab is taken down then, too
    try:
        main()
    except (LabError, BackendFailed, AssertionError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
