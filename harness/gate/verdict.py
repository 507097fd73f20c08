"""The verdict of a gate: its cases, and the record that ties it to files, time and program.

What `gate --json` writes; the JSON Schema beside this file is generated from it. Terminal, JUnit, Markdown and GitHub
annotations show the same object (`harness.gate.reporters`).
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, computed_field

from harness.results.schema import ALL, Number

FORMAT: Literal[1] = 1
SCHEMA = Path(__file__).parent / "verdict.schema.json"

Outcome = Literal["pass", "fail", "warn", "error", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("fail", "error", "skipped", "warn", "pass")


class _Record(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, json_schema_serialization_defaults_required=True
    )


class Case(_Record):
    """What one rule found at one pair and scope. `would_pass` is the bound that this result would just have passed.

    rule: counted from 1; 0 for what the policy requires of the result as a whole
    floor: of an index, what it is measured against: indices on different floors cannot be compared
    """

    rule: int
    title: str
    pair: str = ""
    scope: str = ALL
    outcome: Outcome
    message: str = ""
    value: Number = None
    low: Number = None
    high: Number = None
    bound: str = ""
    would_pass: str = ""
    floor: Literal["jitter", "replicate"] | None = None


class FileRecord(_Record):
    """A file that the verdict rests on: its path, without home and machine, and sha256 of its bytes."""

    file: str
    sha256: str


class CheckpointRecord(_Record):
    """A checkpoint that was compared, as the result names it."""

    key: str
    file: str
    sha256: str
    weights_digest: str


class Record(_Record):
    """What was judged by what, when, and with which program.

    time: UTC, ISO 8601; command: with portable paths (`harness.results.pseudonyms.portable_command`)
    """

    version: str
    time: str
    command: list[str]
    result: FileRecord
    policy: FileRecord
    baseline: FileRecord | None
    data_digest: str
    checkpoints: list[CheckpointRecord]


class Verdict(_Record):
    """All cases, and what else has to be said. `record`: None where the judged objects came from no files."""

    format: Literal[1] = FORMAT
    cases: list[Case]
    warnings: list[str] = []
    fail_on_warning: bool = False
    record: Record | None = None

    @computed_field  # type: ignore[prop-decorator]
    @property
    def outcome(self) -> Outcome:
        """The worst outcome; a failure goes first."""
        found = {case.outcome for case in self.cases}
        return next((outcome for outcome in OUTCOMES if outcome in found), "error")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def exit_code(self) -> int:
        """0, 1 where something failed, or 3 where a case is an error or was skipped."""
        if self.outcome == "fail" or (self.fail_on_warning and any(case.outcome == "warn" for case in self.cases)):
            return 1
        return 3 if self.outcome in ("error", "skipped") else 0

    @computed_field  # type: ignore[prop-decorator]
    @property
    def counts(self) -> dict[Outcome, int]:
        """How many cases had each outcome."""
        found = Counter(case.outcome for case in self.cases)
        return {outcome: found[outcome] for outcome in OUTCOMES if found[outcome]}


def schema() -> str:
    """The JSON Schema of what `gate --json` writes."""
    return json.dumps(Verdict.model_json_schema(mode="serialization"), indent=1) + "\n"
