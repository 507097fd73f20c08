"""A verdict for people and machines: terminal, JSON, JUnit, Markdown, GitHub annotations."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from textwrap import wrap
from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite
from tabulate import MIN_PADDING, tabulate

from harness.common.formatting import inert, one_line
from harness.common.storage import Location
from harness.gate.verdict import OUTCOMES, Case, Record, Verdict
from harness.results.file_names import REPORT, SHEET
from harness.results.pseudonyms import portable_path

WIDTH = 100  # columns of the terminal's text, unless it is narrower or every column is asked for
_NARROWEST = 60
_INDENT = 6 * " "
_COLUMNS = ["outcome", "rule", "pair", "scope", "value", "interval", "bound", "would pass", "why"]
_PASSED = ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 6])  # of them, for cases that passed: the first that fit
_PAIR = 2  # left out where all are of one
_GAP = 2  # blanks between columns
_SYMBOLS = {"pass": "✅", "fail": "❌", "warn": "⚠️", "error": "⛔", "skipped": "⏭️"}
_ANNOTATIONS = {"fail": "error", "error": "error", "skipped": "error", "warn": "warning"}


def terminal(verdict: Verdict, width: int = WIDTH, wide: bool = False) -> str:
    """What did not pass first, each with its details; then a line per case that passed; the verdict comes last.

    wide: a line per case with every column, however long
    """
    width = max(_NARROWEST, min(width, WIDTH))
    cases = sorted(verdict.cases, key=lambda case: OUTCOMES.index(case.outcome))
    parts = [_table(cases, range(len(_COLUMNS)), None)] if wide else list(_narrow(cases, width))
    notes = [f"warning: {text}" for text in verdict.warnings] + list(_record_lines(verdict.record))
    if notes:
        parts.append("\n".join(notes if wide else [line for note in notes for line in wrap(one_line(note), width)]))
    return "\n\n".join([*parts, summary(verdict)])


def summary(verdict: Verdict) -> str:
    """The verdict in one line."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in verdict.counts.items())
    return f"verdict: {verdict.outcome.upper()} ({counts}; exit code {verdict.exit_code})"


def as_json(verdict: Verdict) -> str:
    """Everything, as the schema of `harness.gate.verdict` says; undefined numbers are null."""
    return verdict.model_dump_json(indent=1)


def markdown(verdict: Verdict, result: Location) -> str:
    """For a pull request comment or a step summary: what is not passed first, the rest folded away."""
    open_cases = [case for case in verdict.cases if case.outcome != "pass"]
    passed = [case for case in verdict.cases if case.outcome == "pass"]
    lines = [f"## {_SYMBOLS[verdict.outcome]} Evidence drift: {verdict.outcome}", "", inert(summary(verdict))]
    lines += [f"\n> {inert(one_line(text))}" for text in verdict.warnings]
    if open_cases:
        lines += ["", _markdown_table(open_cases)]
    if passed:
        lines += ["", *_folded(f"{len(passed)} passed", _markdown_table(passed))]
    pictures = [portable_path(str(result / name)) for name in (SHEET, REPORT) if (result / name).is_file()]
    if pictures:
        lines += ["", "The images whose evidence moved most: " + ", ".join(map(_code, pictures))]
    if verdict.record:
        rows = [[name, _code(value)] for name, value in record_rows(verdict.record)]
        lines += ["", *_folded("What was judged", tabulate(rows, ["", ""], tablefmt="github", disable_numparse=True))]
    return "\n".join(lines)


def github(verdict: Verdict) -> Iterator[str]:
    """Workflow commands: one per case that did not pass, one per warning, and one that says what was judged."""
    for case in verdict.cases:
        if case.outcome in _ANNOTATIONS:
            yield _workflow_command(_ANNOTATIONS[case.outcome], case.title, f"{case.outcome}: {_sentence(case)}")
    for text in verdict.warnings:
        yield _workflow_command("warning", "Evidence drift", text)
    if verdict.record:
        text = "\n".join(f"{name}: {value}" for name, value in record_rows(verdict.record))
        yield _workflow_command("notice", "Evidence drift: what was judged", text)


def junit(verdict: Verdict) -> str:
    """One test case per rule, pair and scope, and the record as properties.

    A warning is a passed case with the text in its output.
    """
    suite = TestSuite("evidence-drift")
    for name, value in record_rows(verdict.record) if verdict.record else ():
        suite.add_property(name, _xml_text(value))
    for case in verdict.cases:
        suite.add_testcase(_test_case(case))
    suite.update_statistics()
    document = JUnitXml("evidence-drift")
    document.add_testsuite(suite)
    document.update_statistics()
    root = ElementTree.fromstring(document.tostring())
    root.attrib.pop("skipped", None)  # the schema knows it of a suite, not of all of them
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def record_rows(record: Record) -> list[tuple[str, str]]:
    """(name, value) of everything that a record holds, one row per digest."""
    files = [("result", record.result), ("policy", record.policy), ("baseline", record.baseline)]
    rows = [("version", record.version), ("time", record.time), ("command", shlex.join(record.command))]
    for name, file in files:
        rows += [(name, one_line(file.file)), (f"{name} sha256", file.sha256)] if file else []
    rows.append(("data digest", record.data_digest))
    for item in record.checkpoints:
        name = f"checkpoint {one_line(item.key)}"
        rows += [(name, one_line(item.file)), (f"{name} sha256", item.sha256)]
        rows.append((f"{name} weights digest", item.weights_digest))
    return [(name, one_line(value)) for name, value in rows]


