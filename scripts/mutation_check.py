"""A mutation check: how many of the faults listed in `scripts/mutants.toml` the fast tests find.

Run as `python -m scripts.mutation_check [--area AREA] [--only NAME] [--list] [--jobs N] [--json FILE]`.

A mutant is a snippet of source and what replaces it, one fault at a time. It names no file: the snippet occurs exactly
once below the folders of the sources, so moving code between files changes no record. The tests run on a copy of the
files that git tracks, never on the working tree: first without a fault, which has to pass, then once for each mutant
of the area, up to the first failure.

The table goes to the standard output in Markdown. The exit code is 1 where fewer than nine in ten mutants are killed,
2 where the check itself could not be made.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue
from shutil import copy2
from typing import Literal

ROOT = Path(__file__).parent.parent
RECORDS = Path(__file__).with_name("mutants.toml")
SOURCES = ("kernels", "export", "harness")
TESTS = {  # area -> which tests run, in this order: patterns below tests/
    "kernels": ("test_kernels_*.py", "test_*_chance*.py"),
    "engine": ("test_export_rules*.py", "test_export_*.py"),
    "statistics": ("test_*_statistics*.py", "test_*_rankings*.py", "test_*_predictions*.py"),
    "gate": ("test_*_gate*.py",),
    "nightly": ("test_harness_conformal*.py", "test_harness_monitor*.py", "test_harness_dossier*.py"),
}
COMPILED = "kernels"  # the area whose mutants need compiling anew
REQUIRED = 0.9  # share of mutants that must be killed
PATIENCE = 4  # a mutant's tests may take so many times as long as without it,
LEAST_SECONDS = 120.0  # or this long
PYTEST = ("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--tb=no", "-rfE")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)

Status = Literal["killed", "timed out", "crashed", "survived", "broken"]
KILLED: tuple[Status, ...] = ("killed", "timed out", "crashed")


class CheckError(Exception):
    """The check cannot be made; the message says what to mend."""


@dataclass(frozen=True)
class Mutant:
    """One fault: `snippet` of the source, what replaces it, and what that makes wrong."""

    area: str
    name: str
    snippet: str
    replacement: str
    fault: str


@dataclass(frozen=True)
class Run:
    """One run of pytest: its exit code (None after a timeout, negative for a signal), and the first failing test."""

    code: int | None
    failed: str
    seconds: float

    @property
    def status(self) -> Status:
        """`broken`: the tests did not run (a collection error, no tests), which tells nothing about them."""
        if self.code is None:
            return "timed out"
        if self.code == 0:
            return "survived"
        if self.code < 0:
            return "crashed"
        return "killed" if self.code == 1 and "::" in self.failed else "broken"


@dataclass(frozen=True)
class Result:
    """What became of a mutant, and by which test."""

    area: str
    name: str
    status: Status
    test: str
    seconds: float


# Records and sources


def read_mutants(path: Path = RECORDS) -> list[Mutant]:
    """All mutants, in the order of the file."""
    mutants = [Mutant(**record) for record in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]
    for mutant in mutants:
        if mutant.area not in TESTS:
            raise CheckError(f"{mutant.name}: unknown area {mutant.area!r}; give one of {', '.join(TESTS)}")
    return mutants


def read_sources(root: Path) -> dict[Path, str]:
    """The text of every Python file below the folders of the sources."""
    paths = [path for folder in SOURCES for path in sorted((root / folder).rglob("*.py"))]
    return {path: path.read_text(encoding="utf-8") for path in paths}


def locate(mutant: Mutant, sources: Mapping[Path, str]) -> Path:
    """The one file that holds the snippet; raises CheckError where it occurs never or several times."""
    found = [path for path, text in sources.items() for _ in range(text.count(mutant.snippet))]
    if len(found) != 1:
        where = f" ({', '.join(map(str, found))})" if found else ""
        raise CheckError(
            f"{mutant.name}: the snippet {mutant.snippet!r} occurs {len(found)} times{where}; give one that occurs once"
        )
    return found[0]


def files_of(area: str, root: Path) -> list[str]:
    """The test files of an area, relative to the root, each once; raises CheckError for a pattern without a file."""
    files: dict[str, None] = {}
    for pattern in TESTS[area]:
        found = sorted(path.relative_to(root).as_posix() for path in (root / "tests").glob(pattern))
        if not found:
            raise CheckError(f"{area}: no file in tests/ is named {pattern}; mend the patterns of the area")
        files |= dict.fromkeys(found)
    return list(files)


# One mutant


@contextmanager
def mutated(mutant: Mutant, root: Path) -> Iterator[None]:
    """The tree with the fault in it, and as it was afterwards."""
    sources = read_sources(root)
    path = locate(mutant, sources)
    path.write_text(sources[path].replace(mutant.snippet, mutant.replacement), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(sources[path], encoding="utf-8")


def run_tests(area: str, tree: Path, limit: float | None = None) -> Run:
    """Run the tests of an area in a tree up to the first failure, for `limit` seconds at most."""
    command = [sys.executable, "-m", "pytest", *PYTEST, *files_of(area, tree)]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        code, output = _run(command, tree, _environment(area, tree, Path(scratch)), limit)
    failed = _FAILED.search(output)
    return Run(code, failed[1] if failed else "", time.monotonic() - started)


def _environment(area: str, tree: Path, scratch: Path) -> dict[str, str]:
    """The tree's own modules come first, also in processes that tests start, and nothing is left of other mutants.

    numba's cache does not notice an edit in a jitted helper of another file, so mutants of compiled code get an empty
    one. The other areas leave that code alone and share one.
    """
    cache = scratch / "numba" if area == COMPILED else tree.with_name(f"{tree.name}-numba")
    return {
        **os.environ,
        "PYTHONPATH": str(tree),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(cache),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
    }


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], limit: float | None
) -> tuple[int | None, str]:
    """(exit code or None after a timeout, output); a timeout ends the processes that tests have started, too."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        errors="replace",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, ""
        return process.returncode, output


