"""Run the suites, each in a process of its own, and write what they found."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import jinja2
from tabulate import tabulate

from benchmarks.processors import Moment, elsewhere
from benchmarks.rows import Machine, Report, Row, parts_of, rows_of
from harness.common.errors import InputError
from harness.common.provenance import cpu_model, git_commit, versions

HERE = Path(__file__).parent
HEADERS = ("what", "ours, ms", "rival", "its ms", "times faster", "wanted")
ALIGN = ("left", "right", "left", "right", "right", "right")
PARTS = ("onnxruntime", "collect", "compare", "summarise", "draw", "total", "process", "beyond")
PACKAGES = (
    "numpy", "scipy", "numba", "onnxruntime-gpu", "onnxruntime", "opencv-python-headless", "scikit-image",
    "tensorflow", "keras", "tf-keras-vis", "torch", "torchvision", "grad-cam", "pytest-benchmark",
)  # fmt: skip

# Where a test fails before anything is timed, its own error shall be the one that is shown.
QUIET = ("-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning")


@dataclass(frozen=True)
class Suite:
    """`benchmarks/test_NAME_speed.py`: its title, the threads of array libraries while it runs, and what it needs."""

    title: str
    threads: int
    needs: tuple[str, ...] = ()

    @property
    def is_possible(self) -> bool:
        return all(find_spec(package) for package in self.needs)


SUITES = {
    "evaluate": Suite("End to end: `evaluate`, two checkpoints, two methods, every metric", 2),
    "references": Suite("What references cost: `evaluate` by default and without", 2),
    "cam": Suite("The CAM pass: a batch of images to logits and maps by two methods", 2),
    "torch": Suite("The CAM pass, beside PyTorch", 2, ("torch", "torchvision", "pytorch_grad_cam")),
    "engine": Suite("The differentiation engine: what the backward part costs", 2),
    "kernels": Suite("Map kernels", 1),
    "start": Suite("Start-up", 1),
}


def measure(suites: Sequence[str], rounds: int, words: Sequence[str], note: str = "") -> Report:
    """Run the suites one after the other; one that fails has no rows.

    :param rounds: turns of every contender in the suites on networks; a third of them end to end.
    :param words: the command line, to be noted.
    """
    before, here = os.getloadavg()[0], machine()
    results, moments = {}, [Moment.now()]
    for name in suites:
        try:
            results[name] = steady(name, rounds)
        except click.ClickException as error:  # what the others measured stays
            click.echo(error.message, err=True)
        moments.append(Moment.now())
    return Report(
        machine=here,
        versions=versions(PACKAGES),
        git_commit=git_commit(),
        command=shlex.join(["python", "-m", "benchmarks", *words]),
        load=(round(before, 2), round(os.getloadavg()[0], 2)),
        minutes=round((moments[-1].clock - moments[0].clock) / 60, 1),
        elsewhere={
            name: elsewhere(start, end, here.cores)
            for name, (start, end) in zip(suites, pairwise(moments), strict=True)
        },
        note=note,
        rows=[row for name, result in results.items() for row in rows_of(name, result)],
        parts={case: parts for result in results.values() for case, parts in parts_of(result).items()},
    )


def steady(suite: str, rounds: int) -> dict[str, Any]:
    """Run one suite, and once more the cases of which a row scatters; pytest-benchmark's JSON result."""
    result = run(suite, rounds)
    groups = {entry["group"] for entry in result["benchmarks"]}
    again = sorted({row.what for row in rows_of(suite, result) if row.scatters} & groups)
    if again:
        click.echo(f"{suite}: timed again, since turns disagreed: {'; '.join(again)}", err=True)
        kept = [entry for entry in result["benchmarks"] if entry["group"] not in again]
        result["benchmarks"] = kept + run(suite, rounds, again)["benchmarks"]
    return result


def run(suite: str, rounds: int, cases: Sequence[str] | None = None) -> dict[str, Any]:
    """Run one suite, or some of its cases; pytest-benchmark's JSON result.

    :raises InputError: a package that it needs is not installed.
    """
    if not SUITES[suite].is_possible:
        packages = "', '".join(SUITES[suite].needs)
        raise InputError(f"--suite {suite}: needs '{packages}'; pip install 'evidence-drift[torch]' grad-cam")
    environment = os.environ | {"BENCHMARK_THREADS": str(SUITES[suite].threads), "BENCHMARK_TURNS": str(rounds)}
    environment["BENCHMARK_CASES"] = json.dumps(cases)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "pytest", "-x", "-q", f"benchmarks/test_{suite}_speed.py"]
        more = [f"--benchmark-json={result}", "--benchmark-quiet", "-p", "no:cacheprovider", *QUIET]
        finished = subprocess.run([*command, *more], cwd=HERE.parent, stdout=sys.stderr, check=False, env=environment)
        if finished.returncode:
            raise click.ClickException(f"the suite {suite!r} failed; see the output above")
        return json.loads(result.read_text())


def machine() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Machine(cpu=cpu_model(), cores=len(os.sched_getaffinity(0)), memory=round(memory, 1))


def markdown(report: Report) -> str:
    """The report for people."""
    loader = jinja2.FileSystemLoader(HERE / "templates")
    environment = jinja2.Environment(loader=loader, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    tables = {name: table([row for row in report.rows if row.suite == name]) for name in SUITES}
    shown = {name: text for name, text in tables.items() if text}
    busy = ", ".join(f"{name} {share:.0%}" for name, share in report.elsewhere.items() if share is not None)
    return environment.get_template("benchmarks.md").render(
        report=report, busy=busy, suites=SUITES, tables=shown, parts=partial(parts, report)
    )


def table(rows: Sequence[Row]) -> str:
    """The rows of one suite; nothing where there are none."""
    cells = [(row.what, _ms(row.ours), row.rival, _ms(row.theirs), _ratio(row), _wanted(row)) for row in rows]
    return tabulate(cells, HEADERS, "pipe", disable_numparse=True, colalign=ALIGN) if cells else ""


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 0.1 else f"{1e3 * seconds:.0f}"


def _ratio(row: Row) -> str:
    return f"{row.ratio:.2f}" + (" (scatters)" if row.scatters else "")


def _wanted(row: Row) -> str:
    if row.wanted is None:
        return ""
    return f"{row.wanted:.2f}" + (" **(short)**" if row.is_short else "")


def parts(report: Report, suite: str) -> str:
    """Where the seconds of a suite's evaluations go, one row per case; nothing where they are not known."""
    cases = dict.fromkeys(row.what for row in report.rows if row.suite == suite)
    found = {case: report.parts[case] for case in cases if case in report.parts}
    shown = [part for part in PARTS if any(part in seconds for seconds in found.values())]
    cells = [(case, *(f"{seconds.get(part, 0):.1f}" for part in shown)) for case, seconds in found.items()]
    return tabulate(cells, ("network", *(f"{part}, s" for part in shown)), "pipe", disable_numparse=True)
