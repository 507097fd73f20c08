"""What is compared with what: the plan of an evaluation, from the command line or a study TOML.

A plan lists checkpoints, each of which sees every image once, and pairs of them. One pair on the command line is
the smallest study.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from harness.common.errors import InputError
from harness.common.storage import Address, Location, as_location, require_plain_file
from harness.common.validation import complaint
from harness.images.columns import require_roles
from harness.images.regions import RegionFiles
from harness.models.metadata import Graph, common_layers, require_applicable, require_comparable
from harness.results.options import Options
from harness.results.plan import RESERVED, Checkpoint, Data, Kind, Pair, Plan


def _named(value: Any) -> Location:
    if isinstance(value, (str, Path, Address)):
        return as_location(value)
    raise ValueError("give a path or an address as text")


Named = Annotated[Location, PlainValidator(_named)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ArchitectureConfig(_Config):
    """One architecture of a study: its phases before and after, or its checkpoints along a training."""

    name: str | None = None
    before: Named | list[Named] | None = None
    after: Named | list[Named] | None = None
    checkpoints: list[Named] | None = None

    @model_validator(mode="after")
    def _one_or_the_other(self) -> ArchitectureConfig:
        if any(value == [] for value in (self.before, self.after)):
            raise ValueError("`before` and `after` take one file or more, not an empty list")
        pair = self.before is not None and self.after is not None
        if pair == (self.checkpoints is not None) or (self.before is None) != (self.after is None):
            raise ValueError("give `before` and `after`, or `checkpoints`")
        if self.checkpoints is not None and len(self.checkpoints) < 2:
            raise ValueError("`checkpoints` needs two files or more, in the order of the training")
        if len(_listed(self.before)) not in (0, 1, len(_listed(self.after))):
            raise ValueError("`before` takes one file, or as many as `after` (its replicates)")
        return self


class StudyConfig(Options):
    """A study TOML: the options of an evaluation, data and architectures. Paths are relative to the file; a place may
    also be an address (`s3://...`).
    """

    data: Named
    root: Named | None = None
    split: str | None = None
    columns: dict[str, str] = Field(default={})
    masks: dict[str, Named] = Field(default={})
    boxes: Named | None = None
    labels: Named | None = None
    architecture: list[ArchitectureConfig] = Field(min_length=1)

    @property
    def options(self) -> Options:
        """The options alone."""
        return Options.of(**{name: getattr(self, name) for name in Options.model_fields})


def read_study(path: Location) -> Plan:
    """The plan of a study TOML.

    :raises InputError: the file cannot be read, has an unknown key or a wrong value, or its graphs do not fit together.
    """
    config = _read_config(path)
    here = path.parent
    try:
        options = config.options
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    root = here / config.root if config.root else None
    masks = {name: here / folder for name, folder in config.masks.items()}
    regions = RegionFiles(masks, here / config.boxes if config.boxes else None)
    columns, labels = _known_columns(config.columns, path), here / config.labels if config.labels else None
    data = Data(here / config.data, root, config.split, columns, regions, labels)
    return make_plan([_anchored(item, here) for item in config.architecture], data, options)


def make_plan(architectures: Sequence[ArchitectureConfig], data: Data, options: Options) -> Plan:
    """Read the graphs' metadata and lay out checkpoints and pairs.

    :raises InputError: a file that is no exported graph, graphs that cannot be compared, a layer that one has not.
    """
    graphs: dict[Location, Graph] = {}
    for path in (path for item in architectures for path in _files(item)):
        graphs.setdefault(path.resolve(), Graph.read(path))
    for item in architectures:
        _require_each_once(_listed(item.before) if len(_listed(item.before)) > 1 else [])
        _require_each_once(_listed(item.after) + _listed(item.checkpoints))
    for item in architectures:
        _require_different([graphs[path.resolve()] for path in _listed(item.after)])
    names = [item.name or graphs[_files(item)[0].resolve()].metadata.architecture for item in architectures]
    _require_unique(names)
    checkpoints: dict[Location, Checkpoint] = {}
    pairs: list[Pair] = []
    for name, item in zip(names, architectures, strict=True):
        own = _checkpoints_of(item, name, graphs, several=len(architectures) > 1)
        checkpoints |= {path: checkpoint for path, checkpoint in own.items() if path not in checkpoints}
        pairs += _pairs_of(item, name, {path: checkpoints[path].key for path in own})
    _require_unique([checkpoint.key for checkpoint in checkpoints.values()])
    found = tuple(checkpoints.values())
    _require_one_vocabulary(found, pairs)
    layers = common_layers([checkpoint.graph for checkpoint in found], options.layers)
    require_applicable([found[0].graph.layer(label) for label in layers], options.methods)
    if options.maps == "graph":
        _ = [c.graph.map_of(layer, method) for c in found for layer in layers for method in options.methods]
    return Plan(found, tuple(pairs), data, options, tuple(layers))


def _read_config(path: Location) -> StudyConfig:
    try:
        require_plain_file(path)
        return StudyConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a study TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a TOML file ({error})") from error
    except ValidationError as error:
        tables = {"architecture": ArchitectureConfig}
        raise InputError(f"{path}: {complaint(error, StudyConfig, tables)}") from error


def _known_columns(asked: dict[str, str], path: Location) -> dict[str, str]:
    try:
        return require_roles(asked)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _anchored(item: ArchitectureConfig, here: Location) -> ArchitectureConfig:
    moved: dict[str, Any] = {
        name: [here / path for path in _listed(getattr(item, name))] or None
        for name in ("before", "after", "checkpoints")
    }
    return item.model_copy(update=moved)


def _listed(value: Location | list[Location] | None) -> list[Location]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _files(item: ArchitectureConfig) -> list[Location]:
    return _listed(item.before) + _listed(item.after) + _listed(item.checkpoints)


def _checkpoints_of(
    item: ArchitectureConfig, architecture: str, graphs: dict[Location, Graph], several: bool
) -> dict[Location, Checkpoint]:
    """Resolved path -> checkpoint. Keys are file names, with what it takes to tell them apart."""
    files = {path.resolve(): path for path in _files(item)}
    replicates = {
        path.resolve(): place
        for paths in (_listed(item.before), _listed(item.after))
        for place, path in enumerate(paths)
    }
    same_name = Counter(path.stem for path in files)
    found = {}
    for number, path in enumerate(files):
        stem = path.stem if same_name[path.stem] == 1 else f"{path.parent.name}/{path.stem}#{number + 1}"
        key = f"{architecture}/{stem}" if several else stem
        found[path] = Checkpoint(key, graphs[path], architecture, replicates.get(path, 0))
    return found


def _pairs_of(item: ArchitectureConfig, architecture: str, keys: dict[Location, str]) -> list[Pair]:
    if item.checkpoints is not None:
        return _along(architecture, [keys[path.resolve()] for path in item.checkpoints])
    after = [keys[path.resolve()] for path in _listed(item.after)]
    before = [keys[path.resolve()] for path in _listed(item.before)]
    before = before * len(after) if len(before) == 1 else before
    drifts = [
        _pair(architecture, one, other, "drift", replicate)
        for replicate, (one, other) in enumerate(zip(before, after, strict=True))
    ]
    return drifts + [_pair(architecture, one, other, "replicates") for one, other in combinations(after, 2)]


def _along(architecture: str, keys: Sequence[str]) -> list[Pair]:
    """Every checkpoint against the first, and against the one before it (once, where that is the first)."""
    first = [_pair(architecture, keys[0], key, "since-first") for key in keys[1:]]
    return first + [_pair(architecture, one, other, "since-previous") for one, other in pairwise(keys[1:])]


def _pair(architecture: str, before: str, after: str, kind: Kind, replicate: int = 0) -> Pair:
    return Pair(f"{before} -> {after}", before, after, kind, architecture, replicate)


def _require_unique(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise InputError(
            f"{twice[0]!r} stands for two architectures or checkpoints; give each [[architecture]] a `name`"
        )


def _require_each_once(files: Sequence[Location]) -> None:
    """A file is neither a replicate of itself nor a later checkpoint of its own training."""
    twice = [path for path, count in Counter(path.resolve() for path in files).items() if count > 1]
    if twice:
        raise InputError(f"{twice[0]}: stands twice in a list of replicates or checkpoints; name each file once")


def _require_different(replicates: Sequence[Graph]) -> None:
    """A copy of a file is no second training."""
    seen: dict[str, Location] = {}
    for graph in replicates:
        if graph.digest in seen:
            raise InputError(f"{graph.path}: is a copy of {seen[graph.digest]}; replicates are trainings of their own")
        seen[graph.digest] = graph.path


def _require_one_vocabulary(checkpoints: Sequence[Checkpoint], pairs: Sequence[Pair]) -> None:
    taken = [name for name in checkpoints[0].graph.metadata.classes if name in RESERVED]
    if taken:
        path = checkpoints[0].graph.path
        raise InputError(
            f"{path}: a class is called {taken[0]!r}, which means something else here; export with --classes"
        )
    by_key = {checkpoint.key: checkpoint.graph for checkpoint in checkpoints}
    for checkpoint in checkpoints[1:]:
        require_comparable(checkpoints[0].graph, checkpoint.graph, across_networks=True)
    for pair in pairs:
        require_comparable(by_key[pair.before], by_key[pair.after])
