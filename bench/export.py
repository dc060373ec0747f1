# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.export``: cost of a span from trace to request, against the SDK, and of an export of metrics."""

import json
import sys

import click

from bench import readings, spans
from bench.figures import print_table
from bench.machine import machine
from bench.probe import report


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--repetitions", type=click.IntRange(1), default=7, show_default=True, help="Of each way, in turn.")
@click.option("--json", "to_json", is_flag=True, help="One object of plain numbers.")
def main(repetitions: int, to_json: bool) -> None:
    """Measure; medians and minima of alternating repetitions."""
    on = machine()
    of_spans, of_metrics = spans.measure(repetitions), readings.measure(repetitions)
    if to_json:
        click.echo(json.dumps(report(on, {"spans": of_spans, "metrics": of_metrics})))
        return
    click.echo(" ".join(f"{name}={value}" for name, value in on.items()) + "\n")
    print_table("spans: CPU time a span, on one core", of_spans, sys.stdout)
    print_table("metrics: CPU time of an export, on one core", of_metrics, sys.stdout)


if __name__ == "__main__":
    main()
