"""The mutation check: every record stands for one place in the sources, and outcomes are told apart."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from scripts import mutation_check
from scripts.mutation_check import CheckError, Mutant, Result, Run

MUTANTS = mutation_check.read_mutants()
TEXTS = mutation_check.read_sources(mutation_check.ROOT)
LEAST = 12  # mutants of an area


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_and_still_parses(mutant: Mutant) -> None:
    text = TEXTS[mutation_check.locate(mutant, TEXTS)]
    changed = ast.parse(text.replace(mutant.snippet, mutant.replacement))
    assert ast.dump(changed) != ast.dump(ast.parse(text))


def test_areas_are_large_enough_and_names_are_unique() -> None:
    assert all(count >= LEAST for count in Counter(mutant.area for mutant in MUTANTS).values())
    assert {mutant.area for mutant in MUTANTS} == set(mutation_check.TESTS)
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize("area", mutation_check.TESTS)
def test_every_pattern_of_tests_finds_a_file(area: str) -> None:
    files = mutation_check.files_of(area, mutation_check.ROOT)
    assert len(files) == len(set(files))


# A tree of its own

DOUBLED = Mutant("gate", "not-doubled", "2 * x", "x", "the value is not doubled")
TEST = """
import time
from kernels.value import LIMIT, doubled

def test_doubled():
    while LIMIT < 0:
        time.sleep(0.1)
    assert doubled(2) == 4
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for folder in (*mutation_check.SOURCES, "tests"):
        (root / folder).mkdir(parents=True)
    (root / "kernels" / "value.py").write_text("LIMIT = 1\n\n\ndef doubled(x):\n    return 2 * x + 0 * LIMIT\n")
    (root / "tests" / "test_harness_gate.py").write_text(TEST)
    return root


@pytest.mark.parametrize(
    ("snippet", "replacement", "limit", "status", "test"),
    [
        ("2 * x", "x", 60, "killed", "tests/test_harness_gate.py::test_doubled"),
        ("0 * LIMIT", "0", 60, "survived", ""),
        ("LIMIT = 1", "LIMIT = 1 // 0", 60, "broken", "tests/test_harness_gate.py"),
        ("LIMIT = 1", "LIMIT = -1", 1, "timed out", ""),
    ],
)
def test_a_mutant_is_tried_and_taken_out_again(
    tree: Path, snippet: str, replacement: str, limit: float, status: str, test: str
) -> None:
    before = (tree / "kernels" / "value.py").read_text()
    result = mutation_check.check(replace(DOUBLED, snippet=snippet, replacement=replacement), tree, limit)
    assert (result.status, result.test) == (status, test)
    assert (tree / "kernels" / "value.py").read_text() == before


@pytest.mark.parametrize(("snippet", "count"), [("3 * x", 0), ("doubled", 2)])
def test_a_snippet_that_occurs_never_or_twice_is_refused(tree: Path, snippet: str, count: int) -> None:
    (tree / "export" / "more.py").write_text("from kernels.value import doubled\n")
    with pytest.raises(CheckError, match=f"^not-doubled: the snippet '.*' occurs {count} times"):
        mutation_check.locate(replace(DOUBLED, snippet=snippet), mutation_check.read_sources(tree))


def test_a_pattern_without_a_file_is_refused(tree: Path) -> None:
    with pytest.raises(CheckError, match=r"^kernels: no file in tests/ is named test_kernels_"):
        mutation_check.files_of("kernels", tree)


def test_an_unknown_area_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mutants.toml"
    record = {"area": "roof", "name": "n", "snippet": "a", "replacement": "b", "fault": "c"}
    path.write_text("[[mutant]]\n" + "\n".join(f"{key} = '{value}'" for key, value in record.items()))
    with pytest.raises(CheckError, match=r"^n: unknown area 'roof'; give one of kernels, "):
        mutation_check.read_mutants(path)


# Choice, judgement and reports


def test_mutants_are_chosen_by_area_and_by_name() -> None:
    assert mutation_check.chosen(MUTANTS, [], []) == MUTANTS
    assert {mutant.area for mutant in mutation_check.chosen(MUTANTS, ["gate"], [])} == {"gate"}
    assert mutation_check.chosen(MUTANTS, [], [MUTANTS[3].name]) == [MUTANTS[3]]
    with pytest.raises(CheckError, match="there is no mutant gone; see --list"):
        mutation_check.chosen(MUTANTS, [], ["gone"])
    with pytest.raises(CheckError, match="no mutant of these areas has such a name"):
        mutation_check.chosen(MUTANTS, ["gate"], [MUTANTS[0].name])


@pytest.mark.parametrize(
    ("run", "status"),
    [
        (Run(None, "", 1.0), "timed out"),
        (Run(-6, "", 1.0), "crashed"),
        (Run(0, "", 1.0), "survived"),
        (Run(1, "tests/test_a.py::test_b", 1.0), "killed"),
        (Run(1, "tests/test_a.py", 1.0), "broken"),  # with -x, a collection error ends with 1, too
        (Run(2, "tests/test_a.py", 1.0), "broken"),
        (Run(5, "", 1.0), "broken"),
    ],
)
def test_the_exit_code_tells_the_outcome(run: Run, status: str) -> None:
    assert run.status == status


def results(killed: int, survived: int) -> list[Result]:
    return [
        *[Result("gate", f"k{n}", "killed", "tests/test_a.py::test_b[1|2]", 1.4) for n in range(killed)],
        *[Result("engine", f"s{n}", "survived", "", 2.6) for n in range(survived)],
    ]


def test_tables_count_what_was_killed() -> None:
    text = mutation_check.summary(results(3, 1))
    assert text.splitlines()[2:] == [
        "| engine | 1 | 0 | 1 | 0% |",
        "| gate | 3 | 3 | 0 | 100% |",
        "| all | 4 | 3 | 1 | 75% |",
    ]
    assert mutation_check.row(results(1, 0)[0]) == "| gate | k0 | killed | `tests/test_a.py::test_b[1\\|2]` | 1 |"


@pytest.mark.parametrize(("killed", "survived", "enough"), [(9, 1, True), (8, 1, False), (1, 0, True)])
def test_nine_in_ten_are_required(monkeypatch: pytest.MonkeyPatch, killed: int, survived: int, enough: bool) -> None:
    monkeypatch.setattr(mutation_check, "check_all", lambda _mutants, _jobs: iter(results(killed, survived)))
    assert mutation_check.report(MUTANTS, 1, None) is enough


def test_tests_that_fail_without_a_mutant_end_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Run(1, "tests/test_a.py::test_b", 1.0)
    monkeypatch.setattr(mutation_check, "copy_tracked", lambda target: target)
    monkeypatch.setattr(mutation_check, "run_tests", lambda _area, _tree: failing)
    with pytest.raises(CheckError, match=r"^gate: fails without a mutant \(exit code 1, tests/test_a.py::test_b\)$"):
        list(mutation_check.check_all([DOUBLED], 1))
