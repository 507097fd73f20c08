"""`harness verify`: does this model, on this machine, with this provider, still show the same evidence?"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from harness.bundle import format as bundles
from harness.bundle.format import Deviation, Expected, Manifest, Precision, TamperedError
from harness.bundle.golden import deviation, exceeded, run_case
from harness.common.errors import InputError
from harness.common.formatting import one_line
from harness.common.provenance import stamp
from harness.images.loading import decode_picture, view_of
from harness.images.notices import ignore
from harness.images.rule import restored
from harness.images.view import channels_first
from harness.models.session import Model

REPEATS = 3  # each case is timed that often
BATCH = 8  # of the throughput
PRECISION_OPTIONS = ("use_tf32", "trt_fp16_enable", "trt_int8_enable")


@dataclass(frozen=True)
class VerifyOptions:
    """With what to verify."""

    provider: str = "cpu"
    threads: int = 1
    level: str = "all"
    precision: Precision | None = None  # None: what the provider computes in


@dataclass(frozen=True)
class CaseVerdict:
    """One case: how far it is, and what is beyond tolerance."""

    case: str
    deviation: Deviation
    same_top: bool
    beyond: Sequence[str]

    @property
    def passed(self) -> bool:
        return self.same_top and not self.beyond


@dataclass
class Verification:
    """The outcome. `authenticated`: the manifest's digest was given, and is this one."""

    digest: str
    authenticated: bool
    problem: str | None = None
    cases: Sequence[CaseVerdict] = ()
    tolerance: Deviation | None = None
    precision: str = ""
    providers: Mapping[str, Any] = field(default_factory=dict)
    latency: float = float("nan")  # seconds per image, batch 1, median
    throughput: float = float("nan")  # images per second
    environment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return self.problem is None and bool(self.cases) and all(case.passed for case in self.cases)


def verify(bundle: Path, digest: str | None, options: VerifyOptions) -> Verification:
    """Check the files, then every case.

    :raises InputError: what is no bundle, or is malformed.
    :raises CannotEvaluateError: the provider is not there.
    """
    manifest, found = bundles.read_manifest(bundle)
    outcome = Verification(found, authenticated=digest is not None, environment=stamp())
    if digest is not None and digest.lower().removeprefix("sha256:") != found:
        outcome.problem = f"manifest.json: its digest is {found}, not {digest}"
        return outcome
    try:
        files = bundles.read_files(bundle, manifest)
    except TamperedError as error:
        outcome.problem = str(error)
        return outcome
    _require_known(bundle, manifest)
    expected = bundles.read_expected(bundle, files[bundles.EXPECTED], manifest)
    path = bundle / bundles.MODEL
    model = Model.load(path, files[bundles.MODEL], options.provider, options.threads, options.level)
    if model.metadata.rule.differences(restored(manifest.image_rule)):
        raise InputError(f"{path}: takes pictures by another image rule than the manifest says; get the bundle again")
    if model.metadata.classes != manifest.classes:
        raise InputError(f"{path}: tells other classes apart than the manifest says; get the bundle again")
    if max(model.metadata.input_size) > bundles.LARGEST_MAP:
        raise InputError(f"{path}: takes images of {model.metadata.input_size}; at most {bundles.LARGEST_MAP} a side")
    outcome.providers = model.providers
    outcome.precision = options.precision or _precision(model)
    outcome.tolerance = manifest.tolerances[outcome.precision]
    views = [_view(model, bundle / case.image, files[case.image]) for case in manifest.cases]
    outcome.cases = list(_judge(model, manifest, views, expected, outcome.tolerance))
    outcome.latency, outcome.throughput = _speed(model, views, manifest)
    return outcome


def _view(model: Model, path: Path, content: bytes) -> np.ndarray:
    rule = model.metadata.rule
    picture = decode_picture(path, content, rule, max_pixels=bundles.LARGEST_PICTURE, notice=ignore)
    return view_of(path, picture, rule, model.metadata.input_size).pixels


def report(found: Verification) -> str:
    """The outcome as a table, ending with the verdict."""
    if found.problem is not None:
        return f"tampered or damaged: {one_line(found.problem)}\n{_verdict(found)}"
    assert found.tolerance is not None
    rows = [[one_line(case.case), *_numbers(case.deviation), *_outcome(case)] for case in found.cases]
    rows.append(["tolerance", *_numbers(found.tolerance), "", ""])
    headers = ["case", "logits", "map L2", "IoU top 20", "Pearson", "top class", "verdict"]
    lines = [
        tabulate(rows, headers, disable_numparse=True),
        "",
        f"provider   {_providers(found)} (tolerances for {found.precision})",
        f"latency    {1000 * found.latency:.1f} ms per image, throughput {found.throughput:.1f} images/s",
        _verdict(found),
    ]
    return "\n".join(lines)


