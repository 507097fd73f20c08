"""Make the document: judge, see that the criteria were there first, gather the sections, render.

Refused is a policy that is younger than the result, or was derived from it: criteria that came after what they judge
are none. How the times are known: the policy's from git, the result's from its own record (`began`), which says when
the first of its pictures was explained, also after `--resume` and `--from`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.change_control.commit import Commit, commit_of
from harness.change_control.sections import Judged, sections, words
from harness.change_control.traced import BASELINE, POLICY, RESULT, Row, Section, Table
from harness.common.errors import InputError
from harness.common.provenance import bytes_digest
from harness.common.storage import Location
from harness.gate.command import judge_files
from harness.gate.policy import Policy, parse_policy, read_policy_bytes
from harness.gate.verdict import Record, Verdict
from harness.models.metadata import identity
from harness.report.html import environment, stamp
from harness.results.schema import Evaluation, read_result, result_file

TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Dossier:
    """The document as HTML, and the verdict in it."""

    html: str
    verdict: Verdict


def make_dossier(
    result: Location, policy: Path, baseline: Location | None = None, command: Sequence[str] = ()
) -> Dossier:
    """The dossier of a result under a policy.

    :param baseline: an accepted result that rules are against; has to be there.
    :raises InputError: files that cannot be read, or a policy that is not committed, is younger than the result, or was
        derived from it.
    """
    verdict = judge_files(result, policy, baseline, command=command)
    found = Evaluation.parse(read_result(result), result_file(result))
    content = read_policy_bytes(policy)
    rules = parse_policy(content, str(policy), found.vocabulary)
    accepted = None if baseline is None else Evaluation.read(baseline)
    record = _same_files(verdict, result, content)
    _require_not_derived(policy, rules, record, found, accepted)
    commit = commit_of(policy, content)
    _require_older(policy, commit, found, result)
    judged = Judged(found, rules, verdict, commit, accepted)
    return Dossier(_render(judged, record), verdict)


def _same_files(verdict: Verdict, result: Location, policy: bytes) -> Record:
    """The record of what was judged, which has to be what is described."""
    record = verdict.record
    assert record is not None
    read = {record.result.sha256: bytes_digest(read_result(result)), record.policy.sha256: bytes_digest(policy)}
    if any(judged != described for judged, described in read.items()):
        raise InputError(f"{result}: it or its policy changed while the dossier was made; make it again")
    return record


def _require_older(policy: Path, commit: Commit, found: Evaluation, result: Location) -> None:
    """Refuse criteria that were fixed after the first picture was explained."""
    began = found.environment.get("began")
    if not isinstance(began, str):
        raise InputError(f"{result}: does not say when it was made, as an earlier version wrote it; evaluate anew")
    try:
        made = datetime.fromisoformat(began).astimezone(UTC)
    except ValueError:
        raise InputError(f"{result}: says that it was made at {began!r}, which is no time; evaluate anew") from None
    if commit.time > made:
        raise InputError(
            f"{policy}: was committed at {commit.time:%Y-%m-%dT%H:%M:%SZ}, after the evaluation began ({began}): "
            "criteria have to be fixed before what they judge; evaluate anew, or give the policy as it was committed "
            "before"
        )


def _require_not_derived(
    policy: Path, rules: Policy, record: Record, found: Evaluation, accepted: Evaluation | None
) -> None:
    """Refuse bounds that come from this result, or from another evaluation of the same checkpoints."""
    if rules.derived_from == record.result.sha256:
        raise InputError(f"{policy}: was derived from this very result; judge another one by it")
    from_baseline = record.baseline is not None and rules.derived_from == record.baseline.sha256
    if accepted is not None and from_baseline and _afters(accepted) & _afters(found):
        raise InputError(
            f"{policy}: was derived from another evaluation of the same checkpoint, the baseline; judge another one "
            "by it"
        )


def _afters(result: Evaluation) -> set[str]:
    """Identities of the checkpoints that are judged."""
    return {identity(result.by_key[pair.after]) for pair in result.pairs}


def _render(judged: Judged, record: Record) -> str:
    template = environment(TEMPLATES).get_template("dossier.html")
    return template.render(
        sections=[*sections(judged), _files(judged, record), words(judged)],
        criteria=len(judged.policy.rule),
        verdict=judged.verdict,
        record=record,
        result=judged.result,
        commit=judged.commit,
        stamp=stamp(judged.result),
    )


def _files(judged: Judged, record: Record) -> Section:
    """What the letters in the sources stand for, and the files behind the result."""
    rows = [
        Row((RESULT, "the result", record.result.file, record.result.sha256)),
        Row((POLICY, f"the policy, commit {judged.commit.digest}", record.policy.file, record.policy.sha256)),
    ]
    if record.baseline is not None:
        rows.append(Row((BASELINE, "the baseline", record.baseline.file, record.baseline.sha256)))
    rows += [Row(("", f"checkpoint {item.key}", item.file, item.sha256)) for item in record.checkpoints]
    rows.append(
        Row(
            (
                "",
                "the pictures: digest of names, classes, patients and contents",
                judged.result.data,
                record.data_digest,
            )
        )
    )
    sentences = [
        "In the last column of each table stands where its numbers come from: the letter of a file of this list, and "
        "behind it the JSON pointer (RFC 6901) of the record in it; of the policy the place of the rule, counted "
        "from 0. sha256sum gives the digest.",
        f"Made at {record.time} by evidence-drift {record.version}.",
    ]
    return Section("5", "Traceability", sentences, [Table("Files", ["letter", "what", "file", "sha256"], rows)])