def _narrow(cases: Sequence[Case], width: int) -> Iterator[str]:
    """The pair where there is one, a block per case that did not pass, then the table of those that did."""
    pairs = sorted({case.pair for case in cases if case.pair})
    if len(pairs) == 1:
        yield "\n".join(wrap(f"pair: {one_line(pairs[0])}", width, subsequent_indent=_INDENT))
    yield from (_block(case, len(pairs) == 1, width) for case in cases if case.outcome != "pass")
    passed = [case for case in cases if case.outcome == "pass"]
    if passed:
        choices = [[column for column in columns if column != _PAIR or len(pairs) != 1] for columns in _PASSED]
        fitting = [columns for columns in choices if _total(_widths(passed, columns)) <= width]
        yield _table(passed, (fitting or choices[-1:])[0], width)


def _block(case: Case, one_pair: bool, width: int) -> str:
    """A case in a few lines: which rule and where, what was found, and why that is not good enough."""
    _, _, pair, scope, value, interval, bound, would_pass, why = _cells(case)
    where = [f"scope {scope}" if case.rule else "", "" if one_pair else pair]
    rule = f"rule {case.rule}: {one_line(case.title)}" if case.rule else one_line(case.title)
    details = [why + (f"; this result would pass with {would_pass}" if would_pass else "")]
    if case.value is not None:
        ends = "no interval" if interval == "-" else f"95 % interval {interval}"
        details.insert(0, f"found {value}, {ends}; bound {bound or 'none'}")
    lines = wrap(f"{case.outcome.upper():8}{one_line('; '.join(filter(None, [rule, *where])))}", width,
                 subsequent_indent=_INDENT)  # fmt: skip
    for detail in details:
        lines += wrap(detail, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
    return "\n".join(lines)


def _table(cases: Sequence[Case], columns: Sequence[int], width: int | None) -> str:
    """Some columns of cases; cells are broken into lines where the table would be wider than `width`."""
    widths = _widths(cases, columns)
    while width is not None and _total(widths) > width:
        widths[widths.index(max(widths))] -= 1
    rows = [[_cells(case)[column] for column in columns] for case in cases]
    headers = [_COLUMNS[column] for column in columns]
    return tabulate(rows, headers, tablefmt="simple", disable_numparse=True, maxcolwidths=list(widths))


def _widths(cases: Sequence[Case], columns: Sequence[int]) -> list[int]:
    """The width of each column as tabulate draws it, which leaves blanks beside headers."""
    return [max(len(_COLUMNS[n]) + MIN_PADDING, *(len(_cells(case)[n]) for case in cases)) for n in columns]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + _GAP * (len(widths) - 1)


def _record_lines(record: Record | None) -> Iterator[str]:
    """The digests in short."""
    if record is None:
        return
    files = [("result", record.result), ("policy", record.policy), ("baseline", record.baseline)]
    parts = [f"{name} {file.sha256[:12]}" for name, file in files if file]
    parts += [f"data {record.data_digest[:12]}", *(f"{item.key} {item.sha256[:12]}" for item in record.checkpoints)]
    yield f"judged: {', '.join(parts)}; evidence-drift {record.version}, {record.time}"


def _sentence(case: Case) -> str:
    _, _, pair, scope, value, interval, bound, would_pass, why = _cells(case)
    parts = [f"{case.title}, {pair}, {scope}: {value} ({interval}), bound {bound or 'none'}"]
    if not case.rule:
        parts = [", ".join(filter(None, [case.title, pair]))]
    parts += [f"would pass: {would_pass}"] if would_pass else []
    return "; ".join([*parts, why] if why else parts)


def _cells(case: Case) -> list[str]:
    """The texts of a case in the order of `_COLUMNS`; an index says on which floor it stands."""
    ends = None in (case.low, case.high)
    interval = "-" if ends else f"{case.low:.4g} .. {case.high:.4g}"
    value = "-" if case.value is None else f"{case.value:.4g}"
    value += f" ({case.floor} floor)" if case.floor else ""
    rule = f"{case.rule} {one_line(case.title)}" if case.rule else one_line(case.title)
    rest = [value, interval, case.bound, case.would_pass, one_line(case.message)]
    return [case.outcome.upper(), one_line(rule), one_line(case.pair), one_line(case.scope), *rest]


def _markdown_table(cases: Sequence[Case]) -> str:
    rows = [[_SYMBOLS[case.outcome], *(inert(cell) for cell in _cells(case)[1:])] for case in cases]
    return tabulate(rows, ["", *_COLUMNS[1:]], tablefmt="github", disable_numparse=True)


def _folded(title: str, text: str) -> list[str]:
    return [f"<details><summary>{title}</summary>", "", text, "", "</details>"]


def _code(text: str) -> str:
    """Text in backticks, which it cannot close."""
    return f"`{one_line(text).replace('`', chr(39)).replace('|', '/')}`" if text else ""


def _test_case(case: Case) -> TestCase:
    name = f"rule {case.rule}: {case.title} [{case.scope}]" if case.rule else case.title
    item = TestCase(_xml_text(name), _xml_text(case.pair), 0.0)
    marks = {"fail": Failure, "error": Error, "skipped": Skipped}
    if case.outcome in marks:
        item.result = [marks[case.outcome](_xml_text(_sentence(case)), case.outcome)]
    item.system_out = _xml_text(_sentence(case))
    return item


def _workflow_command(level: str, title: str, text: str) -> str:
    return f"::{level} title={_command_text(title, True)}::{_command_text(text)}"


def _command_text(text: str, is_property: bool = False) -> str:
    """Escaped as GitHub's workflow commands want it."""
    pairs = [("%", "%25"), ("\r", "%0D"), ("\n", "%0A")] + ([(":", "%3A"), (",", "%2C")] if is_property else [])
    for letter, code in pairs:
        text = text.replace(letter, code)
    return text


def _xml_text(text: str) -> str:
    """Without the control characters that XML cannot hold."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
