"""What a night leaves beside the state: JSON lines, metrics for Prometheus, a page; and the table on the terminal.

All of it is written anew from the state each time, so a run that was killed leaves nothing that the next does not mend.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tabulate import tabulate

from harness.common.formatting import count, digits, one_line
from harness.common.storage import write_bytes
from harness.monitoring.history import History, Spread
from harness.monitoring.page import page

LINES, METRICS, PAGE = "nights.jsonl", "metrics.prom", "trend.html"
_PREFIX = "evidence_drift_monitor_"
_NAMED = 3  # statistics in the verdict
_LARGEST = 6  # powers of ten of evidence that are shown as a number


def places(folder: Path, prometheus: Path | None = None) -> tuple[Path, Path, Path]:
    """Where the lines, the page and the metrics are written."""
    return folder / LINES, folder / PAGE, prometheus or folder / METRICS


def write_outputs(found: History, folder: Path, prometheus: Path | None = None) -> None:
    """Write the three files."""
    texts = json_lines(found), page(found), metrics(found)
    for path, text in zip(places(folder, prometheus), texts, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())


def json_lines(found: History) -> str:
    """One line per night."""
    return "".join(f"{night.model_dump_json()}\n" for night in found.nights)


def table(found: History) -> str:
    """The last night, statistic by statistic, and the verdict."""
    if not found.nights:
        return f"no night yet: nothing new was given\n\n{verdict(found)}"
    last = found.nights[-1]
    rows = [
        [
            ("ALARM " if item.alarm else "") + one_line(item.name),
            _quartiles(item.reference),
            _quartiles(item.tonight),
            _evidence(item.log10_e),
            _evidence(item.log10_e_highest),
        ]
        for item in sorted(last.statistics, key=lambda item: not item.alarm)
    ]
    headers = ["statistic", "reference", f"night {one_line(last.night)}", "evidence", "highest"]
    counts = f"{last.tested} tested, {last.repeated} of patients seen before, {last.unreadable} unreadable, "
    lines = [
        tabulate(rows, headers, disable_numparse=True),
        "",
        f"pictures   {last.given} given, {last.seen} seen before, {counts}".rstrip(", "),
        f"alarm at   evidence {_evidence(last.log10_threshold)} in any statistic",
        verdict(found),
    ]
    return "\n".join(lines)


def verdict(found: History) -> str:
    """One line: how many statistics are in alarm, since when, and the golden cases."""
    words = ["no alarm"]
    if found.since:
        names = ", ".join(one_line(name) for name in found.alarms[:_NAMED])
        more = ", ..." if len(found.since) > _NAMED else ""
        first = one_line(next(night.night for night in found.nights if night.alarms))
        words = [f"ALARM since {first} ({count(len(found.since), 'statistic')}: {names}{more})"]
    if found.golden is not None:
        passed = "pass" if found.golden.passed else f"FAIL ({found.golden.problem or 'beyond tolerance'})"
        trust = "" if found.golden.authenticated else ", unauthenticated"
        words.append(f"golden cases {passed}{trust}")
    return f"verdict: {'; '.join(words)}"


def metrics(found: History) -> str:
    """The last night in the text format of Prometheus, for the textfile collector of its node exporter."""
    return "".join(f"{line}\n" for line in _lines(found))


def _lines(found: History) -> Iterator[str]:
    yield from _gauge("alarm", "1 where a statistic is in alarm", [({}, int(bool(found.since)))])
    if found.golden is not None:
        yield from _gauge("golden_passed", "1 where the golden cases passed", [({}, int(found.golden.passed))])
    if not found.nights:
        return
    last = found.nights[-1]
    model = {"model": last.model[:12]}
    own = [({"statistic": item.name, **model}, item) for item in last.statistics]
    yield from _gauge("log10_evidence", "Evidence against the reference", [(at, item.log10_e) for at, item in own])
    yield from _gauge("log10_evidence_highest", "The highest so far", [(at, item.log10_e_highest) for at, item in own])
    yield from _gauge("log10_threshold", "Evidence of an alarm", [(model, last.log10_threshold)])
    medians = [
        ({**at, "of": of}, spread.median)
        for at, item in own
        for of, spread in (("night", item.tonight), ("reference", item.reference))
        if spread.median is not None
    ]
    yield from _gauge("median", "Median over pictures", medians)
    counts = [({"kind": kind, **model}, getattr(last, kind)) for kind in ("tested", "repeated", "seen", "unreadable")]
    yield from _gauge("pictures", "Pictures of the last night", counts)
    when = datetime.fromisoformat(last.time).timestamp()
    yield from _gauge("night_timestamp_seconds", "When the last night with new pictures ran", [(model, when)])


def _gauge(name: str, text: str, values: list) -> Iterator[str]:
    yield f"# HELP {_PREFIX}{name} {text}."
    yield f"# TYPE {_PREFIX}{name} gauge"
    for labels, value in values:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
        yield f"{_PREFIX}{name}{'{' + inside + '}' if inside else ''} {float(value):.10g}"


def _escaped(text: str) -> str:
    """A label's value: backslash, quote and line break are escaped."""
    return one_line(text).replace("\\", r"\\").replace('"', r"\"")


def _quartiles(spread: Spread) -> str:
    if not spread.n:
        return "none"
    return f"{digits(spread.median)} ({digits(spread.q25)} .. {digits(spread.q75)})"


def _evidence(log10: float) -> str:
    return f"{10**log10:.3g}" if log10 < _LARGEST else f"10^{log10:.1f}"