def as_json(found: Verification) -> str:
    """Everything."""
    content = {
        "passed": found.passed,
        "authenticated": found.authenticated,
        "manifest_digest": found.digest,
        "problem": found.problem,
        "precision": found.precision,
        "tolerance": found.tolerance.model_dump() if found.tolerance else None,
        "cases": [
            {**asdict(case), "deviation": case.deviation.model_dump(), "passed": case.passed} for case in found.cases
        ],
        "providers": found.providers,
        "seconds_per_image": found.latency if found.cases else None,
        "images_per_second": found.throughput if found.cases else None,
        "environment": found.environment,
    }
    return json.dumps(content, indent=1, allow_nan=False)


def _require_known(bundle: Path, manifest: Manifest) -> None:
    try:
        restored(manifest.image_rule)
    except ValueError as error:
        raise InputError(f"{bundle}: packed under {error}; pack it again") from None
    wrong = [case.name for case in manifest.cases if max(case.target, case.top) >= len(manifest.classes)]
    if wrong:
        raise InputError(f"{bundle}: case {wrong[0]!r} explains a class that the manifest does not name")
    missing = [name for name in bundles.PRECISIONS if name not in manifest.tolerances]
    if missing:
        raise InputError(f"{bundle}: its manifest has no tolerance for {missing[0]}; pack it again")


def _precision(model: Model) -> Precision:
    """What the first provider computes in; TensorRT and TF32 round, CUDA without TF32 does not."""
    name, options = next(iter(model.providers.items()))
    if name == "CPUExecutionProvider":
        return "float32"
    if options.get("trt_fp16_enable") in ("1", "True"):
        return "float16"
    return "tf32" if options.get("use_tf32", "1") != "0" else "float32"


def _judge(
    model: Model,
    manifest: Manifest,
    views: Sequence[np.ndarray],
    expected: Mapping[str, Expected],
    tolerance: Deviation,
) -> Iterator[CaseVerdict]:
    for case, pixels in zip(manifest.cases, views, strict=True):
        found = run_case(model, pixels, case.target, manifest.layers, manifest.methods)
        away = deviation(found, expected[case.name], manifest.map_size)
        top = int(model.metadata.probabilities(found.logits[None])[0].argmax())
        yield CaseVerdict(case.name, away, top == case.top, exceeded(away, tolerance))


def _speed(model: Model, views: Sequence[np.ndarray], manifest: Manifest) -> tuple[float, float]:
    """(median seconds of one image, images per second in batches), forward and backward."""
    layers, target = manifest.layers, np.array([manifest.cases[0].target])
    single = channels_first(views[0][None])
    seconds = [_timed(lambda: model.explain(single, target, layers)) for _ in range(REPEATS * len(views))]
    batch = channels_first(np.stack([views[n % len(views)] for n in range(BATCH)]))
    targets = np.repeat(target, BATCH)
    best = min(_timed(lambda: model.explain(batch, targets, layers)) for _ in range(REPEATS))
    return statistics.median(seconds), BATCH / best


def _timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _numbers(item: Deviation) -> list[str]:
    return [f"{item.logits:.2g}", f"{item.map_l2:.2g}", f"{item.iou_top20:.4f}", f"{item.pearson:.6f}"]


def _outcome(case: CaseVerdict) -> list[str]:
    beyond = f" ({', '.join(case.beyond)})" if case.beyond else ""
    return ["same" if case.same_top else "OTHER", "pass" if case.passed else f"FAIL{beyond}"]


def _providers(found: Verification) -> str:
    """Every provider in use, with the options that decide its precision."""
    return ", ".join(
        name + "".join(f" {option}={options[option]}" for option in PRECISION_OPTIONS if option in options)
        for name, options in found.providers.items()
    )


def _verdict(found: Verification) -> str:
    failed = sum(not case.passed for case in found.cases)
    what = "PASS" if found.passed else "FAIL"
    how_many = f" ({failed} of {len(found.cases)} cases)" if failed else ""
    trust = "" if found.authenticated else ", unauthenticated: no --digest was given, so the bundle vouches for itself"
    return f"verdict: {what}{how_many}{trust}"
