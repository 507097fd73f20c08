"""What `python -m harness gate` does, from files to files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import click

from harness.common.errors import InputError
from harness.common.provenance import bytes_digest
from harness.common.storage import Place, write_bytes, write_whole
from harness.gate import reporters
from harness.gate.derive_policy import propose
from harness.gate.judge import Case, Verdict, judge
from harness.gate.policy import parse_policy, read_policy
from harness.results.layout import RESULT
from harness.results.schema import Evaluation


@dataclass(frozen=True)
class Outputs:
    """How to compare and where to write."""

    baseline: Path | None = None
    update_baseline: bool = False
    fail_on_warning: bool = False
    json_file: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    github: bool = False


def initialise(result: Place, policy: Path) -> int:
    """Write a first policy; returns how many of its rules are on means of maps.

    :raises InputError: the file is there already, or no rule can be derived.
    """
    if policy.exists():
        raise InputError(f"{policy}: exists; name another file with --policy, or remove it")
    found = Evaluation.read(result)
    text = propose(found, bytes_digest(_file(result).read_bytes()), str(result))
    rules = parse_policy(text, f"the policy proposed for {result}", found.vocabulary).rule
    write_whole(policy, text)
    return sum(rule.statistic == "mean" for rule in rules)


def gate(result: Place, policy: Path, outputs: Outputs) -> int:
    """Judge, print and write the verdict; returns the exit code."""
    found = Evaluation.read(result)
    rules = read_policy(policy, found.vocabulary)
    baseline, missing = _baseline(result, outputs)
    verdict = judge(found, rules, baseline, bytes_digest(_file(result).read_bytes()), outputs.fail_on_warning)
    if missing:
        verdict = Verdict([missing, *verdict.cases], verdict.warnings, outputs.fail_on_warning)
    click.echo(reporters.terminal(verdict))
    _write(verdict, result, outputs)
    return verdict.exit_code


def _file(result: Place) -> Place:
    return result / RESULT if result.is_dir() else result


def _baseline(result: Place, outputs: Outputs) -> tuple[Evaluation | None, Case | None]:
    """The baseline, or a failed case where it is missing; the candidate is then written beside its place."""
    if outputs.baseline is None:
        if outputs.update_baseline:
            raise InputError("--update-baseline needs --baseline FILE, the file to write")
        return None, None
    if outputs.update_baseline:
        if outputs.baseline.is_dir():
            raise InputError(f"{outputs.baseline}: is a folder; name the file to write, accepted.json for example")
        _copy(_file(result), outputs.baseline)
    path = outputs.baseline / RESULT if outputs.baseline.is_dir() else outputs.baseline
    if path.is_file():
        return Evaluation.read(path), None
    candidate = path.with_name(path.name + ".candidate")
    _copy(_file(result), candidate)
    message = f"no baseline at {path}; the candidate is {candidate}: look at it, then accept it with --update-baseline"
    return None, Case(0, "baseline", "", "", "fail", message)


def _copy(source: Place, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(target, source.read_bytes())


def _write(verdict: Verdict, result: Place, outputs: Outputs) -> None:
    folder = result if result.is_dir() else result.parent
    for file in filter(None, (outputs.json_file, outputs.junit, outputs.markdown)):
        file.parent.mkdir(parents=True, exist_ok=True)
    if outputs.json_file:
        write_whole(outputs.json_file, reporters.as_json(verdict))
    if outputs.junit:
        reporters.write_junit(verdict, outputs.junit)
    if outputs.markdown:
        write_whole(outputs.markdown, reporters.markdown(verdict, folder))
    if outputs.github:
        for line in reporters.github(verdict):
            click.echo(line)
        summary = os.environ.get("GITHUB_STEP_SUMMARY")
        if summary:
            with Path(summary).open("a", encoding="utf-8") as stream:
                stream.write(reporters.markdown(verdict, folder) + "\n")
