"""What `python -m harness gate` does with files; nothing here prints or knows of a command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.common.errors import InputError
from harness.common.provenance import bytes_digest, utc_now, versions
from harness.common.storage import Location, is_standard_output, write_bytes, write_whole
from harness.gate import reporters
from harness.gate.judge import judge
from harness.gate.policy import parse_policy, read_policy_bytes
from harness.gate.verdict import Case, CheckpointRecord, FileRecord, Record, Verdict
from harness.results.file_names import RESULT
from harness.results.pseudonyms import portable_command, portable_path
from harness.results.schema import Evaluation, read_result, result_file

PROGRAM = "evidence-drift"


@dataclass(frozen=True)
class Outputs:
    """Where a verdict is written. `summary`: GitHub's step summary, to which Markdown is appended."""

    json_file: Path | None = None
    junit: Path | None = None
    markdown: Path | None = None
    summary: Path | None = None

    @property
    def takes_stdout(self) -> bool:
        """True where one of the files is standard output, so that nothing else should be printed there."""
        return any(is_standard_output(file) for file in (self.json_file, self.junit, self.markdown))


def judge_files(
    result: Location,
    policy: Path,
    baseline: Location | None = None,
    *,
    fail_on_warning: bool = False,
    command: Sequence[str] = (),
) -> Verdict:
    """Judge a result folder or file by a policy file; the verdict's record says which files these were.

    :param baseline: an accepted result; where the file is missing, the verdict fails.
    :param command: the command line, for the record.
    :raises InputError: a file that cannot be read, or makes no sense.
    """
    content = read_result(result)
    found = Evaluation.parse(content, result_file(result))
    rules = read_policy_bytes(policy)
    accepted = None if baseline is None else _read_baseline(baseline)
    against = None if baseline is None or accepted is None else Evaluation.parse(accepted, result_file(baseline))
    verdict = judge(
        found, parse_policy(rules, str(policy), found.vocabulary), against, bytes_digest(content), fail_on_warning
    )
    record = Record(
        version=versions([PROGRAM]).get(PROGRAM, "unknown"),
        time=utc_now(),
        command=portable_command(command),
        result=_recorded(result_file(result), content),
        policy=_recorded(policy, rules),
        baseline=None if baseline is None or accepted is None else _recorded(result_file(baseline), accepted),
        data_digest=found.data_digest,
        checkpoints=_checkpoints(found),
    )
    missing = [] if baseline is None or accepted is not None else [_missing(baseline)]
    return verdict.model_copy(update={"record": record, "cases": [*missing, *verdict.cases]})


def accept(result: Location, baseline: Path | None) -> None:
    """Write a result to the place of the baseline.

    :raises InputError: no baseline, a folder, or a result that cannot be judged, which replaces nothing.
    """
    if baseline is None:
        raise InputError("--update-baseline needs --baseline FILE, the file to write")
    if baseline.is_dir():
        raise InputError(f"{baseline}: is a folder; name the file to write, accepted.json for example")
    content = read_result(result)
    Evaluation.parse(content, result_file(result))
    _write(baseline, content)


def write_candidate(result: Location, baseline: Path) -> Path | None:
    """Write a result beside the place of a baseline that is missing, to be looked at; None where it is not."""
    place = baseline / RESULT if baseline.is_dir() else baseline
    if place.exists():
        return None
    candidate = place.with_name(place.name + ".candidate")
    _write(candidate, read_result(result))
    return candidate


def write_verdict(verdict: Verdict, result: Location, outputs: Outputs) -> None:
    """Write the files that were asked for, and the folders that they lie in."""
    folder = result if result.is_dir() else result.parent
    if outputs.json_file:
        _write(outputs.json_file, reporters.as_json(verdict))
    if outputs.junit:
        _write(outputs.junit, reporters.junit(verdict))
    if outputs.markdown:
        _write(outputs.markdown, reporters.markdown(verdict, folder))
    if outputs.summary:
        with outputs.summary.open("a", encoding="utf-8") as stream:
            stream.write(reporters.markdown(verdict, folder) + "\n")


def _read_baseline(baseline: Location) -> bytes | None:
    """The bytes of a baseline; None where there is no such file."""
    return read_result(baseline) if result_file(baseline).exists() else None


def _missing(baseline: Location) -> Case:
    file = portable_path(str(result_file(baseline)))
    message = f"no baseline at {file}; look at this result, then accept it with --update-baseline"
    return Case(rule=0, title="baseline", outcome="fail", message=message)


def _recorded(file: Location, content: bytes) -> FileRecord:
    return FileRecord(file=portable_path(str(file)), sha256=bytes_digest(content))


def _checkpoints(result: Evaluation) -> list[CheckpointRecord]:
    return [
        CheckpointRecord(
            key=item.key,
            file=portable_path(item.file),
            sha256=item.digest,
            weights_digest=item.metadata.weights_digest,
        )
        for item in result.checkpoints
    ]


def _write(file: Path, content: str | bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        write_bytes(file, content)
    else:
        write_whole(file, content)
