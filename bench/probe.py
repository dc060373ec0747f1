# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.probe``: what a probe, our programs, the sidecar and the usual scripts cost, in one run."""

import json
import sys
from collections.abc import Callable

import click

from bench import guest, hit, programs, sidecar
from bench.figures import Figure, as_json, print_table
from bench.machine import Value, machine

Measure = Callable[[int], list[Figure]]

SECTIONS: dict[str, tuple[Measure, int, str]] = {
    "hit": (hit.measure, 5, "A hit, empty program, by the instruction it is on"),
    "programs": (programs.measure, 5, "Our programs against an empty one on the same sites"),
    "guest": (guest.measure, 3, "A guest: fio, 4 KiB random, 32 in flight"),
    "sidecar": (sidecar.measure, 2, "The sidecar's own CPU"),
}
"""How each is measured, how often, and what it is called."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--section", "chosen", type=click.Choice(list(SECTIONS)), multiple=True, help="Repeatable; default all.")
@click.option("--repetitions", type=click.IntRange(1), help="Of each phase, in turn with the others.")
@click.option("--json", "to_json", is_flag=True, help="One object of plain numbers.")
def main(chosen: tuple[str, ...], repetitions: int | None, to_json: bool) -> None:
    """Measure; medians and minima of alternating repetitions."""
    on = machine()
    if not to_json:
        click.echo(" ".join(f"{name}={value}" for name, value in on.items()) + "\n")
    results = {}
    for name in chosen or SECTIONS:
        measure, usual, title = SECTIONS[name]
        results[name] = measure(repetitions or usual)
        if not to_json:
            print_table(f"{name}: {title}", results[name], sys.stdout)
    if to_json:
        click.echo(json.dumps(report(on, results)))


def report(on: dict[str, Value], results: dict[str, list[Figure]]) -> dict[str, object]:
    """The machine, and each section's figures by name."""
    return {"machine": on, **{name: as_json(figures) for name, figures in results.items()}}


if __name__ == "__main__":
    main()
