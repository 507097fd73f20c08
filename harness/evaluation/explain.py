"""Every image through every checkpoint: predictions and raw maps; and maps of images with noise.

Decoding, the calls of ONNX Runtime and the CAM kernels overlap, each ahead of the next by a batch or two. The result of
an image does not depend on its neighbours, on the batch size or on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from threading import Semaphore

import numpy as np
import pyarrow as pa

from harness.common.errors import CannotEvaluateError, InputError
from harness.common.progress import Advance
from harness.evaluation.prefetch import prefetch
from harness.images.containers import MAX_PIXELS
from harness.images.dataset import UNLABELLED, Records, Sample
from harness.images.jitter import jittered
from harness.images.loading import load_view
from harness.images.rule import ImageRule
from harness.images.view import View, channels_first
from harness.models.attribution import Further, explain_further, reduce
from harness.models.session import Explanation, Model
from harness.results import part_files
from harness.results.options import Options, Selection
from harness.results.pseudonyms import without_home
from harness.results.references import Noise
from harness.results.vocabulary import BUILT_IN, Vocabulary
from kernels.catalogue import of_several_passes


@dataclass(frozen=True)
class Batching:
    """How the work is cut up. On the CPU it changes no number.

    batch: images per call; None: 4 on the CPU (fewer with more than 16 threads), on an accelerator what is
        fastest there (`best_batch`)
    """

    batch: int | None = None
    threads: int = 1
    strict: bool = False  # stop at the first unreadable image
    max_pixels: float = MAX_PIXELS  # larger pictures are not read


@dataclass(frozen=True)
class Request:
    """What is collected of every image, by the labels of CAM layers; what will be computed from it later."""

    layers: Sequence[str]
    options: Options
    select: Selection
    vocabulary: Vocabulary = BUILT_IN


@dataclass(frozen=True)
class Block:
    """Some images and their records; `records` are places in the list of all records."""

    samples: Sequence[Sample]
    images: np.ndarray  # (r,) image of each record, counted within the block
    classes: np.ndarray  # (r,) class to explain, UNLABELLED for the predicted one
    records: np.ndarray  # (r,)
    sampled: np.ndarray  # (r,) bool: those for which methods of several passes are computed
    draws: np.ndarray | None = None  # (r,) of the noise, counted from 1; None: the images themselves
    unreadable: Mapping[int, str] = field(default_factory=dict)  # images known as such, by their place, and why


@dataclass
class _Step:
    """What one ONNX Runtime call works on: decoded images, with their noise, and the class to explain in each."""

    images: np.ndarray  # (n,) image within the block
    rows: np.ndarray  # (n,) record within the block, -1 where nothing is explained
    samples: Sequence[Sample]  # (n,)
    views: np.ndarray  # (n, H, W), or (n, H, W, 3) of colours
    targets: np.ndarray  # (n,)


@dataclass(frozen=True)
class Explained:
    """Of one block: predictions as a table, none of noisy copies; maps as row groups."""

    predictions: pa.Table | None
    maps: list[pa.Table]


@dataclass(frozen=True)
class _Gathered:
    """What has been found of a block so far.

    logits (n, outputs): NaN where an image has none yet; classes (r,): the explained ones, as they become known
    errors, notices: by the place of the image; maps: by layer, method and draw, one entry per call
    """

    block: Block
    logits: np.ndarray
    classes: np.ndarray
    errors: dict[int, str] = field(default_factory=dict)
    notices: dict[int, list[str]] = field(default_factory=dict)
    maps: dict[tuple[str, str, int], list[tuple[np.ndarray, ...]]] = field(default_factory=dict)

    @classmethod
    def of(cls, block: Block, model: Model) -> _Gathered:
        return cls(block, np.full((len(block.samples), _outputs(model)), np.nan, np.float32), block.classes.copy())


@dataclass(frozen=True)
class _Piece:
    """The images of a block that one call works on, as (image, record) pairs of each; and whether it is the last."""

    gathered: _Gathered
    rows: Sequence[list[tuple[int, int]]]
    is_last: bool


@dataclass(frozen=True)
class _Loaded:
    """A piece that was decoded, and why some of its images, by their place, could not be."""

    piece: _Piece
    step: _Step
    wrong: dict[int, InputError]


@dataclass(frozen=True)
class _Look:
    """How a checkpoint looks at a picture: by which rule, at which size (H, W)."""

    rule: ImageRule
    size: tuple[int, int]


@dataclass(frozen=True)
class _Answer:
    """What a call of the model returns, and what further passes found for the sampled ones of its rows."""

    explanation: Explanation
    rows: np.ndarray
    further: Further


@dataclass(frozen=True)
class _Found:
    """Logits (n, K) of a call, and by layer, method and draw (rows, maps, reasons, conditioning, residuals)."""

    logits: np.ndarray
    maps: dict[tuple[str, str, int], tuple[np.ndarray, ...]]


def blocks(
    samples: Sequence[Sample], records: Records, sampled: np.ndarray, unreadable: Mapping[str, str]
) -> list[Block]:
    """The images cut into parts, with their records.

    :param sampled: (R,) bool, records for which methods of several passes are computed.
    :param unreadable: image -> why, of those that need not be tried: an earlier checkpoint could not read them.
    """
    found = []
    for start in range(0, len(samples), part_files.BLOCK):
        stop = min(start + part_files.BLOCK, len(samples))
        rows = records.within(start, stop)
        places = np.arange(rows.start, rows.stop)
        some = samples[start:stop]
        known = {n: unreadable[sample.name] for n, sample in enumerate(some) if sample.name in unreadable}
        found.append(
            Block(some, records.images[rows] - start, records.classes[rows], places, sampled[rows], unreadable=known)
        )
    return found


def noise_blocks(samples: Sequence[Sample], records: Records, sampled: np.ndarray, noise: Noise) -> list[Block]:
    """The images that a checkpoint sees with noise, in the parts of `blocks`; a record once per draw."""
    found = []
    for start in range(0, len(samples), part_files.BLOCK):
        rows = records.within(start, start + part_files.BLOCK)
        mine = noise.within(rows.start, rows.stop)
        repeated = np.repeat(mine.records, mine.draws.shape[1])
        images, places = np.unique(records.images[repeated], return_inverse=True)
        some = [samples[image] for image in images]
        found.append(Block(some, places, records.classes[repeated], repeated, sampled[repeated], mine.draws.ravel()))
    return found


def explain_blocks(
    key: str, model: Model, blocks: Iterable[Block], request: Request, batching: Batching, progress: Advance
) -> Iterator[Explained]:
    """What one checkpoint says of some blocks, in their order; one is begun while the last is still worked on.

    :raises InputError: an unreadable image, where `batching.strict`, or a noisy copy of one that could be read before.
    :raises CannotEvaluateError: logits that are not finite.
    """
    look, batch = _Look(model.metadata.rule, model.metadata.input_size), batching.batch or model.batch
    pieces = (piece for block in blocks for piece in _pieces(_Gathered.of(block, model), batch))

    def load(piece: _Piece) -> _Loaded:
        return _load(piece, look, request.options, batching)

    turns = Semaphore(model.calls)

    def explain(loaded: _Loaded) -> tuple[_Loaded, _Found | None]:
        if not len(loaded.step.rows):
            return loaded, None
        with turns:
            answer = _ask(model, loaded, request)
        return loaded, _reduced(loaded, answer, request.options.methods, batching.threads // model.calls)

    workers = max(2, model.calls)  # one calls the model, or all do; the maps of other calls are made meanwhile
    ahead = max(1, min(2 * batching.threads, part_files.BLOCK // batch))  # a block at most
    decoded = prefetch(load, pieces, depth=ahead, threads=batching.threads)
    for loaded, found in prefetch(explain, decoded, depth=workers, threads=workers):
        gathered = loaded.piece.gathered
        _note_unreadable(gathered, loaded.wrong, batching.strict)
        if found is not None:
            _gather(gathered, model, loaded.step, found)
            progress(len(set(loaded.step.samples)))
        if loaded.piece.is_last:
            progress(len(gathered.errors))
            yield _explained(key, model.metadata.classes, gathered)


def _note_unreadable(gathered: _Gathered, wrong: dict[int, InputError], strict: bool) -> None:
    """Refuse here and not while images are decoded, so that the blocks before are written."""
    if wrong and (strict or gathered.block.draws is not None):
        raise next(iter(wrong.values()))
    gathered.errors.update({image: str(error) for image, error in wrong.items()})


def _gather(gathered: _Gathered, model: Model, step: _Step, found: _Found) -> None:
    """Add what a call found to what is known of the block."""
    if gathered.block.draws is None:
        _require_finite(model, step, found.logits)
        gathered.logits[step.images] = found.logits
    unlabelled = step.rows[(step.rows >= 0) & (step.targets == UNLABELLED)]
    if len(unlabelled):
        gathered.classes[unlabelled] = model.metadata.decisions(found.logits).argmax(axis=1)
    for name, maps in found.maps.items():
        gathered.maps.setdefault(name, []).append(maps)


def _explained(key: str, names: Sequence[str], gathered: _Gathered) -> Explained:
    block = replace(gathered.block, classes=gathered.classes)
    maps = [_map_table(key, name, block, names, parts) for name, parts in sorted(gathered.maps.items())]
    predictions = _prediction_table(key, gathered, names) if block.draws is None else None
    return Explained(predictions, maps)


def _require_finite(model: Model, step: _Step, logits: np.ndarray) -> None:
    broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(broken):
        name = step.samples[int(broken[0])].name
        raise CannotEvaluateError(f"{model.graph.path}: its logits for {name!r} are not finite; check the model")


def _outputs(model: Model) -> int:
    return 1 if model.metadata.score_kind == "binary" else len(model.metadata.classes)


def _pieces(gathered: _Gathered, batch: int) -> Iterator[_Piece]:
    """What single calls of the model work on: so many images of a block."""
    rows = _rows(gathered.block)
    each = _images_per_call(gathered.block, batch)
    for start in range(0, max(1, len(rows)), each):  # also a block without images has a last piece
        yield _Piece(gathered, rows[start : start + each], start + each >= len(rows))


def _ask(model: Model, loaded: _Loaded, request: Request) -> _Answer:
    """One call of the model for a batch, and the further passes that methods take for those of it in the sample."""
    block, step = loaded.piece.gathered.block, loaded.step
    methods, pictures = request.options.methods, channels_first(step.views)
    made_by_graph = request.options.maps == "graph"
    found = model.explain(pictures, step.targets, request.layers, methods if made_by_graph else ())
    chosen = np.flatnonzero((step.rows >= 0) & block.sampled[step.rows]) if len(block.sampled) else np.zeros(0, int)
    if made_by_graph or not of_several_passes(methods):
        return _Answer(found, chosen, Further(Explanation(found.logits[chosen], {}), {}))
    decided = model.metadata.decisions(found.logits).argmax(axis=1)
    targets = np.where(step.targets == UNLABELLED, decided, step.targets)
    return _Answer(found, chosen, explain_further(model, found, methods, chosen, pictures, targets))


def _images_per_call(block: Block, batch: int) -> int:
    """Images of which a call holds `batch` pictures: an image has as many as it has draws of the noise."""
    return batch if block.draws is None or not len(block.draws) else max(1, batch // len(np.unique(block.draws)))


def _rows(block: Block) -> list[list[tuple[int, int]]]:
    """Per image its (image, record) pairs, both counted within the block; -1 where an image has no record."""
    found: list[list[tuple[int, int]]] = [[] for _ in block.samples]
    for record, image in enumerate(block.images):
        found[image].append((int(image), record))
    return [pairs or [(image, -1)] for image, pairs in enumerate(found)]


def _load(piece: _Piece, look: _Look, options: Options, batching: Batching) -> _Loaded:
    """The decoded images of a piece, with their noise, and what is wrong with those that cannot be read.

    What else is to be said about an image is put into `notices`; no two pieces have the same image.
    """
    block, views, wrong = piece.gathered.block, dict[int, View](), dict[int, InputError]()
    for image, _ in (pairs[0] for pairs in piece.rows):
        try:
            views[image] = _decoded(block, image, look, batching, piece.gathered.notices.setdefault(image, []))
        except InputError as error:
            wrong[image] = error
    kept = [pair for pairs in piece.rows for pair in pairs if pair[0] in views]
    images, rows = (np.array([pair[side] for pair in kept], np.int64) for side in (0, 1))
    targets = np.array([block.classes[record] if record >= 0 else UNLABELLED for record in rows], np.int64)
    samples = [block.samples[image] for image in images]
    pictures = [_with_noise(block, views[image], image, record, options.seed) for image, record in kept]
    stacked = np.stack(pictures) if kept else np.zeros((0, *look.size), np.float32)
    return _Loaded(piece, _Step(images, rows, samples, stacked, targets), wrong)


def _with_noise(block: Block, view: View, image: int, record: int, seed: int) -> np.ndarray:
    """The view of a record, with its noise, which is made where images are decoded so that nothing waits for it."""
    if block.draws is None:
        return view.pixels
    draw = int(block.draws[record])
    return jittered(view.pixels, block.samples[image].name, draw, seed, view.geometry.inside)


def _decoded(block: Block, image: int, look: _Look, batching: Batching, kinds: list[str]) -> View:
    if image in block.unreadable:
        raise InputError(block.unreadable[image])
    return load_view(
        block.samples[image].path,
        look.rule,
        look.size,
        max_pixels=batching.max_pixels,
        notice=lambda notice: kinds.append(notice.kind),
    )


def _reduced(loaded: _Loaded, answer: _Answer, methods: Sequence[str], threads: int) -> _Found:
    """The maps that layers and gradients make, of the rows that are explained.

    Draw 0: no noise. A method of several passes has no more than the sampled rows.
    """
    block, step = loaded.piece.gathered.block, loaded.step
    kept = step.rows >= 0
    rows, every = step.rows[kept], slice(None) if kept.all() else kept  # a slice copies nothing
    unknown = np.full(len(rows), np.nan)
    named = _image(block, block.images[rows])
    made = {
        key: (rows, *maps, unknown) for key, maps in reduce(answer.explanation, methods, every, threads, named).items()
    }
    for key, maps in reduce(answer.further.explanation, methods).items():
        made[key] = (step.rows[answer.rows], *maps, answer.further.residuals[key])
    if block.draws is None:
        return _Found(answer.explanation.logits, {(*key, 0): parts for key, parts in made.items()})
    by_draw = {
        (*key, draw): tuple(part[draws == draw] for part in parts)
        for key, parts in made.items()
        for draws in [block.draws[parts[0]]]
        for draw in np.unique(draws).tolist()
    }
    return _Found(answer.explanation.logits, by_draw)


def _image(block: Block, images: np.ndarray) -> Callable[[int], str]:
    """What some images of a block are called in messages."""
    return lambda index: f"image {block.samples[int(images[index])].name!r}"


def _prediction_table(key: str, gathered: _Gathered, names: Sequence[str]) -> pa.Table:
    samples, errors, notices = gathered.block.samples, gathered.errors, gathered.notices
    count = len(samples)
    logits = [None if n in errors else row for n, row in enumerate(gathered.logits)]
    labels = [None if sample.labels is None else [names[label] for label in sample.labels] for sample in samples]
    columns = {
        "checkpoint": part_files.text(key, count),
        "image": part_files.coded(np.arange(count), [sample.name for sample in samples]),
        "group": part_files.coded(np.arange(count), [sample.group for sample in samples]),
        "labels": pa.array(labels, pa.list_(pa.string())),
        "logits": pa.array(logits, pa.list_(pa.float32())),
        "error": pa.array([without_home(errors[n]) if n in errors else None for n in range(count)], pa.string()),
        "notices": pa.array([notices.get(n, []) for n in range(count)], pa.list_(pa.string())),
    }
    return pa.table(columns, schema=part_files.SCHEMAS["predictions"])


def _map_table(
    key: str,
    name: tuple[str, str, int],
    block: Block,
    classes: Sequence[str],
    parts: Sequence[tuple[np.ndarray, ...]],
) -> pa.Table:
    layer, method, draw = name
    rows, maps, codes, conditioning, residuals = (np.concatenate(part) for part in zip(*parts, strict=True))
    count, height, width = maps.shape
    offsets = np.arange(count + 1, dtype=np.int32) * (height * width)
    columns = {
        "checkpoint": part_files.text(key, count),
        "layer": part_files.text(layer, count),
        "method": part_files.text(method, count),
        "draw": np.full(count, draw, np.int32),
        "record": block.records[rows].astype(np.int32),
        "image": part_files.coded(block.images[rows], [sample.name for sample in block.samples]),
        "class": part_files.coded(block.classes[rows], list(classes)),
        "reason": part_files.reasons(codes),
        "height": np.full(count, height, np.int32),
        "width": np.full(count, width, np.int32),
        "map": pa.ListArray.from_arrays(offsets, pa.array(maps.ravel())),
        "conditioning": pa.array(conditioning, pa.float32(), from_pandas=True),  # NaN becomes null
        "residual": pa.array(residuals, pa.float32(), from_pandas=True),
    }
    return pa.table(columns, schema=part_files.SCHEMAS["maps"])
