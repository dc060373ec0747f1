# SPDX-License-Identifier: Apache-2.0
"""
The commands.  Each takes its options and calls a service or a view.  Only `main` prints errors and exits.
"""

import json
import logging
import os
import sys
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import click

from otel_qemu import __version__
from otel_qemu.errors import NotPossible, OtelQemuError
from otel_qemu.events import COUNTERS, LOSSES
from otel_qemu.notify import Notifier
from otel_qemu.options import (
    ANY_BOUNDS,
    COUNT,
    as_json,
    audited,
    by_pid,
    configured,
    kept,
    selected,
    setting_option,
    timed,
)
from otel_qemu.policy import COUNTS_ONLY, EVERYTHING, KeepPolicy
from otel_qemu.probe.selection import Selection
from otel_qemu.probe.tracer import Tracer
from otel_qemu.probe.trial import try_all
from otel_qemu.service import Intervals, Service
from otel_qemu.settings import Settings
from otel_qemu.sinks import RecordSink
from otel_qemu.trace.audit import Audit
from otel_qemu.trace.correlate import Stats
from otel_qemu.trace.histograms import DEFAULT_BOUNDS_S, HistogramRow, Histograms
from otel_qemu.trace.names import Guest
from otel_qemu.trace.pipeline import Pipeline
from otel_qemu.trace.recording import Recording
from otel_qemu.trace.sample import Sampler
from otel_qemu.trace.slowest import slowest_of
from otel_qemu.trace.traces import Traces
from otel_qemu.views.audit import audit_lines
from otel_qemu.views.check import check_line, check_text
from otel_qemu.views.json_lines import histogram_line, trace_lines
from otel_qemu.views.table import print_histograms
from otel_qemu.views.tree import tree_lines

EXIT_DAMAGED = 1
EXIT_INTERRUPTED = 130


_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


@click.group(context_settings=_CONTEXT, no_args_is_help=False)
@click.version_option(__version__, prog_name="otel-qemu")
def cli() -> None:
    """Trace every SCSI request of QEMU guests over the librbd calls it became."""


@cli.command()
@selected
@as_json
def check(domains: tuple[str, ...], pids: tuple[int, ...], as_json: bool) -> None:
    """Show what can be traced on this host. Exits with 0 only if tracing would work."""
    selection = Selection(domains, pids)
    trials = try_all(selection)
    for trial in trials:
        click.echo(json.dumps(check_line(trial)) if as_json else "\n".join(check_text(trial)))
    if selection.problem:
        _say(f"warning: {selection.problem}")
    if not any(trial.attached["scsi"] or trial.attached["rbd"] for trial in trials):
        raise click.exceptions.Exit(3)


@cli.command()
@configured
@by_pid
@timed
@click.option("--wait", is_flag=True, help="If no guest runs yet, wait for one instead of exiting with an error.")
@audited
def run(settings: Settings, pids: tuple[int, ...], duration_s: float | None, wait: bool, audit: bool) -> None:
    """
    Trace until stopped, and send traces and metrics over OTLP.

    The standard OTEL_* variables set the endpoint. A setting such as --one-in can also be given by an environment
    variable, OTEL_QEMU_ONE_IN=1000, or in the file that --config names, one-in = 1000.
    """
    from otel_qemu.export.exporter import Exporter

    intervals = Intervals(settings.drain_s, settings.refresh_s, settings.look_s)
    selection = Selection(settings.domains, pids)
    with closing(Exporter.from_environment(settings)) as exporter:
        service = Service(
            selection,
            [exporter.sink],
            policy=settings.policy,
            bounds_s=exporter.bounds_s,
            meters=[exporter.meter],
            intervals=intervals,
            notifier=Notifier(),
            audit=audit,
        )
        service.run(duration_s, _announce, wait)
    _summarise(service)
    _say(exporter.summary())
    _report_audit(service)


@cli.command()
@selected
@timed
@setting_option("bounds")
@as_json
@audited
def hist(
    domains: tuple[str, ...],
    pids: tuple[int, ...],
    duration_s: float | None,
    bounds_s: tuple[float, ...],
    as_json: bool,
    audit: bool,
) -> None:
    """
    Count latencies, then print histograms.

    There is one histogram for each guest, disk, layer and operation. They are printed after --duration or on Ctrl-C.
    """
    policy = EVERYTHING if audit else COUNTS_ONLY  # joins are compared record by record
    service = Service(Selection(domains, pids), [], policy=policy, bounds_s=bounds_s, audit=audit)
    service.run(duration_s, _announce)
    _print_histograms(service.histograms.rows(service.names), as_json)
    _summarise(service)
    _report_audit(service)


@cli.command()
@selected
@timed
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Write the recording to this file."
)
@kept
@audited
def record(
    domains: tuple[str, ...],
    pids: tuple[int, ...],
    duration_s: float | None,
    output: Path,
    policy: KeepPolicy,
    audit: bool,
) -> None:
    """
    Record traces to a file for `otel-qemu replay`.

    By default every trace is kept. Recording ends after --duration or on Ctrl-C.
    """
    with RecordSink(output, {"bounds_s": DEFAULT_BOUNDS_S, "one_in": policy.one_in}) as sink:
        service = Service(Selection(domains, pids), [sink], policy=policy, audit=audit)

        def ready(tracer: Tracer, guests: Iterable[Guest]) -> None:
            _announce(tracer, guests)
            sink.describe(service.traced.values())

        service.run(duration_s, ready)
        sink.describe(service.traced.values())
        sink.finish(service.names, service.counters)
    _summarise(service)
    _say(f"{sink.records} records in {output}")
    _report_audit(service)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--tree", "form", flag_value="tree", default=True, help="Print each trace as an indented tree. This is the default."
)
@click.option("--json", "form", flag_value="json", help="Print each trace as one line of JSON.")
@click.option("--hist", "form", flag_value="hist", help="Print latency histograms of all traces.")
@click.option(
    "--otlp",
    "form",
    flag_value="otlp",
    help="Send the traces over OTLP to where the OTEL_* variables point, as run does.",
)
@setting_option(
    "bounds",
    type=ANY_BOUNDS,
    help="With --hist, upper bounds of the histograms' buckets, such as 1ms,5ms,10ms or exponential:3.",
)
@click.option("--slowest", type=COUNT, show_default="all",
              help="Show only the N slowest requests, slowest first.")  # fmt: skip
