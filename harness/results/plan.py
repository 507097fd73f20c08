"""`plan.json`: what a result folder is a result of, so that it can be resumed, and computed again without a model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from harness.common.errors import InputError, first_line
from harness.common.formatting import one_line
from harness.common.storage import Address, Location, as_location, home_folder, read_at_most, relative_path
from harness.images.dataset import Sample
from harness.images.regions import RegionFiles
from harness.models.metadata import Graph, GraphMetadata
from harness.results.file_names import MOST_BYTES, PLAN, STATISTICS
from harness.results.options import Options, Selection
from harness.results.part_files import Store, parts_of
from harness.results.vocabulary import Vocabulary, current
from harness.statistics.chance import COMPARISONS, SAMPLE

Kind = Literal["drift", "since-first", "since-previous", "replicates"]
RESERVED = ("all", "each-class", "worst-class")  # scopes, which no class may be called
FORMAT = 2
MOST_IMAGES = 10**9
PATHS = "of the folder"  # how files are named; plans without it are relative to the working folder of their run


@dataclass(frozen=True)
class Checkpoint:
    """A graph and its place in the plan. `key` is its short name, unique in the plan."""

    key: str
    graph: Graph
    architecture: str
    replicate: int = 0

    @property
    def phase(self) -> str:
        return self.graph.metadata.phase


@dataclass(frozen=True)
class Pair:
    """Two checkpoints that are compared, before and after by their keys.

    kind: `drift` from one phase to the next; `since-first` and `since-previous` along a training; `replicates`: two
    trainings of one phase, which is not drift but its floor
    """

    name: str
    before: str
    after: str
    kind: Kind
    architecture: str
    replicate: int = 0


LayerMethod = tuple[str, str]  # the path of a map: its layer and its method


@dataclass(frozen=True)
class Data:
    """Where the images are."""

    source: Location
    root: Location | None = None
    split: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)  # what a manifest calls its columns, where otherwise
    regions: RegionFiles = field(default_factory=RegionFiles)
    labels: Location | None = None  # a table that names the classes of a folder's images


@dataclass(frozen=True)
class Plan:
    """Everything that decides the numbers of an evaluation, but for the images' contents.

    vocabulary: the metrics that are computed and the methods that there are, by default all that are registered
    nulls: graphs that know nothing, whose maps are compared with those after
    """

    checkpoints: tuple[Checkpoint, ...]
    pairs: tuple[Pair, ...]
    data: Data
    options: Options
    layers: tuple[str, ...] = field(default=())
    vocabulary: Vocabulary = field(default_factory=current)
    nulls: tuple[Location, ...] = field(default=())

    @property
    def by_key(self) -> dict[str, Checkpoint]:
        return {checkpoint.key: checkpoint for checkpoint in self.checkpoints}

    def number_of(self, key: str) -> int:
        """Index of a checkpoint."""
        return [checkpoint.key for checkpoint in self.checkpoints].index(key)

    def sides(self, pair: Pair) -> tuple[int, int]:
        """Indices of the checkpoints before and after."""
        return self.number_of(pair.before), self.number_of(pair.after)

    @property
    def layer_methods(self) -> list[LayerMethod]:
        """Whose maps are compared: every method at every layer."""
        return [(layer, method) for layer in self.layers for method in self.options.methods]

    @property
    def drifts(self) -> tuple[Pair, ...]:
        """The pairs that tell drift; the others are floors."""
        return tuple(pair for pair in self.pairs if pair.kind != "replicates")

    @property
    def classes(self) -> list[str]:
        return self.checkpoints[0].graph.metadata.classes

    @property
    def methods_of_several_passes(self) -> tuple[str, ...]:
        """Those of its methods that are computed on a sample of the images."""
        return tuple(name for name in self.options.methods if self.vocabulary.method(name).takes_passes)

    @property
    def score_kind(self) -> str:
        return self.checkpoints[0].graph.metadata.score_kind


@dataclass(frozen=True)
class StoredPlan:
    """A plan with what is known once its data have been read and its first model has been opened."""

    plan: Plan
    select: Selection
    data_digest: str
    images: int
    jitter_seed: int  # with which the noise of the maps was drawn; the plan's seed is that of everything else
    provider: str
    provider_options: dict[str, Any]
    began: str = ""  # when its first picture was about to be explained, UTC; "" where an earlier version wrote it

    def details(self, folder: Location) -> dict[str, Any]:
        """What is needed to go on from the maps alone; `folder` is where it will be written."""
        data = self.plan.data
        return {
            "paths": PATHS,
            "checkpoints": [
                {
                    "key": checkpoint.key,
                    "architecture": checkpoint.architecture,
                    "replicate": checkpoint.replicate,
                    "file": stored_path(folder, checkpoint.graph.path),
                    "digest": checkpoint.graph.digest,
                    "metadata": checkpoint.graph.metadata.model_dump(mode="json"),
                }
                for checkpoint in self.plan.checkpoints
            ],
            "data": {
                "source": stored_path(folder, data.source),
                "root": data.root and stored_path(folder, data.root),
                "split": data.split,
                **regions_details(folder, data.regions),
            },
            "images": self.images,
            "jitter_seed": self.jitter_seed,
            "provider_options": self.provider_options,
            "began": self.began,
        }

    @property
    def _without_effect(self) -> set[str]:
        """Options that decide no number of this plan."""
        return {"causal"} if self.plan.methods_of_several_passes else {"causal", "sample"}

    def statistics(self) -> dict[str, Any]:
        """What the scores depend on, beside the maps."""
        plan = self.plan
        return {
            "pairs": [asdict(pair) for pair in plan.pairs],
            "layers": list(plan.layers),
            "options": {
                **plan.options.model_dump(exclude=self._without_effect),
                "layers": None,
                "select": None,
                **plan.vocabulary.describe(plan.options.methods),
            },
            "selection": self.select,
            "chance_sample": SAMPLE,  # at most so many records have a chance level
            "chance_comparisons": COMPARISONS,  # by budget
        }


def regions_details(folder: Location, files: RegionFiles) -> dict[str, Any]:
    """Where masks and boxes are, if any were given; `folder` is where it will be written."""
    masks = {name: stored_path(folder, where) for name, where in files.masks.items()}
    found = {"masks": masks, "boxes": None if files.boxes is None else stored_path(folder, files.boxes)}
    return found if files else {}


def identity_of(stored: StoredPlan) -> dict[str, Any]:
    """What must be the same for a run to be continued: everything that decides a number."""
    plan = stored.plan
    return {
        "format": FORMAT,
        "models": {checkpoint.key: checkpoint.graph.digest for checkpoint in plan.checkpoints},
        **stored.statistics(),
        "data_digest": stored.data_digest,
        "provider": stored.provider,
    }


def read_stored(folder: Location) -> dict[str, Any]:
    """The content of `plan.json`.

    :raises InputError: there is none, or it is of another format.
    """
    path = folder / PLAN
    try:
        content = json.loads(read_at_most(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{folder}: holds no evaluation; give the folder that `evaluate --out` wrote")
    if content.get("format") == FORMAT and "jitter_seed" not in content:
        raise InputError(f"{path}: was written by an earlier version; evaluate anew")
    if content.get("format") != FORMAT:
        raise InputError(f"{path}: format {content.get('format')} is not known here (known: {FORMAT}); evaluate anew")
    return content


def read_scored(folder: Location) -> dict[str, Any]:
    """As `read_stored`, with what `scores/` were computed for: after `--from` in place that is not all of the plan.

    :raises InputError: as `read_stored`, or there are no scores yet.
    """
    try:
        statistics = json.loads(read_at_most(folder / STATISTICS, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{folder}: holds no scores; finish the evaluation with --resume first") from None
    return {**read_stored(folder), **statistics}


def restore(content: dict[str, Any], folder: Location) -> tuple[StoredPlan, list[Sample]]:
    """The plan and the images of a result folder, from its own files.

    :raises InputError: the plan cannot be, or parts of the predictions or maps are missing.
    """
    try:
        stored = _stored(content, folder)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:  # what a changed file leads to
        what = f"{type(error).__name__}: {one_line(first_line(error))}"
        raise InputError(
            f"{folder / PLAN}: describes no evaluation that there can be ({what}); evaluate anew"
        ) from error
    return stored, _samples(folder, stored.plan, stored.images)


def _stored(content: dict[str, Any], folder: Location) -> StoredPlan:
    """The plan in the content of `plan.json`; raises what wrong keys and values lead to."""
    locate = partial(_located, folder) if content.get("paths") == PATHS else as_location
    checkpoints = tuple(_checkpoint(item, locate) for item in content["checkpoints"])
    options = dict(content["options"])
    vocabulary = _vocabulary(options, folder)
    options.pop("registered", None)
    data = content["data"]
    boxes = data.get("boxes")
    regions = RegionFiles(
        {name: locate(path) for name, path in data.get("masks", {}).items()}, locate(boxes) if boxes else None
    )
    root = locate(data["root"]) if data["root"] else None
    where = Data(locate(data["source"]), root, data["split"], regions=regions)
    pairs = tuple(Pair(**pair) for pair in content["pairs"])
    made = Options.stored(**{**options, "layers": ()})
    for name in made.methods:
        vocabulary.method(name)  # raises where nobody knows it
    plan = Plan(checkpoints, pairs, where, made, tuple(content["layers"]), vocabulary)
    known = ("data_digest", "images", "jitter_seed", "provider", "provider_options")
    stored = StoredPlan(plan, content["selection"], **{name: content[name] for name in known})
    stored = replace(stored, began=str(content.get("began", "")))
    _require_consistent(stored)
    return stored


def _require_consistent(stored: StoredPlan) -> None:
    """Refuse what no evaluation has written; raises ValueError with the first of it."""
    plan, keys = stored.plan, [checkpoint.key for checkpoint in stored.plan.checkpoints]
    replicates = [item.replicate for item in plan.checkpoints] + [item.replicate for item in plan.pairs]
    numbers = (stored.images, stored.jitter_seed, *replicates)
    texts = (
        *plan.layers,
        stored.provider,
        stored.data_digest,
        *keys,
        *(item.architecture for item in plan.checkpoints),
    )
    texts += tuple(text for pair in plan.pairs for text in (pair.name, pair.architecture, pair.kind))
    for holds, what in (
        (all(type(number) is int and number >= 0 for number in numbers), "a number that is none"),
        (type(stored.images) is not int or 0 < stored.images <= MOST_IMAGES, f"{stored.images} images"),
        (all(isinstance(text, str) for text in texts), "a name that is no text"),
        (isinstance(stored.provider_options, dict), "options of the provider that are no table"),
        (bool(plan.pairs and plan.layers) and len(set(keys)) == len(keys), "no pair, no layer, or a checkpoint twice"),
        (all(key in keys for pair in plan.pairs for key in (pair.before, pair.after)), "a pair of unknown checkpoints"),
        (all(pair.kind in get_args(Kind) for pair in plan.pairs), "a pair of an unknown kind"),
        (stored.select in get_args(Selection), f"the selection {stored.select!r}"),
    ):
        if not holds:
            raise ValueError(what)


def _vocabulary(options: dict[str, Any], folder: Location) -> Vocabulary:
    try:
        return Vocabulary.restored(options)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder / PLAN}: describes no metrics that there can be ({error}); evaluate anew") from error


def _checkpoint(item: dict[str, Any], locate: Callable[[str], Location]) -> Checkpoint:
    metadata = GraphMetadata.model_validate(item["metadata"])
    graph = Graph(locate(item["file"]), metadata, item["digest"])
    return Checkpoint(item["key"], graph, item["architecture"], item["replicate"])


def stored_path(folder: Location, path: Location) -> str:
    """How the plan in a result folder names a file: without a user's name, and so that it is found from anywhere.

    An address stays. A file in the user's home folder becomes `~/...`, which also holds when the result folder is
    moved; any other is relative to the result folder, or absolute where that is an address.
    """
    if isinstance(path, Address):
        return str(path)
    whole, home = Path(os.path.abspath(path)), home_folder()  # noqa: PTH100 (`resolve` would follow links)
    if home is not None and whole.is_relative_to(home):
        return (Path("~") / whole.relative_to(home)).as_posix()
    return str(whole) if isinstance(folder, Address) else relative_path(Path(os.path.abspath(folder)), whole).as_posix()  # noqa: PTH100


def _located(folder: Location, stored: str) -> Location:
    """The file that `stored_path` named."""
    path = as_location(stored)
    if isinstance(path, Address):
        return path
    home = home_folder()
    joined = folder / (home / path.relative_to("~") if home is not None and path.parts[:1] == ("~",) else path)
    if isinstance(joined, Address):
        return joined
    short = Path(os.path.normpath(joined))
    return short if short.resolve() == joined.resolve() else joined  # `..` behind a link leads elsewhere


def _samples(source: Location, plan: Plan, images: int) -> list[Sample]:
    folder, first = Store(source), parts_of(0, images)
    for kind in ("predictions", "maps"):
        if not all(folder.has(kind, part) for n in range(len(plan.checkpoints)) for part in parts_of(n, images)):
            raise InputError(f"{source}: its {kind} are not complete; finish the evaluation with --resume first")
    rows = folder.read("predictions", first, ["image", "group", "labels"]).to_pylist()
    if any(row["image"] is None or row["group"] is None for row in rows):
        raise InputError(f"{source}: its predictions name no image or no group somewhere; evaluate anew")
    root = plan.data.root or (plan.data.source if plan.data.source.is_dir() else plan.data.source.parent)
    index = {name: number for number, name in enumerate(plan.classes)}
    return [
        Sample(
            row["image"],
            root / row["image"],
            None if row["labels"] is None else tuple(index[label] for label in row["labels"]),
            row["group"],
        )
        for row in rows
    ]
