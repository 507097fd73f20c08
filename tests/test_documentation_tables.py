"""Tables of the written pages against the code: metrics, methods, reasons, formats, dependencies, commands, errors."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from export.metadata import Metadata
from harness.bundle.format import Deviation, GoldenCase, Manifest
from harness.gate.policy import MAP_STATISTICS, QUALITIES, QUALITY_STATISTICS, Policy, Requirements, Rule
from harness.gate.verdict import Case, CheckpointRecord, FileRecord, Record, Verdict
from harness.images.label_table import KEYS
from harness.monitoring.history import NightReport, Spread, StatisticNight
from harness.monitoring.state import GoldenCases, Identity, Night, Picture, State
from harness.report.glossary import STATISTIC_REASONS, definitions, reason_sentence
from harness.results.image_table import COLUMNS
from harness.results.part_files import SCHEMAS
from harness.results.plan import read_stored
from harness.results.schema import Evaluation, MetricSummary, PairResult
from kernels.catalogue import METHODS, METRICS
from kernels.reasons import Reason
from kernels.record_types import MetricRecord
from tests import documents
from tests.documents import ROOT, program, read

TYPES = {"int32": "int32", "double": "double", "string": "text", "list<item: string>": "list of text",
         "list<item: float>": "list of float", "list<element: string>": "list of text",
         "list<element: float>": "list of float", "float": "float"}  # fmt: skip


def rows(text: str) -> list[list[str]]:
    """The cells of the table lines in a text, without the header's rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if not re.fullmatch(r":?-+:?", row[0])]


def table(page: str, name: str) -> list[list[str]]:
    """The table under `<!-- table: NAME -->`, without its header."""
    found = re.search(rf"<!-- table: {re.escape(name)} -->\n((?:\|.*\n)+)", read(page))
    assert found, f"{page} has no table {name!r}"
    return rows(found[1])[1:]


def section(page: str, heading: str) -> str:
    """What stands under a heading, to the next one of the same level."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^\1 |\Z)", read(page), re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no heading {heading!r}"
    return found[2]


def codes(cells: Iterable[str]) -> list[str]:
    """The names in backticks."""
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


# docs/metrics.md


def facts(record: MetricRecord) -> list[str]:
    """The cells of a metric's row that can be told from its record: all but the formula."""
    low, high = record.range
    least = [f"{record.least_pixels} pixels"] * (record.least_pixels > 1)
    least += [f"sides of {record.least_side}"] * (record.least_side > 1)
    stable = "change near 0" if record.stable_is == "zero" else record.stable_is
    return [f"`{record.name}`", f"{low}..{high}", stable, ", ".join([record.needs, *least]), record.source]


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_its_row(name: str) -> None:
    first, *rest = facts(METRICS[name])
    found = [row for row in rows(read("docs/metrics.md")) if row[0] == first and len(row) == 6]
    wanted = f"| {first} | FORMULA | {' | '.join(rest)} |"
    assert [row[2:] for row in found] == [rest], f"docs/metrics.md needs the row\n{wanted}"
    assert len(found[0][1]) > 10, "the row needs a formula"


@pytest.mark.parametrize("name", METHODS)
def test_every_cam_method_has_its_row(name: str) -> None:
    record = METHODS[name]
    formula = record.equation.split(". ")[0].replace("|sum(A_k)|", "abs(sum(A_k))")
    wanted = [f"`{name}`", formula, record.source]
    assert wanted in rows(read("docs/metrics.md")), f"docs/metrics.md needs the row\n| {' | '.join(wanted)} |"


def test_every_reason_has_its_row() -> None:
    found = rows(section("docs/metrics.md", "Why a value is undefined"))[1:]
    labels = [reason.label for reason in Reason if reason is not Reason.DEFINED] + list(STATISTIC_REASONS)
    assert {row[0].strip("`"): row[1] for row in found} == {label: reason_sentence(label) for label in labels}


def test_no_row_names_what_is_gone() -> None:
    known = {*METRICS, *METHODS, *definitions([]), *STATISTIC_REASONS, *(reason.label for reason in Reason)}
    named = {row[0].strip("`") for row in rows(read("docs/metrics.md")) if row[0].startswith("`")}
    assert named <= known


