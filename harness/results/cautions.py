"""What a reader has to know before any number of a result.

Accuracy at chance, maps that hang on small denominators, methods that are blind, maps that were trained to stay.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.common.formatting import digits
from harness.results.schema import CheckpointResult, Conditioning, Estimate, Evaluation, NullResult

ILL_CONDITIONED = 0.05  # mean share of the weight from denominators below 1, from which on maps are ill-conditioned
GUESSING = 0.5  # the AUC of answers that know nothing


def cautions(result: Evaluation) -> list[str]:
    """One sentence each, without a full stop."""
    of_accuracy = [f"{item.key}: {text}" for item in result.checkpoints for text in at_chance(item, result.majority)]
    of_maps = [f"{item.key}: {ill_conditioned(one)}" for item in result.checkpoints for one in _ill(item)]
    of_training = [f"{item.key}: {text}" for item in result.checkpoints for text in trained_to_stay(item, result)]
    return of_accuracy + of_training + of_maps + [blindness(item) for item in result.nulls if item.blind]


def blindness(item: NullResult) -> str:
    """The sentence about a method whose maps stay like those of a network that knows nothing."""
    return (
        f"{item.pair}: {item.method} at {item.layer} is blind to what {item.name} lacks: its maps overlap with those "
        f"of that null by {_shown(item.similarity)}, with those of other patients by {_shown(item.others)}; its drift "
        "says nothing of that part of the model"
    )


def at_chance(checkpoint: CheckpointResult, majority: float | None) -> Iterator[str]:
    """Why a checkpoint is not shown to classify better than an answer that does not look at the image.

    By the lower ends of the intervals of macro AUC (0.5) and accuracy (`majority`). Nothing where there is none.
    """
    auc, accuracy = checkpoint.quality.get("auc"), checkpoint.quality.get("accuracy")
    if auc is not None and auc.low is not None and auc.low <= GUESSING:
        yield f"macro AUC {_shown(auc)} is not shown to be above 0.5, that of guessing: its maps explain no skill"
    if accuracy is not None and accuracy.low is not None and majority is not None and accuracy.low <= majority:
        yield (
            f"accuracy {_shown(accuracy)} is not shown to be above {digits(majority)}, that of always answering the "
            "most frequent class"
        )


def trained_to_stay(checkpoint: CheckpointResult, result: Evaluation) -> Iterator[str]:
    """That a checkpoint was trained to preserve evidence, by which method, and what else judges it here."""
    for item in checkpoint.metadata.preserved:
        own = _paradigm(result, item.method)
        others = [name for name in result.methods if _paradigm(result, name) != own]
        judges = [f"{name} ({_paradigm(result, name)})" for name in others] + ["the causal check"] * bool(result.causal)
        what = (
            f"judge it by {_listed(judges)}"
            if judges
            else "nothing else judges it here: add --method ablation --method integrated-gradients --causal 64"
        )
        yield (
            f"was trained to preserve evidence ({item}); {own} methods say how well that was learnt, not whether the "
            f"evidence stayed; {what}"
        )


def _paradigm(result: Evaluation, method: str) -> str:
    return result.vocabulary.method(method).paradigm


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def ill_conditioned(item: Conditioning) -> str:
    """The sentence about a method whose weights come from small denominators."""
    return (
        f"{item.method} at {item.layer} takes {100 * item.mean:.0f} % of its weights from denominators below 1, so "
        "a few elements decide its maps; compare with gradcam++-mean or layercam"
    )


def _ill(checkpoint: CheckpointResult) -> list[Conditioning]:
    return [item for item in checkpoint.conditioning if item.mean > ILL_CONDITIONED]


def _shown(estimate: Estimate) -> str:
    return f"{digits(estimate.mean)} ({digits(estimate.low)} .. {digits(estimate.high)})"
