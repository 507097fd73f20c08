"""Judging a result by a policy, and bundles for the deployment side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.cpus import available_cpus
from harness.common.storage import as_location

if TYPE_CHECKING:
    from harness.bundle.verify import Verification
    from harness.gate.verdict import Verdict


def judge(result: Any, policy: Any, baseline: Any = None, fail_on_warning: bool = False) -> Verdict:
    """Judge a result by a policy; `Verdict.exit_code` is 0 where it passes.

    :param result, baseline: a `Result`, an `Evaluation`, or a result folder or file.
    :param policy: a policy TOML, or a `Policy`.
    :raises InputError: a file that cannot be read, or a policy that makes no sense.
    """
    from harness.gate.judge import judge as judge_evaluation
    from harness.gate.policy import Policy, read_policy

    found = _evaluation(result)
    rules = policy if isinstance(policy, Policy) else read_policy(Path(policy), found.vocabulary)
    accepted = None if baseline is None else _evaluation(baseline)
    return judge_evaluation(found, rules, accepted, fail_on_warning=fail_on_warning)


def pack(
    model: Any, data: Any, out: Any, *, root: Any = None, split: str | None = None, labels: Any = None, **options: Any
) -> str:
    """Pack a model with golden cases; returns the digest of the bundle.

    :param labels: a table that names the classes of a folder's images.
    :param options: fields of `harness.bundle.pack.PackOptions`.
    :raises InputError: a model, data or options that cannot be used.
    """
    from harness.bundle.pack import PackOptions
    from harness.bundle.pack import pack as pack_cases
    from harness.images.dataset import read_dataset
    from harness.models.metadata import Graph

    metadata = Graph.read(as_location(model)).metadata
    where, table = (None if path is None else as_location(path) for path in (root, labels))
    multilabel = metadata.score_kind == "multilabel"
    samples = read_dataset(as_location(data), metadata.classes, where, split, multilabel, labels=table)
    return pack_cases(Path(model), samples, PackOptions(**options), Path(out))


def verify(bundle: Any, digest: str | None = None, **options: Any) -> Verification:
    """Check a bundle on this machine; `Verification.passed` says how it went.

    :param options: fields of `harness.bundle.verify.VerifyOptions`.
    :raises InputError: no bundle, or one of another version.
    """
    from harness.bundle.verify import VerifyOptions
    from harness.bundle.verify import verify as verify_bundle

    return verify_bundle(Path(bundle), digest, VerifyOptions(**{"threads": available_cpus(), **options}))


def _evaluation(result: Any) -> Any:
    """The numbers of whatever stands for a result."""
    from harness.results.schema import Evaluation

    if isinstance(result, Evaluation):
        return result
    found = getattr(result, "evaluation", None)
    return found if isinstance(found, Evaluation) else Evaluation.read(as_location(result))