def test_the_sources_of_definitions_stand_on_the_page() -> None:
    """Every DOI and arXiv number that a report shows is on the page, too."""
    shown = " ".join(record.source for record in definitions(list(METHODS)).values())
    identifiers = re.findall(r"doi:\S+[^\s;,.]|arXiv \d{4}\.\d{5}", shown)
    assert len(identifiers) > 15
    assert [one for one in identifiers if one not in read("docs/metrics.md")] == []


@pytest.mark.parametrize("page", documents.pages())
def test_identifiers_are_well_formed(page: str) -> None:
    text = read(page)
    for one in re.findall(r"doi:\S*", text):
        assert re.match(r"doi:10\.\d{4,9}/\S+", one), f"{page}: {one}"
    for one in re.findall(r"arXiv[: ]\S*", text):
        assert re.match(r"arXiv[: ](\d{4}\.\d{4,5}|number)", one), f"{page}: {one}"


# docs/gate.md


def test_the_inputs_of_the_action() -> None:
    inputs = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["inputs"]
    assert set(codes(row[0] for row in table("docs/gate.md", "action"))) == set(inputs)


# docs/pacs.md


def test_the_keys_of_a_label_table() -> None:
    assert codes(row[0] for row in table("docs/pacs.md", "label keys")) == list(KEYS)


def test_columns_of_the_image_table() -> None:
    assert all(f"`{name}`" in section("docs/pacs.md", "Patients") for name in COLUMNS)


# docs/formats.md


@pytest.mark.parametrize("kind", SCHEMAS)
def test_columns_of_parquet_parts(kind: str) -> None:
    def written(kind_of: object) -> str:
        text = str(kind_of)
        return "text" if text.startswith("dictionary") else TYPES[text]

    wanted = [[f"`{field.name}`", written(field.type)] for field in SCHEMAS[kind]]
    assert [row[:2] for row in table("docs/formats.md", kind)] == wanted


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("evaluation", list(Evaluation.model_fields)),
        ("pair", list(PairResult.model_fields)),
        ("metric", list(MetricSummary.model_fields)),
        ("bundle", list(Manifest.model_fields)),
        ("graph metadata", ["format", *(field.name for field in dataclasses.fields(Metadata)), "tools"]),
    ],
)
def test_keys_of_records(name: str, fields: list[str]) -> None:
    assert sorted(codes(row[0] for row in table("docs/formats.md", name))) == sorted(fields)


@pytest.mark.parametrize(
    ("name", "outer", "inner"),
    [
        ("verdict", [*Verdict.model_fields, *Verdict.model_computed_fields], [Case]),
        ("record", list(Record.model_fields), [FileRecord, CheckpointRecord]),
    ],
)
def test_keys_of_a_verdict(name: str, outer: list[str], inner: list[type[BaseModel]]) -> None:
    found = table("docs/formats.md", name)
    assert sorted(codes(row[0] for row in found)) == sorted(outer)
    assert set(codes(row[1] for row in found)) >= {field for model in inner for field in model.model_fields}


def test_parts_of_a_bundle() -> None:
    text = section("docs/formats.md", "A bundle")
    assert set(codes([text])) >= {*GoldenCase.model_fields, *Deviation.model_fields} - {"name"}


@pytest.mark.parametrize(
    ("name", "outer", "inner"),
    [
        ("state", State, [Identity, Picture, Night, GoldenCases]),
        ("night", NightReport, [StatisticNight, Spread]),
    ],
)
def test_keys_of_a_monitor(name: str, outer: type[BaseModel], inner: list[type[BaseModel]]) -> None:
    found = table("docs/formats.md", name)
    assert sorted(codes(row[0] for row in found)) == sorted(outer.model_fields)
    assert set(codes(row[1] for row in found)) >= {field for model in inner for field in model.model_fields}


DERIVED = {"derived_from", "data_digest", "before_digests", "references"}


