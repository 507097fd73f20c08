"""`harness pack`: a model with golden cases, and tolerances that were measured, not guessed.

The cases are spread over the classes; in each class they are taken in turn from the images that the model is surest
of and from those whose maps move most when a pixel does, since these break first.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnxruntime as ort

from harness.bundle import format as bundles
from harness.bundle.format import (
    BundleFile,
    Deviation,
    Expected,
    ExpectedFile,
    GoldenCase,
    Manifest,
    Precision,
    Spread,
)
from harness.bundle.golden import Explained, as_expected, deviation, run_case, worse
from harness.bundle.rounding import rounded
from harness.common.errors import CannotEvaluateError, InputError, warn
from harness.common.progress import Counter, Progress, silent
from harness.common.provenance import file_digest, versions
from harness.common.storage import Location, write_whole
from harness.images.codestreams import without_comments, without_text_chunks
from harness.images.containers import MAX_PIXELS, orientation_of
from harness.images.dataset import Sample
from harness.images.jitter import jittered, shift_of
from harness.images.loading import DICOM_SUFFIXES, SUFFIXES, is_dicom
from harness.images.notices import Notices, ignore
from harness.models.metadata import read_graph_file, require_applicable
from harness.models.providers import LEVELS, PROVIDERS
from harness.models.session import Model
from kernels.catalogue import METRICS
from kernels.reasons import Reason
from kernels.resize import upsample

CANDIDATES = 200  # images that are looked at to choose cases from
SURVIVES = 0.5  # soft IoU with the map under weights in float16, from which an image may be a golden case
SAFETY = 8.0  # a tolerance is that many times the spread that was measured, and at least FLOOR
FLOOR = Deviation(logits=1e-3, map_l2=1e-3, iou_top20=0.98, pearson=0.9999)


@dataclass(frozen=True)
class PackOptions:
    """What to pack."""

    cases: int = 12
    methods: tuple[str, ...] = ("layercam", "gradcam++")
    layers: tuple[str, ...] = ()
    map_size: tuple[int, int] = (224, 224)
    seed: int = 0
    keep_identifiers: bool = False
    max_pixels: float = MAX_PIXELS  # larger pictures are left out


@dataclass(frozen=True)
class _Candidate:
    sample: Sample
    top: int  # the predicted class, which is explained
    sureness: float
    steadiness: float  # soft IoU of the map and that of the picture moved by a pixel
    is_robust: bool  # every map survives weights rounded to float16

    @property
    def label(self) -> int:
        """The true class, or the predicted one of an image without."""
        return self.sample.labels[0] if self.sample.labels else self.top


def pack(path: Path, samples: Sequence[Sample], options: PackOptions, out: Path, progress: Progress = silent) -> str:
    """Write a bundle and return the sha256 of its manifest.

    :raises InputError: `out` is not empty, or a file cannot be used.
    :raises CannotEvaluateError: no image has a defined map.
    """
    _require_empty(out)
    content = read_graph_file(path)
    model = Model.load(path, content)
    named = [model.graph.layer(name).label for name in options.layers]
    layers = list(dict.fromkeys(named)) or list(model.graph.layers)[:1]
    options = replace(options, layers=tuple(layers), methods=tuple(dict.fromkeys(options.methods)))
    require_applicable([model.graph.layers[label] for label in layers], options.methods)
    coarse = Model.load(path, rounded(content, "float16"))
    chosen = _choose((model, coarse), samples, options, layers[0], progress)
    with _abandoned_on_failure(out):
        return _write(model, content, chosen, options, out, progress)


@contextmanager
def _abandoned_on_failure(out: Path) -> Iterator[None]:
    """Leave no half bundle behind, which the next attempt would refuse to overwrite."""
    try:
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _write(
    model: Model, content: bytes, chosen: Sequence[_Candidate], options: PackOptions, out: Path, progress: Progress
) -> str:
    """Write the files of the bundle, the manifest last; returns its sha256."""
    out.mkdir(parents=True, exist_ok=True)
    (out / bundles.IMAGES).mkdir()
    (out / bundles.MODEL).write_bytes(content)
    cases = [_write_case(number, candidate, out, options) for number, candidate in enumerate(chosen)]
    views = [model.view(out / case.image, max_pixels=options.max_pixels, notice=ignore).pixels for case in cases]
    expected = _expected(model, cases, views, options)
    write_whole(out / bundles.EXPECTED, ExpectedFile(cases=expected).model_dump_json())
    spreads = list(_measure(model.graph.path, content, cases, views, expected, options, progress))
    manifest = Manifest(
        format=bundles.FORMAT,
        classes=model.metadata.classes,
        layers=list(options.layers),
        methods=list(options.methods),
        map_size=options.map_size,
        image_rule=model.metadata.image_rule,
        cases=cases,
        tolerances=tolerances(spreads),
        spreads=spreads,
        versions=versions(),
        files=[_listed(out, file) for file in sorted(out.rglob("*")) if file.is_file()],
    )
    write_whole(out / bundles.MANIFEST, manifest.model_dump_json(indent=1))
    return file_digest(out / bundles.MANIFEST)


def tolerances(spreads: Sequence[Spread]) -> dict[Precision, Deviation]:
    """Per precision: SAFETY times the worst spread, and no tighter than FLOOR. A lower precision includes a higher."""
    found: dict[Precision, Deviation] = {}
    worst = Deviation(logits=0, map_l2=0, iou_top20=1, pearson=1)
    for precision in bundles.PRECISIONS:
        for spread in spreads:
            worst = worse(worst, spread.deviation) if spread.precision == precision else worst
        widened = Deviation(
            logits=SAFETY * worst.logits,
            map_l2=SAFETY * worst.map_l2,
            iou_top20=max(1 - SAFETY * (1 - worst.iou_top20), 0.0),
            pearson=max(1 - SAFETY * (1 - worst.pearson), -1.0),
        )
        found[precision] = worse(widened, FLOOR)
    return found


def _require_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out}: exists and is not an empty folder; give another with --out")


def _choose(
    models: tuple[Model, Model], samples: Sequence[Sample], options: PackOptions, layer: str, progress: Progress
) -> list[_Candidate]:
    """In turn over classes; within a class the surest image, then the least steady, and so on.

    Images that lose a map under weights in float16 are no golden cases: no tolerance could hold them.
    """
    order = np.random.default_rng(options.seed).permutation(len(samples))[:CANDIDATES]
    done = Counter(progress, "choose images", len(order))
    seen, notices = [], Notices()
    for index in np.sort(order):
        seen.append(_look_at(models, samples[index], layer, options, notices))
        done.add()
    notices.warn(len(order), warn)
    usable = [candidate for candidate in seen if candidate is not None]
    if not usable:
        raise CannotEvaluateError("no image has a defined, non-empty map of its predicted class; nothing to pack")
    found: dict[int, list[_Candidate]] = {}
    for candidate in [item for item in usable if item.is_robust] or usable:
        found.setdefault(candidate.label, []).append(candidate)
    queues = [_in_turn(candidates) for _, candidates in sorted(found.items())]
    chosen: list[_Candidate] = []
    while queues and len(chosen) < options.cases:
        for queue in list(queues):
            following = next(queue, None)
            if following is None:
                queues.remove(queue)
            elif len(chosen) < options.cases:
                chosen.append(following)
    return chosen


def _in_turn(candidates: Sequence[_Candidate]) -> Iterator[_Candidate]:
    sure = sorted(candidates, key=lambda item: -item.sureness)
    shaky = sorted(candidates, key=lambda item: item.steadiness)
    given: set[str] = set()
    for pair in zip(sure, shaky, strict=True):
        for item in pair:
            if item.sample.name not in given:
                given.add(item.sample.name)
                yield item


def _look_at(
    models: tuple[Model, Model], sample: Sample, layer: str, options: PackOptions, notices: Notices
) -> _Candidate | None:
    """The image with what the choice goes by, or None where it cannot be read or has no map to compare."""
    model, coarse = models
    try:
        view = model.view(sample.path, max_pixels=options.max_pixels, notice=notices.of(sample.name))
    except InputError as error:
        warn(f"left out: {error}")
        return None
    pixels = view.pixels
    logits = run_case(model, pixels, -1, [layer], options.methods).logits
    probabilities = model.metadata.probabilities(logits[None])[0]
    top = int(probabilities.argmax())
    still, moved = (
        run_case(model, picture, top, [layer], options.methods)
        for picture in (pixels, jittered(pixels, sample.name, 1, options.seed, view.geometry.inside))
    )
    if any(reason != Reason.DEFINED or not raw.any() for raw, reason in still.maps.values()):
        return None
    down, right = shift_of(1)
    steadiness = _likeness(still, moved, options, (down / pixels.shape[0], right / pixels.shape[1])).mean()
    survives = _likeness(still, run_case(coarse, pixels, top, [layer], options.methods), options) >= SURVIVES
    return _Candidate(sample, top, float(probabilities[top]), float(steadiness), bool(survives.all()))


def _likeness(
    still: Explained, other: Explained, options: PackOptions, shift: tuple[float, float] = (0.0, 0.0)
) -> np.ndarray:
    """Soft IoU of each map with that of another run, moved back; 0 where it is undefined."""
    values = [
        METRICS["soft_iou"](
            upsample(raw[None], options.map_size), upsample(other.maps[place][0][None], options.map_size, shift=shift)
        )[0][0]
        for place, (raw, _) in still.maps.items()
    ]
    return np.nan_to_num(np.array(values))


def _write_case(number: int, candidate: _Candidate, out: Path, options: PackOptions) -> GoldenCase:
    """Copy the file under a name that says nothing, without the identifiers that it carries beside its pixels."""
    name = f"case-{number:03d}"
    source = candidate.sample.path
    content = source.read_bytes()
    image = f"{bundles.IMAGES}/{name}{_suffix(source.suffix.lower(), content)}"
    if not options.keep_identifiers:
        content = _without_identifiers(source, content)
    (out / image).write_bytes(content)
    return GoldenCase(name=name, image=image, target=candidate.top, top=candidate.top)


def _without_identifiers(path: Location, content: bytes) -> bytes:
    """A DICOM file as its picture alone, JPEG and PNG files without comments; other files as they are."""
    try:
        if is_dicom(content):
            from harness.images.deidentify import pixels_only

            return pixels_only(content)
        if content.startswith(b"\xff\xd8"):
            return without_comments(content, orientation_of(content))
        return without_text_chunks(content, orientation_of(content)) if content.startswith(b"\x89PNG") else content
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _suffix(given: str, content: bytes) -> str:
    """Of the kind of file: what stands behind the last dot of a DICOM file's name may be part of a name."""
    if is_dicom(content):
        return DICOM_SUFFIXES[0]
    return given if given in SUFFIXES else ""


