"""For test suites: `assert_no_drift(result, policy)`."""

from __future__ import annotations

from pathlib import Path

from harness.gate.command import judge_files
from harness.gate.reporters import terminal


def assert_no_drift(
    result: str | Path, policy: str | Path, baseline: str | Path | None = None, fail_on_warning: bool = False
) -> None:
    """Raise AssertionError, with the failures and the table of cases, unless every rule passes or only warns.

    A rule that is skipped or cannot be judged fails the assertion, too: undefined is not good.

    :param result: result folder or `evaluation.json`.
    :raises InputError: a file that cannot be read, or a policy that makes no sense.
    """
    accepted = None if baseline is None else Path(baseline)
    verdict = judge_files(Path(result), Path(policy), accepted, fail_on_warning=fail_on_warning)
    if verdict.exit_code:  # no `assert`: python -O would skip it
        raise AssertionError("\n" + terminal(verdict))
