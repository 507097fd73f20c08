"""The shipped JSON Schema, and reading results back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import ValidationError

from harness.api.evaluation import Settings, evaluate_plan
from harness.common.errors import InputError
from harness.evaluation import demonstration
from harness.results.options import Options
from harness.results.schema import SCHEMA, Evaluation, schema
from tests.json_schema import validator


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("result") / "drift"
    options = Options(map_size=(32, 32), chance=3, jitter=1)
    evaluate_plan(demonstration.plan(options), Settings(out, progress=False, report=False, resamples=200))
    return out


def test_shipped_schema_is_the_generated_one() -> None:
    """Write it again with: python -c "from harness.results.schema import *; SCHEMA.write_text(schema())"."""
    assert SCHEMA.read_text(encoding="utf-8") == schema()


def test_result_validates_and_reads_back(result: Path) -> None:
    content = json.loads((result / "evaluation.json").read_text(encoding="utf-8"))
    validator(schema()).validate(content)
    assert Evaluation.read(result).model_dump(mode="json") == content
    assert content["study"]["comparisons"]


def test_schema_refuses_a_strange_key_and_a_missing_one(result: Path) -> None:
    content = json.loads((result / "evaluation.json").read_text(encoding="utf-8"))
    for changed in ({**content, "strange": 1}, {key: value for key, value in content.items() if key != "pairs"}):
        with pytest.raises(ValidationError):
            validator(schema()).validate(changed)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{}", "not an evaluation of format 1 (command: Field required)"),
        ("nothing", "not an evaluation of format 1"),
        ('{"format": 2}', "format 2 was written by a later version: update this program (known: 1)"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(InputError) as caught:
        Evaluation.read(tmp_path)
    assert sentence in str(caught.value)


def test_missing_result_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `python -m harness evaluate`"):
        Evaluation.read(tmp_path / "gone")
