"""How tests/conftest.py spreads the suite over workers: a file stays together, and who measures time is alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytest.importorskip("xdist")
SUITE = """
import os, time, pytest

def note(kind):
    with open("log", "a") as log:
        log.write(f"{time.monotonic()} {kind} {os.environ.get('PYTEST_XDIST_WORKER')} {__name__}\\n")

@pytest.mark.parametrize("n", [0, 1, 2])
def test_any(n):
    note("begin"), time.sleep(0.1), note("end")

@pytest.mark.alone
def test_alone():
    note("begin-alone"), time.sleep(0.3), note("end-alone")
"""


def events(folder: Path, *arguments: str) -> list[list[str]]:
    """(kind, worker, file) of the beginnings and ends of the tests of two small files, in the order of time."""
    (folder / "tests").mkdir()
    shutil.copy(ROOT / "tests" / "conftest.py", folder / "tests")
    for name in ("a", "b"):
        (folder / "tests" / f"test_{name}.py").write_text(SUITE)
    (folder / "pytest.ini").write_text("[pytest]\ntestpaths = tests\nmarkers = alone\n")
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    line = [sys.executable, "-m", "pytest", "-q", *arguments]
    done = subprocess.run(line, cwd=folder, env=ours, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout
    lines = [line.split() for line in (folder / "log").read_text().splitlines()]
    return [fields for _, *fields in sorted(lines, key=lambda fields: float(fields[0]))]


@pytest.mark.slow
def test_a_file_stays_in_one_worker_and_who_is_alone_has_no_neighbour(tmp_path: Path) -> None:
    found = events(tmp_path, "-n", "2")
    workers = {name: {worker for _, worker, file in found if file == name} for name in ("test_a", "test_b")}
    assert sorted(map(len, workers.values())) == [1, 1]
    assert workers["test_a"] != workers["test_b"]
    assert {next(kind for kind, _, file in found if file == name) for name in workers} == {"begin-alone"}
    for number, (kind, *_) in enumerate(found):
        if kind == "begin-alone":
            assert found[number + 1][0] == "end-alone"
            before = [kind for kind, *_ in found[:number]]
            assert before.count("begin") == before.count("end")


@pytest.mark.slow
def test_a_file_that_is_named_runs_in_this_process(tmp_path: Path) -> None:
    assert {worker for _, worker, _ in events(tmp_path, "tests/test_a.py")} == {"None"}