def replay(file: Path, form: str, bounds_s: tuple[float, ...], slowest: int | None) -> None:
    """
    Show the traces of a recording.

    FILE is a recording that `otel-qemu record` wrote. Its records are joined and counted again, with the same result.
    If it was made with --audit, the audit runs again, too.
    """
    recording = Recording.open(file)
    pipeline = Pipeline(audit=True)
    everything = pipeline.traces_of(recording.batches())
    traces = slowest_of(everything, slowest) if slowest else everything
    lost = False
    if form == "hist":
        _replay_histograms(traces, recording, bounds_s)
    elif form == "otlp":
        lost = _send(traces, recording)
    else:
        for some in traces:
            _write_lines(_json_lines(some, recording) if form == "json" else tree_lines(some, recording.names))
    if pipeline.audit and pipeline.audit.verdicts:
        _print_audit(pipeline.audit, pipeline.stats)
    if recording.damage:
        _say(f"warning: {file}: {recording.damage}")
    if recording.damage or lost:
        raise click.exceptions.Exit(EXIT_DAMAGED)


def _replay_histograms(traces: Iterable[Traces], recording: Recording, bounds_s: tuple[float, ...]) -> None:
    histograms = Histograms(bounds_s)
    for some in traces:
        histograms.add(some)
    _print_histograms(histograms.rows(recording.names), as_json=False)


def _send(traces: Iterable[Traces], recording: Recording) -> bool:
    """Send traces and print their fates; returns whether any were lost."""
    from otel_qemu.export.sink import ExportSink

    with closing(ExportSink(sampler=Sampler(recording.one_in))) as sink:
        sink.resend(traces, recording.names)
    _say(sink.summary())
    return sink.stats.lost.spans > 0


def _json_lines(traces: Traces, recording: Recording) -> Iterable[str]:
    return (json.dumps(line) for line in trace_lines(traces, recording.names))


def _print_histograms(rows: list[HistogramRow], as_json: bool) -> None:
    if as_json:
        _write_lines(json.dumps(histogram_line(row)) for row in rows)
    else:
        print_histograms(rows, sys.stdout)


def _write_lines(lines: Iterable[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _announce(tracer: Tracer, guests: Iterable[Guest]) -> None:
    """Say which guests are traced and which are not; warnings have said why not."""
    traced = {inspection.process.pid for inspection in tracer.inspections}
    names: dict[bool, list[str]] = {True: [], False: []}
    for guest in guests:
        names[guest.pid in traced].append(guest.label)
    tracing = f"tracing {', '.join(names[True])}" if names[True] else "waiting for a guest"
    others = f"; not traced: {', '.join(names[False])}" if names[False] else ""
    _say(f"{tracing} ({tracer.route}){others}; Ctrl-C ends it")


def _summarise(service: Service) -> None:
    """Print how many requests and calls were seen, and each loss by its reason."""
    stats = service.pipeline.stats
    _say(f"{stats.requests} SCSI requests, {stats.calls} RBD calls, {stats.joined} of them joined to their request")
    if service.abandoned:
        _say(f"  {service.abandoned:>8}  abandoned: in flight when their process ended")
    if any(service.still_in_flight):
        _say("  {:>8}  SCSI requests and {} RBD calls were in flight at the end".format(*service.still_in_flight))
    for name in LOSSES:
        if service.counters.get(name):
            _say(f"  {service.counters[name]:>8}  {name}: {COUNTERS[name]}")


def _report_audit(service: Service) -> None:
    """
    Print the audit's verdicts, if --audit was given.

    Raises:
        NotPossible: the exact chain could not be attached to any process.
    """
    audit = service.pipeline.audit
    if audit is None:
        return
    if not service.audited:
        raise NotPossible("no join was audited: see the warnings above; tracing itself worked, and needs no --audit")
    _print_audit(audit, service.pipeline.stats)


def _print_audit(audit: Audit, stats: Stats) -> None:
    for line in audit_lines(audit, stats):
        _say(line)


def main(arguments: list[str] | None = None) -> int:
    """Run a command, print its error if it has one, and return the exit status: 0, 1, 2, 3, 4 or 130."""
    logging.basicConfig(level="WARNING", format="warning: %(message)s", stream=sys.stderr)
    try:
        return int(cli.main(arguments, prog_name="otel-qemu", standalone_mode=False) or 0)
    except OtelQemuError as error:
        return _fail(str(error), error.exit_code)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "otel-qemu"
        return _fail(f"{error.format_message().rstrip('.')}: see `{command} --help`", error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python complains of it at exit
        return EXIT_DAMAGED


def _fail(text: str, exit_code: int) -> int:
    _say(f"error: {' '.join(text.split())}")
    return exit_code
