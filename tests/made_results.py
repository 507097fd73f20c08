"""Evaluations written by hand, for tests of what reads them."""

from __future__ import annotations

from typing import Any

from harness.results.schema import (
    CheckpointResult,
    Estimate,
    Evaluation,
    IndexResult,
    MetricSummary,
    PairResult,
)

CLASSES = ["calm", "storm"]
LAYER, METHOD = "penultimate", "layercam"


def estimate(mean: float | None, half: float | None = 0.02, reason: str | None = None) -> Estimate:
    if mean is None or half is None:
        return Estimate(mean=mean, low=None, high=None, reason=reason or "few_patients")
    return Estimate(mean=mean, low=mean - half, high=mean + half, reason=reason)


def summary(metric: str = "iou_top20", scope: str = "all", mean: float | None = 0.5, **changed: Any) -> MetricSummary:
    """One metric; chance 0.2, floor 0.8."""
    n = changed.get("n", 100)
    value = None if mean is None else (mean - 0.2) / 0.6
    low, high = (None, None) if value is None else (value - 0.05, value + 0.05)
    index = IndexResult(
        value=value, low=low, high=high, reason=None, n=100, n_patients=80, observed=mean, chance=0.2, floor=0.8
    )
    fields: dict[str, Any] = {
        "layer": LAYER, "method": METHOD, "scope": scope, "metric": metric, "stable_is": "high", "n": n,
        "n_patients": min(n, 80), "undefined": {}, "vanished": 0, "estimate": estimate(mean), "sd": 0.1,
        "q05": 0.3, "q25": 0.4, "median": mean, "q75": 0.6, "q95": 0.7, "vanished_rate": estimate(0.05),
        "intervals": {"q05": (0.25, 0.35), "median": (0.45, 0.55), "q95": (0.65, 0.75)},
        "chance": estimate(0.2), "floor": estimate(0.8), "index": index,
    }  # fmt: skip
    return MetricSummary(**{**fields, **changed})


def checkpoint(key: str, accuracy: float) -> CheckpointResult:
    metadata = {
        "format": 1, "architecture": "Made", "phase": key, "classes": CLASSES, "preprocessing": "none",
        "image_rule": "grey-squash/1", "input_size": (32, 32), "input_range": (0, 255), "score_kind": "softmax",
        "explained": "logit", "layers": [], "weights_digest": key, "data_digest": "", "tools": {}, "seed": 0,
        "git_commit": None,
    }  # fmt: skip
    quality = {"accuracy": estimate(accuracy), "auc": estimate(0.9), "ece": estimate(0.05, 0.01)}
    return CheckpointResult(
        key=key, file=f"{key}.onnx", digest=key, architecture="Made", phase=key, replicate=0, metadata=metadata,
        quality=quality, consistency=[],
    )  # fmt: skip


def evaluation(metrics: list[MetricSummary] | None = None, **changed: Any) -> Evaluation:
    """One pair `a -> b` of architecture `Made`; accuracy 0.80 -> 0.81."""
    pair = PairResult(
        name="a -> b", before="a", after="b", kind="drift", architecture="Made", replicate=0, selected=100,
        selected_patients=80, floor="jitter", agreement=estimate(0.9),
        change={"accuracy": estimate(0.01), "auc": estimate(0.0), "ece": estimate(0.0)}, equivalence=[],
        metrics=metrics if metrics is not None else [summary(scope=scope) for scope in ("all", *CLASSES)],
    )  # fmt: skip
    fields: dict[str, Any] = {
        "command": [], "data": "data", "root": None, "split": None, "data_digest": "d", "images": 120, "patients": 90,
        "unreadable": {}, "classes": CLASSES, "selection": "true-positive", "methods": [METHOD], "layers": [LAYER],
        "map_size": (224, 224), "seed": 0, "resamples": 100, "jitter_draws": 4, "jitter_seed": 0,
        "chance_draws": 20, "margin": 0.02,
        "checkpoints": [checkpoint("a", 0.80), checkpoint("b", 0.81)], "pairs": [pair], "environment": {},
        "seconds": {},
    }  # fmt: skip
    return Evaluation(**{**fields, **changed})