def check(mutant: Mutant, tree: Path, limit: float) -> Result:
    """Put the fault into the tree, run the tests of its area, and take it out again."""
    with mutated(mutant, tree):
        run = run_tests(mutant.area, tree, limit)
    return Result(mutant.area, mutant.name, run.status, run.failed, round(run.seconds, 1))


# All mutants


def check_all(mutants: Sequence[Mutant], jobs: int) -> Iterator[Result]:
    """The results in the order of the mutants, from `jobs` copies of the tracked files."""
    with tempfile.TemporaryDirectory(prefix="mutation-check-") as folder:
        trees: SimpleQueue[Path] = SimpleQueue()
        for number in range(jobs):
            trees.put(copy_tracked(Path(folder) / f"tree{number}"))
        limits = _limits(dict.fromkeys(mutant.area for mutant in mutants), trees)
        with ThreadPoolExecutor(jobs) as pool:
            yield from pool.map(lambda mutant: _check_in_one_of(trees, mutant, limits[mutant.area]), mutants)


def copy_tracked(target: Path) -> Path:
    """Copy what git tracks, as it is in the working tree, to `target`."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            copy2(ROOT / name, target / name)
    return target


def _limits(areas: Iterable[str], trees: SimpleQueue[Path]) -> dict[str, float]:
    """Seconds that the tests of a mutant may take; raises CheckError where they fail without one."""
    tree = trees.get()
    limits = {}
    for area in areas:
        run = run_tests(area, tree)
        if run.status != "survived":
            raise CheckError(f"{area}: fails without a mutant (exit code {run.code}, {run.failed or 'no test named'})")
        print(f"{area}: {run.seconds:.0f} s without a mutant", file=sys.stderr, flush=True)
        limits[area] = max(LEAST_SECONDS, PATIENCE * run.seconds)
    trees.put(tree)
    return limits


def _check_in_one_of(trees: SimpleQueue[Path], mutant: Mutant, limit: float) -> Result:
    tree = trees.get()
    try:
        return check(mutant, tree, limit)
    finally:
        trees.put(tree)


# Reports


def row(result: Result) -> str:
    """A result as a row of the Markdown table."""
    test = result.test.replace("|", "\\|")
    return f"| {result.area} | {result.name} | {result.status} | {f'`{test}`' if test else ''} | {result.seconds:.0f} |"


def summary(results: Sequence[Result]) -> str:
    """The Markdown table of the areas."""
    lines = ["| area | mutants | killed | survived | share |", "|---|---:|---:|---:|---:|"]
    groups = {area: [result for result in results if result.area == area] for area in TESTS}
    for area, group in [*groups.items(), ("all", list(results))]:
        if group:
            killed = killed_of(group)
            share = killed / len(group)
            lines.append(f"| {area} | {len(group)} | {killed} | {len(group) - killed} | {share:.0%} |")
    return "\n".join(lines)


def killed_of(results: Sequence[Result]) -> int:
    """How many mutants a test has found."""
    return sum(result.status in KILLED for result in results)


def listing(mutants: Sequence[Mutant]) -> str:
    """One line per mutant: area, name, file, fault."""
    sources = read_sources(ROOT)
    return "\n".join(f"{m.area} {m.name} {locate(m, sources).relative_to(ROOT)}: {m.fault}" for m in mutants)


def write_json(results: Sequence[Result], path: Path) -> None:
    """All results as a list of records."""
    path.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")


# Command line


def chosen(mutants: Sequence[Mutant], areas: Sequence[str], names: Sequence[str]) -> list[Mutant]:
    """The mutants of these areas and names, all where none are given; raises CheckError for an unknown name."""
    unknown = set(names) - {mutant.name for mutant in mutants}
    if unknown:
        raise CheckError(f"there is no mutant {', '.join(sorted(unknown))}; see --list")
    found = [m for m in mutants if (not areas or m.area in areas) and (not names or m.name in names)]
    if not found:
        raise CheckError("no mutant of these areas has such a name; see --list")
    return found


def arguments() -> argparse.Namespace:
    """The command line, parsed."""
    parser = argparse.ArgumentParser("python -m scripts.mutation_check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--area", action="append", default=[], choices=tuple(TESTS), help="only this area; repeatable")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="only this mutant; repeatable")
    parser.add_argument("--list", action="store_true", help="print the mutants and check none")
    parser.add_argument("--jobs", type=int, default=1, choices=range(1, 65), metavar="N", help="mutants at a time")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON, too")
    return parser.parse_args()


def report(mutants: Sequence[Mutant], jobs: int, path: Path | None) -> bool:
    """Check the mutants and print the tables; whether enough of them were killed."""
    print("| area | mutant | outcome | first failing test | seconds |\n|---|---|---|---|---:|", flush=True)
    results = []
    for result in check_all(mutants, jobs):
        results.append(result)
        print(row(result), flush=True)
    print(f"\n{summary(results)}")
    if path is not None:
        write_json(results, path)
    return killed_of(results) >= REQUIRED * len(results)


def main() -> int:
    """List or check the mutants that the command line asks for; the exit code."""
    options = arguments()
    try:
        mutants = chosen(read_mutants(), options.area, options.only)
        text = listing(mutants)  # before any test runs, every snippet is found
        if options.list:
            print(text)
            return 0
        return 0 if report(mutants, options.jobs, options.json) else 1
    except CheckError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
