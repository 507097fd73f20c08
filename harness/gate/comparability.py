"""What a result, its policy and its baseline have to have in common, and what they should have.

Results of another kind (classes, image rule, layer, ...) are never compared. Results on other data, or from another
`before`, can be compared, but say less: the bounds of a policy and the values of a baseline hold for the images and
the checkpoint that they came from.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from harness.gate.policy import Policy, Rule
from harness.models.metadata import identity, sameness
from harness.results.schema import Evaluation, PairResult

_OF_CHECKPOINTS = {  # what all checkpoints have in common, in words -> the field of their metadata
    "image rule": "pixels",
    "score kind": "score_kind",
    "explained score": "explained",
    "thresholds": "thresholds",
}


def difference_from(result: Evaluation, baseline: Evaluation) -> str | None:
    """Why two results cannot be compared, or None: classes, image rule, score, layers, map size, selection."""
    ours, theirs = _kind_of(result), _kind_of(baseline)
    for name, value in ours.items():
        if name in theirs and value != theirs[name]:
            return f"{name} differs from the baseline's: {value} and {theirs[name]}"
    return None if theirs.keys() & ours.keys() >= set(_OF_CHECKPOINTS) else "the baseline says nothing of its models"


def other_reference(
    rule: Rule, result: Evaluation, pair: PairResult, baseline: Evaluation, other: PairResult
) -> str | None:
    """Why two indices cannot be compared: another kind of floor, or references that were drawn otherwise."""
    ours, theirs = (f"{one.floor} floor, {of.references}" for one, of in ((pair, result), (other, baseline)))
    if rule.statistic == "index" and ours != theirs:
        return f"floor and chance are not drawn as the baseline's ({ours}; there {theirs}): make the baseline anew"
    return None


def same_models(result: Evaluation) -> Iterator[tuple[str, str]]:
    """(pair, sentence) of each pair whose two checkpoints are the same model, as after a download that failed."""
    for pair in result.pairs:
        same = sameness(result.by_key[pair.before], result.by_key[pair.after])
        if same:
            yield pair.name, f"before and after are {same}: nothing was compared"


def foreign_origins(result: Evaluation, policy: Policy, baseline: Evaluation | None) -> Iterator[str]:
    """Sentences on what the policy and the baseline rest on that the result does not."""
    if policy.data_digest is not None and policy.data_digest != result.data_digest:
        yield _other_data("policy", policy.data_digest, result)
    if policy.before_digests and not befores(result) <= set(policy.before_digests):
        yield _other_before("policy")
    if policy.derived_from is not None and policy.references != result.references:
        there = policy.references or "as an earlier version did, which did not say how"
        yield (
            f"the policy rests on floor and chance drawn otherwise ({there}; here {result.references}): derive it anew "
            "with gate --init"
        )
    if baseline is not None and baseline.data_digest != result.data_digest:
        yield _other_data("baseline", baseline.data_digest, result)
    if baseline is not None and not befores(result) <= befores(baseline):
        yield _other_before("baseline")


def befores(result: Evaluation) -> set[str]:
    """The identities of the checkpoints that drift is measured from."""
    known = result.by_key
    return {identity(known[pair.before]) for pair in result.pairs if pair.before in known}


def _other_data(what: str, theirs: str, result: Evaluation) -> str:
    digests = f"data digest {theirs[:12]}, here {result.data_digest[:12]}"
    return f"the {what} rests on other data ({digests}): its numbers were not measured on these images"


def _other_before(what: str) -> str:
    return f"the {what} rests on another checkpoint `before`: it says how far others than this one drifted"


def _kind_of(result: Evaluation) -> dict[str, Any]:
    """What has to be the same for two results to be comparable, and which tensor each layer of an architecture is."""
    kind: dict[str, Any] = {
        "format": result.format,
        "classes": result.classes,
        "map size": result.map_size,
        "selection": result.selection,
    }
    for item in result.checkpoints:
        for name, field in _OF_CHECKPOINTS.items():
            value = getattr(item.metadata, field)
            known = kind.setdefault(name, [])
            known += [value] if value not in known else []
        kind |= {f"CAM layer {layer.label} of {item.architecture}": layer.name for layer in item.metadata.layers}
    for record in result.registered_metrics:
        kind[f"metric {record.name}"] = record.model_dump(exclude={"definition", "source"})
    return kind