def _expected(
    model: Model, cases: Sequence[GoldenCase], views: Sequence[np.ndarray], options: PackOptions
) -> dict[str, Expected]:
    return {
        case.name: as_expected(run_case(model, pixels, case.target, options.layers, options.methods))
        for case, pixels in zip(cases, views, strict=True)
    }


def _measure(
    path: Location,
    content: bytes,
    cases: Sequence[GoldenCase],
    views: Sequence[np.ndarray],
    expected: Mapping[str, Expected],
    options: PackOptions,
    progress: Progress,
) -> Iterator[Spread]:
    """How far every variant of running the model here is from the expected values."""
    variants = list(_variants(path, content))
    done = Counter(progress, "measure variants", len(variants))
    for name, precision, load in variants:
        model = load()
        worst = Deviation(logits=0, map_l2=0, iou_top20=1, pearson=1)
        for case, pixels in zip(cases, views, strict=True):
            layers = list(dict.fromkeys(item.layer for item in expected[case.name].maps))
            found = run_case(model, pixels, case.target, layers, options.methods)
            worst = worse(worst, deviation(found, expected[case.name], options.map_size))
        done.add()
        yield Spread(variant=name, precision=precision, deviation=worst)


def _variants(path: Location, content: bytes) -> Iterator[tuple[str, Precision, Callable[[], Model]]]:
    """Optimisation levels, threads, providers that are here, and weights rounded to lower precision."""
    for level in LEVELS:
        for threads in (1, 2):
            name = f"cpu, {level}, {threads} thread{'s' * (threads > 1)}"
            yield name, "float32", partial(Model.load, path, content, "cpu", threads, level)
    for provider, full_name in PROVIDERS.items():
        if provider != "cpu" and full_name in ort.get_available_providers() and _works(path, content, provider):
            yield provider, "float32", partial(Model.load, path, content, provider)
    precisions: tuple[Precision, ...] = ("tf32", "float16")
    for precision in precisions:
        yield f"cpu, weights as {precision}", precision, partial(Model.load, path, rounded(content, precision))


def _works(path: Location, content: bytes, provider: str) -> bool:
    """A provider may be built in, but lack its driver or libraries."""
    try:
        Model.load(path, content, provider)
    except CannotEvaluateError:
        return False
    return True


def _listed(out: Path, file: Path) -> BundleFile:
    return BundleFile(path=file.relative_to(out).as_posix(), sha256=file_digest(file), size=file.stat().st_size)