def test_keys_of_a_policy_stand_in_the_reference() -> None:
    """docs/gate.md explains every key of a rule, every statistic and what is required."""
    text = section("docs/gate.md", "What a rule says")
    named = {*codes([re.sub(r"```.*?```", "", text, flags=re.DOTALL)]), *re.findall(r"^(\w+) =", text, re.MULTILINE)}
    wanted = {*Rule.model_fields, *Requirements.model_fields, *MAP_STATISTICS, *QUALITY_STATISTICS}
    assert wanted <= named
    assert all(name in text for name in QUALITIES)
    assert set(codes([section("docs/formats.md", "A policy")])) >= {"[requirements]", "[[rule]]", *DERIVED}
    assert set(Policy.model_fields) == {"format", *DERIVED, "requirements", "rule"}


def test_keys_of_a_plan(tmp_path: Path) -> None:
    from click.testing import CliRunner

    quick = ["evaluate", "--quiet", "--jitter", "0", "--chance", "0", "--map-size", "16", "--out", str(tmp_path / "d")]
    assert CliRunner().invoke(program("harness"), quick).exit_code == 0
    keys = set(codes(row[0] for row in table("docs/formats.md", "plan")))
    assert keys == set(read_stored(tmp_path / "d"))
    assert set(json.loads((tmp_path / "d" / "scores.json").read_text())) <= keys
    files = set(codes(row[0] for row in rows(section("README.md", "What comes out"))[1:] if "`" in row[0]))
    there = {f"{path.name}/" if path.is_dir() else path.name for path in (tmp_path / "d").iterdir()}
    assert files == there


# README.md


def test_the_readme_lists_every_command() -> None:
    text = section("README.md", "Commands")
    wanted = {
        f"python -m {name} {command}"
        for name in ("harness", "export", "training")
        for command in program(name).commands
    }
    assert [line for line in sorted(wanted) if f"`{line}" not in text] == []


def test_the_readme_gives_a_reason_for_every_dependency() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    declared = [
        *project["dependencies"],
        *(one for extra in project["optional-dependencies"].values() for one in extra),
    ]
    names = {re.match(r"[\w-]+", one)[0] for one in declared} - {"evidence-drift"}  # type: ignore[index]
    text = " ".join(row[0] for row in rows(section("README.md", "Why each dependency"))[1:])
    named = set(re.findall(r"[\w-]+", text))
    assert sorted(names - named) == []
    extras = set(re.findall(r"extra `(\w+)`", text))
    assert extras == set(project["optional-dependencies"])


# docs/troubleshooting.md


@cache
def sentences() -> tuple[str, ...]:
    """Every text of our sources, `…` where something is filled in."""
    found = []
    for folder in ("harness", "export", "training", "kernels"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found += [_text(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
    return tuple(text for text in found if text)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def quoted() -> Iterator[str]:
    """What troubleshooting says is printed; a sentence may hold backticks of its own."""
    for line in read("docs/troubleshooting.md").splitlines():
        found = re.match(r"\| `(.+)` \|", line)
        if found:
            yield found[1]


def is_printed(sentence: str) -> bool:
    """Whether some text of the sources says this; a last `…` stands for the rest, too."""
    pattern = re.compile(
        ".*".join(re.escape(part) for part in sentence.split("…")) + ("" if sentence[-1] == "…" else "$")
    )
    return any(pattern.match(text) for text in sentences())


@pytest.mark.parametrize("sentence", list(quoted()))
def test_troubleshooting_quotes_what_is_printed(sentence: str) -> None:
    assert is_printed(sentence), f"no source says: {sentence}"


def test_the_checker_of_sentences_catches() -> None:
    assert len(list(quoted())) > 40
    assert not is_printed("…: no such manifest or file")
    assert is_printed("…: no such manifest or folder")


# The other files


def test_citation_has_what_the_schema_requires() -> None:
    """Citation File Format 1.2.0, https://doi.org/10.5281/zenodo.5171937: required keys, and types of the others."""
    content = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(content)
    assert content["cff-version"] == "1.2.0"
    assert content["type"] in ("software", "dataset")
    assert all(set(author) in ({"name"}, {"given-names", "family-names"}) for author in content["authors"])
    project = tomllib.loads(read("pyproject.toml"))["project"]
    assert (content["title"], content["version"], content["license"]) == (
        project["name"], project["version"], project["license"],
    )  # fmt: skip


def test_changelog_knows_this_version() -> None:
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    headings = re.findall(r"^## \[([^]]+)\]", read("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == version or headings[:2] == ["Unreleased", version]
