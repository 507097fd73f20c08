"""Inputs that were changed at random: read, or refused by one sentence; never another error, and in little time.

`scripts/fuzz.py` runs the same for as long as it is told, and prints a table.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from harness.common.errors import InputError
from tests import fuzz_inputs
from tests.fuzz_inputs import DOCUMENTS, NAMES, PICTURES, TABLES, Kind, kind_of, largest_memory, outcome, tried

pytestmark = pytest.mark.slow

EXAMPLES = {**dict.fromkeys((*PICTURES, *TABLES), 300), **dict.fromkeys(DOCUMENTS, 120)}  # a minute in all
LONGEST = 4.0  # seconds for a file of some kilobytes
MOST_MEMORY = 1500  # MB that reading may add to what the process holds
SEEDS = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Kind]:
    """Sorts of inputs by name; documents are made once."""
    folder = tmp_path_factory.mktemp("fuzz")
    made = fuzz_inputs.documents(folder)
    return lambda name: made[name] if name in made else kind_of(name, folder)


@pytest.mark.parametrize("name", NAMES)
def test_changed_inputs_are_read_or_refused(kinds: Callable[[str], Kind], name: str) -> None:
    kind, before, seen = kinds(name), largest_memory(), set[str]()
    assert outcome(lambda: kind.read(kind.content)).how == "accepted"

    @seed(0)
    @settings(max_examples=EXAMPLES[name], deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(SEEDS)
    def check(number: int) -> None:
        found = tried(kind, number)
        seen.add(found.how)
        assert found.how in ("accepted", "sentence"), f"seed {number}: {found.error!r}"
        assert found.seconds < LONGEST

    check()
    assert "sentence" in seen
    assert largest_memory() - before < MOST_MEMORY


class UnfoldedError(InputError):
    """An error whose message keeps its line breaks."""

    __str__ = Exception.__str__


def test_a_fault_is_noticed() -> None:
    """Any error but those for users, and a message of several lines, is another outcome."""

    def fail(error: Exception) -> Callable[[], object]:
        def work() -> None:
            raise error

        return work

    assert outcome(fail(KeyError("x"))).how == "KeyError"
    assert outcome(fail(InputError("one"))).how == "sentence"
    assert outcome(fail(InputError("one\ntwo"))).how == "sentence"
    assert outcome(fail(UnfoldedError("one\ntwo"))).how == "lines"
    assert outcome(lambda: None).how == "accepted"


def test_each_kind_has_a_name(kinds: Callable[[str], Kind], tmp_path: Path) -> None:
    assert tuple(fuzz_inputs.pictures()) == PICTURES
    assert tuple(fuzz_inputs.tables(tmp_path)) == tuple(TABLES)
    assert all(isinstance(kinds(name), Kind) for name in NAMES)
