"""A verdict for people and machines: terminal, JSON, JUnit, Markdown, GitHub annotations."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from tabulate import tabulate

from harness.gate import Case, Verdict
from harness.places import Place
from harness.results import finite_or_none
from harness.store import write_whole
from harness.table import inert, one_line

_HEADERS = ["outcome", "rule", "pair", "scope", "value", "interval", "bound", "would pass", "why"]
_SYMBOLS = {"pass": "✅", "fail": "❌", "warn": "⚠️", "error": "⛔", "skipped": "⏭️"}
_ANNOTATIONS = {"fail": "error", "error": "error", "skipped": "error", "warn": "warning"}


def terminal(verdict: Verdict) -> str:
    """A line per case, and the verdict in the last line."""
    rows = [[case.outcome.upper(), *_cells(case)] for case in verdict.cases]
    table = tabulate(rows, _HEADERS, tablefmt="simple", disable_numparse=True)
    return "\n".join([table, "", *(f"warning: {text}" for text in verdict.warnings), summary(verdict)])


def summary(verdict: Verdict) -> str:
    """The verdict in one line."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in verdict.counts.items())
    return f"verdict: {verdict.outcome.upper()} ({counts}; exit code {verdict.exit_code})"


def as_json(verdict: Verdict) -> str:
    """Everything, NaN as null."""
    content = {
        "outcome": verdict.outcome,
        "exit_code": verdict.exit_code,
        "counts": verdict.counts,
        "warnings": list(verdict.warnings),
        "cases": [{name: finite_or_none(value) for name, value in asdict(case).items()} for case in verdict.cases],
    }
    return json.dumps(content, indent=1)


def markdown(verdict: Verdict, result: Place) -> str:
    """For a pull request comment or a step summary: what is not passed first, the rest folded away."""
    open_cases = [case for case in verdict.cases if case.outcome != "pass"]
    passed = [case for case in verdict.cases if case.outcome == "pass"]
    lines = [f"## {_SYMBOLS[verdict.outcome]} Evidence drift: {verdict.outcome}", "", inert(summary(verdict))]
    lines += [f"\n> {inert(text)}" for text in verdict.warnings]
    if open_cases:
        lines += ["", _table(open_cases)]
    if passed:
        lines += ["", f"<details><summary>{len(passed)} passed</summary>", "", _table(passed), "", "</details>"]
    pictures = [name for name in ("contact-sheet.png", "report.html") if (result / name).is_file()]
    if pictures:
        lines += ["", "The images whose evidence moved most: " + ", ".join(f"`{result / name}`" for name in pictures)]
    return "\n".join(lines)


def github(verdict: Verdict) -> Iterator[str]:
    """Workflow commands, one per case that did not pass."""
    for case in verdict.cases:
        if case.outcome in _ANNOTATIONS:
            text = f"{case.outcome}: {_sentence(case)}"
            yield f"::{_ANNOTATIONS[case.outcome]} title={_command_text(case.title, True)}::{_command_text(text)}"


def write_junit(verdict: Verdict, path: Path) -> None:
    """One test case per rule, pair and scope. A warning is a passed case with the text in its output."""
    suite = TestSuite("evidence-drift")
    for case in verdict.cases:
        item = TestCase(_xml_text(f"rule {case.rule}: {case.title} [{case.scope}]"), _xml_text(case.pair), 0.0)
        marks = {"fail": Failure, "error": Error, "skipped": Skipped}
        if case.outcome in marks:
            item.result = [marks[case.outcome](_xml_text(_sentence(case)), case.outcome)]
        item.system_out = _xml_text(_sentence(case))
        suite.add_testcase(item)
    suite.update_statistics()
    document = JUnitXml("evidence-drift")
    document.add_testsuite(suite)
    document.update_statistics()
    root = ElementTree.fromstring(document.tostring())
    root.attrib.pop("skipped", None)  # the schema knows it of a suite, not of all of them
    write_whole(path, ElementTree.tostring(root, encoding="unicode", xml_declaration=True))


def _sentence(case: Case) -> str:
    _, pair, scope, value, interval, bound, would_pass, why = _cells(case)
    parts = [f"{case.title}, {pair}, {scope}: {value} ({interval}), bound {bound or 'none'}"]
    parts += [f"would pass: {would_pass}"] if would_pass else []
    return "; ".join([*parts, why] if why else parts)


def _cells(case: Case) -> list[str]:
    interval = "-" if math.isnan(case.low) else f"{case.low:.4g} .. {case.high:.4g}"
    value = "-" if math.isnan(case.value) else f"{case.value:.4g}"
    rest = [value, interval, case.bound, case.would_pass, one_line(case.message)]
    return [f"{case.rule} {one_line(case.title)}", one_line(case.pair), one_line(case.scope), *rest]


def _table(cases: list[Case]) -> str:
    rows = [[_SYMBOLS[case.outcome], *(inert(cell) for cell in _cells(case))] for case in cases]
    return tabulate(rows, ["", *_HEADERS[1:]], tablefmt="github", disable_numparse=True)


def _command_text(text: str, is_property: bool = False) -> str:
    """Escaped as GitHub's workflow commands want it."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")] + ([(":", "%3A"), (",", "%2C")] if is_property else [])
    for letter, code in pairs:
        text = text.replace(letter, code)
    return text


def _xml_text(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
