"""Change inputs at random for some minutes, and print a table of how it ended, in Markdown.

    python scripts/fuzz.py --minutes 10

Each sort of input gets an equal share of the time, in a process of its own. An error that is no sentence for users is
a fault: it is printed with the seed that brings it back (`--kind NAME --seed N`), and the exit code is 1.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import click
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.fuzz_inputs import NAMES, Kind, kind_of, largest_memory, tried

EXPECTED = ("accepted", "sentence")


@dataclass
class Tally:
    """What happened to the inputs of one sort."""

    outcomes: Counter[str] = field(default_factory=Counter)
    longest: float = 0.0  # seconds
    memory: float = 0.0  # MB, of the process
    faults: dict[str, tuple[int, str]] = field(default_factory=dict)  # outcome -> (seed, message) of its first input


def tally(name: str, seconds: float) -> Tally:
    """Try seeds from 0 on until the time is over."""
    _hush()
    with tempfile.TemporaryDirectory() as folder:
        kind, found, seed = kind_of(name, Path(folder)), Tally(), 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            _count(kind, seed, found)
            seed += 1
        found.memory = largest_memory()
    return found


def _hush() -> None:
    """Send what decoders and commands of this process print to nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)


def _count(kind: Kind, seed: int, found: Tally) -> None:
    result = tried(kind, seed)
    found.outcomes[result.how] += 1
    found.longest = max(found.longest, result.seconds)
    if result.how not in EXPECTED:
        found.faults.setdefault(result.how, (seed, f"{result.error}"[:300]))


def markdown(tallies: dict[str, Tally]) -> str:
    """A row per sort of input."""
    rows = []
    for name, found in tallies.items():
        faults = sum(count for how, count in found.outcomes.items() if how not in EXPECTED)
        counts = [found.outcomes["accepted"], found.outcomes["sentence"], faults]
        rows.append([name, sum(counts), *counts, f"{found.longest:.2f} s", f"{found.memory:.0f} MB"])
    header = ["input", "tried", "accepted", "refused by a sentence", "faults", "longest", "largest memory"]
    return tabulate(rows, header, tablefmt="github", disable_numparse=True)


def _show(name: str, seed: int) -> None:
    """One input once more, with the traceback of a fault."""
    with tempfile.TemporaryDirectory() as folder:
        result = tried(kind_of(name, Path(folder)), seed)
    click.echo(f"{result.how} after {result.seconds:.2f} s: {result.error}")
    if result.error is not None and result.how not in EXPECTED:
        raise result.error


@click.command()
@click.option("--minutes", default=10.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--kind", "only", type=click.Choice(NAMES), help="One sort of input.")
@click.option("--seed", type=int, help="One input of --kind, with its traceback.")
def main(minutes: float, only: str | None, seed: int | None) -> None:
    """Change inputs at random, and print how it ended."""
    if only is not None and seed is not None:
        _show(only, seed)
        return
    names = [name for name in NAMES if only in (None, name)]
    tallies = {}
    for name in names:
        with ProcessPoolExecutor(1, get_context("fork")) as pool:
            tallies[name] = pool.submit(tally, name, 60 * minutes / len(names)).result()
    click.echo(markdown(tallies))
    faults = [(name, how, *fault) for name, found in tallies.items() for how, fault in found.faults.items()]
    for name, how, number, message in faults:
        click.echo(f"\n{name}, seed {number}: {how}: {message}")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
