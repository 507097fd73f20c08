"""For test suites: `assert_no_drift(result, policy)`."""

from __future__ import annotations

from pathlib import Path

from harness.gate.judge import judge
from harness.gate.policy import read_policy
from harness.gate.reporters import terminal
from harness.results.schema import Evaluation


def assert_no_drift(
    result: str | Path, policy: str | Path, baseline: str | Path | None = None, fail_on_warning: bool = False
) -> None:
    """Raise AssertionError, with the table of cases, unless every rule of the policy passes or only warns.

    A rule that is skipped or cannot be judged fails the assertion, too: undefined is not good.

    :param result: result folder or `evaluation.json`.
    :raises InputError: a file that cannot be read, or a policy that makes no sense.
    """
    found = judge(
        Evaluation.read(Path(result)),
        read_policy(Path(policy)),
        None if baseline is None else Evaluation.read(Path(baseline)),
        fail_on_warning=fail_on_warning,
    )
    if found.exit_code:  # no `assert`: python -O would skip it
        raise AssertionError("\n" + terminal(found))
