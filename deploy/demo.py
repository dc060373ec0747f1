"""The demo's course: one guest, one throttled disk, its histograms, its slowest request, and its traces in Jaeger."""

import os
import sys
import tempfile
import time
from pathlib import Path

from tests.backends import detached
from tests.backends.detached import Running
from tests.backends.jaeger import BackendFailed, BackendMissing, Trace, cache_folder, install, wait_for
from tests.backends.query import Reader
from tests.lab.disk import Disk
from tests.lab.errors import LabError
from tests.lab.guest import Guest
from tests.lab.lab import Lab
from tests.lab.tracing import Tracing, otel_qemu

BEGIN = time.monotonic()
JAEGER_DIRECTORY = Path("/var/tmp/otel-qemu-demo-jaeger")
DISK = Disk("web1-root", size_mib=256, bytes_per_s=20_000_000)
WORKLOAD = """
dd if=/dev/zero of=/dev/sda bs=1M count=64 oflag=direct
dd if=/dev/sda of=/dev/null bs=4k count=500 iflag=direct
blkdiscard -o 1048576 -l 1048576 /dev/sda
sync /dev/sda
"""


def say(text: str) -> None:
    """One line of progress, with the seconds since the start."""
    print(f"\033[1m{time.monotonic() - BEGIN:4.0f}s\033[0m  {text}", file=sys.stderr, flush=True)


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
    found = wait_for(lambda: reader.traces("qemu", begin_ns, time.time_ns(), operation="WRITE"), 30, "the traces")
    return max(found, key=lambda trace: trace.roots[0].duration_ns)


def main() -> None:
    """Run the demo."""
    with tempfile.TemporaryDirectory() as folder, Lab.up(say=say) as lab:
        recording = Path(folder) / "demo.otq"
        guest = lab.guest("web1", disks=[DISK], paused=True)
        show("check", "--domain", "web1")
        record(guest, recording)
        say("this is where the time went: QEMU's block layer (wait), or Ceph (rbd)?")
        show("replay", str(recording), "--hist")
        say("and this is its slowest request")
        show("replay", str(recording), "--tree", "--slowest", "1")
        _demonstrate_jaeger(guest)
    say("the lab is down")


def _demonstrate_jaeger(guest: Guest) -> None:
    try:
        binary = install(cache_folder(), say)
    except BackendMissing as missing:
        say(f"no Jaeger here: {missing}")
        return
    say("the same once more, as a service would do it: over OTLP to Jaeger")
    jaeger = detached.start(binary, JAEGER_DIRECTORY)
    trace = export(guest, jaeger)
    for span in trace.spans:
        print(f"  {span.name:<24} {span.duration_ns / 1e6:9.3f} ms  {span.kind}")
    say(f"Jaeger runs on: {jaeger.query}/api/v3/traces/{trace.trace_id}")
    say(f"stop it with: .venv/bin/python -m tests.backends jaeger --stop --dir {JAEGER_DIRECTORY}")


if __name__ == "__main__":
    try:
        main()
    except (LabError, BackendFailed, AssertionError) as error:
        sys.exit(f"error: {error}")
