"""`evaluation.json`: the result that table, report, gate and pictures read.

Undefined numbers are null, with a reason. The JSON Schema beside this file is generated from it.
"""

from __future__ import annotations

import json
import math
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from harness.common.errors import InputError
from harness.common.storage import Location, read_at_most, write_whole
from harness.common.validation import first_problem
from harness.models.metadata import GraphMetadata
from harness.results.contradictions import first_contradiction
from harness.results.file_names import RESULT
from harness.results.vocabulary import Vocabulary
from harness.statistics.causal import Verdict
from kernels.record_types import Kind as MetricKind
from kernels.record_types import MethodRecord, MetricRecord, Needs, StableIs

FORMAT: Literal[1] = 1
ALL = "all"  # the scope of every image, beside one scope per class
MOST_BYTES = 128 * 2**20  # of a result: 400 pairs of 5 classes, 2 methods and 1 layer; reading them took 1.2 GB
SCHEMA = Path(__file__).parent / "evaluation.schema.json"


def finite_or_none(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Number = Annotated[float | None, BeforeValidator(finite_or_none)]


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", from_attributes=True, allow_inf_nan=False)


class Estimate(_Record):
    """A mean over images (or another statistic of them) with its 95 % patient-bootstrap interval."""

    mean: Number
    low: Number
    high: Number
    reason: str | None = None  # why there is no interval, or no mean


class IndexResult(_Record):
    """Stability index (observed - chance) / (floor - chance), and the three means on its `n` images.

    sampled: the number of images that were drawn for chance and floor, None where all that are compared were
    """

    value: Number
    low: Number
    high: Number
    reason: str | None
    n: int
    n_patients: int
    observed: Number
    chance: Number
    floor: Number
    sampled: int | None = None


class MetricSummary(_Record):
    """One metric of one method and layer over the selected images of one scope (`all`, or a class).

    intervals: of q05, median and q95, for metrics that have a floor, from 20 patients on
    vanished_rate: share of the compared images whose evidence vanished, for overlap metrics
    chance, floor, index: None where the metric has none (the concentration of one map has none; its shift has)
    """

    layer: str
    method: str
    scope: str
    metric: str
    stable_is: StableIs
    n: int
    n_patients: int
    undefined: dict[str, int]  # reason -> images
    vanished: int
    estimate: Estimate
    sd: Number
    q05: Number
    q25: Number
    median: Number
    q75: Number
    q95: Number
    intervals: dict[Literal["q05", "median", "q95"], tuple[float, float]] = {}
    vanished_rate: Estimate | None = None
    chance: Estimate | None = None
    floor: Estimate | None = None
    index: IndexResult | None = None


class Consistency(_Record):
    """How alike a checkpoint's maps of one class are from image to image (`kernels.pairwise.consistency`)."""

    layer: str
    method: str
    scope: str
    value: Number
    reason: str | None
    n: int


class Conditioning(_Record):
    """Share of the weight of a method that comes from denominators below 1 (`kernels.cam.conditioning`), by images.

    n: the images of which it is known; q95: the share that 95 % of them do not exceed
    """

    layer: str
    method: str
    mean: float
    median: float
    q95: float
    n: int


class Completeness(_Record):
    """How far the sums of a path method's maps are from the difference of scores that they should be, as a share.

    n: maps; the share is infinite, and so null, where the score does not change along the path
    """

    layer: str
    method: str
    median: Number
    q95: Number
    n: int


class CheckpointResult(_Record):
    """A checkpoint: which file, what it says about itself, and how well it classifies.

    conditioning: of the methods that divide by small numbers, where their denominators are known
    completeness: of path methods
    """

    key: str
    file: str
    digest: str
    architecture: str
    phase: str
    replicate: int
    metadata: GraphMetadata
    quality: dict[str, Estimate]  # accuracy, auc, ece
    consistency: list[Consistency]
    conditioning: list[Conditioning] = []
    completeness: list[Completeness] = []


class Equivalence(_Record):
    """Two one-sided tests that a difference lies within +-margin: `equivalent` at 5 %."""

    name: str
    of: str  # which statistic
    difference: Number
    low90: Number
    high90: Number
    margin: float
    p: Number
    equivalent: bool
    reason: str | None


class RegionSummary(_Record):
    """How much of the evidence lies in a region, before and after: shares of a map's mass, 0..1, means over records.

    n: compared records that have the region and a share before and after; without: those that have no such region;
        undefined: those whose map is empty or undefined on a side
    area: share of the map that the region covers, which a map that does not look at the picture has inside
    change: after - before = gained - lost, where gained is the mass that came into the region and lost that which left
    others: share inside of maps after of other patients of the same class; None without draws of chance
    above_area, above_others: after - area and after - others
    """

    region: str
    layer: str
    method: str
    n: int
    n_patients: int
    without: int
    undefined: int
    area: Estimate
    before: Estimate
    after: Estimate
    change: Estimate
    gained: Estimate
    lost: Estimate
    above_area: Estimate
    others: Estimate | None = None
    above_others: Estimate | None = None


class RegionSource(_Record):
    """Where a region comes from; digest: sha256 over its files; images: those of the data set that have it."""

    name: str
    source: str
    digest: str
    images: int


class FlipTable(_Record):
    """Answers against evidence under one layer and method: how many records of each kind there are.

    Of all readable records, or of the sample for which a method of several passes was computed.

    threshold: value of the headline metric beyond which an image counts as moved (`harness.statistics.moved`)
    unknown: records whose maps cannot be compared, or all where there is no noise to compare with
    moved_unseen_rate: share of the moved among the known records with the same answer; of `n_patients` patients
    """

    layer: str
    method: str
    threshold: Number
    same_still: int
    same_moved: int
    flipped_still: int
    flipped_moved: int
    unknown: int
    moved_unseen_rate: Estimate
    n_patients: int


class Flips(_Record):
    """Which answers changed from before to after, over all readable records, compared or not.

    negative, positive: right before and wrong after (Yan et al. 2021, arXiv 2011.09161), and the other way round; None
    without labels. negative_flip_rate: share of `n`
    """

    n: int
    n_patients: int
    flipped: int
    negative: int | None
    positive: int | None
    negative_flip_rate: Estimate | None
    tables: list[FlipTable]


class PairResult(_Record):
    """Two checkpoints, and how far the evidence moved from one to the other.

    flips: None in results of earlier versions; regions: where masks or boxes were given
    """

    name: str
    before: str
    after: str
    kind: Literal["drift", "since-first", "since-previous"]
    architecture: str
    replicate: int
    selected: int  # records compared: an image and a class
    selected_patients: int
    floor: Literal["jitter", "replicate"] | None
    agreement: Estimate
    change: dict[str, Estimate]  # after - before of accuracy, auc, ece
    equivalence: list[Equivalence]
    metrics: list[MetricSummary]
    flips: Flips | None = None
    regions: list[RegionSummary] = []


class CausalScope(_Record):
    """Whether the evidence that moved is used, over the images of one scope; see `harness.statistics.causal`.

    n: images that were occluded, of so many patients
    moved: share of the compared images whose drift exceeds that of noise
    used: double difference, in standard deviations of the margin within a class, as all that follows
    blur, mean: by each of the fills
    elsewhere, partner: the same with the regions elsewhere in the picture, and with those of another image of the class
    contrast: used - elsewhere
    kept, kept_contrast: change of what evidence that stayed weighs, and minus that elsewhere
    p_used, p_kept: of both the mean and its contrast, adjusted by Holm for pairs, layers, methods and classes; the
        tests over all images are a family of their own
    """

    scope: str
    n: int
    n_patients: int
    moved: Estimate
    used: Estimate
    elsewhere: Estimate
    partner: Estimate
    contrast: Estimate
    blur: Estimate
    mean: Estimate
    kept: Estimate
    kept_contrast: Estimate
    p_used: Number
    p_kept: Number
    verdict: Verdict


class CausalResult(_Record):
    """The causal check of one pair, layer and method; passes: of both checkpoints, shared by layers and methods."""

    pair: str
    layer: str
    method: str
    passes: int
    scopes: list[CausalScope]


class NullResult(_Record):
    """Maps after against those of a network that knows nothing, and against those of other patients.

    null, digest, phase: the null's file, its sha256, and what its metadata say it is
    similarity, rank: iou_top20 and Spearman's correlation of the maps after and those of the null
    others, others_rank: the same of two different patients of a class, within the checkpoint after
    margin: others - similarity; blind: where its interval does not lie above 0; None below 20 patients
    entropy: mean change of the entropy of the maps, from after to the null, as a share
    """

    null: str
    digest: str
    phase: str
    pair: str
    layer: str
    method: str
    n: int
    similarity: Estimate
    others: Estimate
    margin: Estimate
    rank: Estimate
    others_rank: Estimate
    entropy: Number
    blind: bool | None

    @property
    def name(self) -> str:
        """The null's file, without its folders."""
        return PurePosixPath(self.null).name


class Difference(_Record):
    """Mean difference of two cells (architecture, method); see `harness.statistics.rankings.Difference`."""

    first: tuple[str, str]
    second: tuple[str, str]
    value: Number
    low: Number
    high: Number
    p: Number
    p_holm: Number
    n: int
    n_patients: int
    reason: str | None


class Order(_Record):
    """Architectures from the most to the least stable, and the share of draws in this order."""

    architectures: list[str]
    probability: float


class Ranking(_Record):
    """Architectures by stability under one method; see `harness.statistics.rankings.Ranking`."""

    method: str
    architectures: list[str]
    means: list[Number]
    orders: list[Order]
    most_stable: dict[str, Number]
    n: int
    n_patients: int
    reason: str | None


class Reversal(_Record):
    """Two architectures that may change places between two methods; see `harness.statistics.rankings.Reversal`."""

    architectures: tuple[str, str]
    methods: tuple[str, str]
    first: Number
    second: Number
    called: bool
    probability: Number
    n: int
    n_patients: int
    reason: str | None


class Interaction(_Record):
    """Share of the variation that is architecture x method; see `harness.statistics.rankings.Interaction`."""

    value: Number
    low: Number
    high: Number
    n: int
    n_patients: int
    reason: str | None


class ComparisonResult(_Record):
    """Architectures and methods against each other by one metric at one layer, in one scope."""

    layer: str
    scope: str
    metric: str
    differences: list[Difference]
    rankings: list[Ranking]
    reversals: list[Reversal]
    interaction: Interaction | None


class StudyResult(_Record):
    """The study level: comparisons on the images that every pair selects, and who classifies equally well."""

    selected: int
    selected_patients: int
    resampled: list[str]  # architectures whose replicates are resampled; others are conditional on their checkpoints
    comparisons: list[ComparisonResult]
    convergence: list[Equivalence]


class RegisteredMetric(_Record):
    """A metric that is none of ours, so that others can judge and show it (`kernels.record_types.MetricRecord`)."""

    name: str
    kind: MetricKind
    range: tuple[float, float]
    stable_is: StableIs
    needs: Needs
    definition: str
    source: str


class RegisteredMethod(_Record):
    """A CAM method that is none of ours (`kernels.record_types.MethodRecord`)."""

    name: str
    equation: str
    source: str


class Evaluation(_Record):
    """Everything that an evaluation found.

    registered_metrics, registered_methods: those that are none of ours; not written where there are none
    majority: share of the most frequent class among the images, None for several labels per image or for none
    regions: where the masks and boxes came from
    jitter_draws, chance_draws: those that were asked for, None where the reference is estimated by budget;
    reference_budget: most images on which it is; not written where none is
    causal: the causal check, where it was asked for
    nulls: the null ladder, where nulls were given
    sample: at most so many records, as many of each class, have maps of methods that take several passes; None where
        there is no such method
    """

    format: Literal[1] = FORMAT
    command: list[str]
    data: str
    root: str | None
    split: str | None
    data_digest: str
    images: int
    patients: int
    unreadable: dict[str, str]  # image -> what is wrong with it
    classes: list[str]
    selection: str
    methods: list[str]
    registered_metrics: list[RegisteredMetric] = []
    registered_methods: list[RegisteredMethod] = []
    layers: list[str]
    map_size: tuple[int, int]
    seed: int
    resamples: int
    jitter_draws: int | None
    jitter_seed: int
    chance_draws: int | None
    reference_budget: int | None = None
    margin: float
    majority: Number = None
    regions: list[RegionSource] = []
    sample: int | None = None
    checkpoints: list[CheckpointResult]
    pairs: list[PairResult]
    causal: list[CausalResult] = []
    nulls: list[NullResult] = []
    study: StudyResult | None = None
    environment: dict[str, Any]
    seconds: dict[str, float]

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The metrics and methods that the result may name."""
        return Vocabulary.with_registered(
            [MetricRecord(**item.model_dump()) for item in self.registered_metrics],
            [MethodRecord(**item.model_dump()) for item in self.registered_methods],
        )

    @model_validator(mode="after")
    def _check_registered(self) -> Evaluation:
        _ = self.vocabulary
        return self

    @model_serializer(mode="wrap")
    def _without_empty(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        rare = ("registered_metrics", "registered_methods", "reference_budget")
        left_out = [name for name in rare if not getattr(self, name)]
        return {name: value for name, value in dump(self).items() if name not in left_out}

    @property
    def references(self) -> str:
        """How chance and floor were drawn, in words."""
        draws = [("jitter", self.jitter_draws), ("chance", self.chance_draws)]
        asked = [f"{name} {number}" for name, number in draws if number is not None]
        budget = [] if self.reference_budget is None else [f"by budget of {self.reference_budget} images"]
        return ", ".join([*asked, *budget])

    @property
    def by_key(self) -> dict[str, CheckpointResult]:
        """The checkpoints by their keys."""
        return {checkpoint.key: checkpoint for checkpoint in self.checkpoints}

    def write(self, folder: Location) -> Location:
        """Write `evaluation.json`, whole or not at all."""
        write_whole(folder / RESULT, self.model_dump_json(indent=1))
        return folder / RESULT

    @classmethod
    def read(cls, path: Location) -> Evaluation:
        """Read a result folder or file; raises InputError where it is none of format 1, or contradicts itself."""
        return cls.parse(read_result(path), result_file(path))

    @classmethod
    def parse(cls, content: bytes, file: Location) -> Evaluation:
        """`read` for bytes that have been read already; `file` names them in messages."""
        try:
            result = cls.model_validate_json(content)
        except ValidationError as error:
            raise InputError(f"{file}: {_unknown_format(error) or _not_ours(error)}") from error
        contradiction = first_contradiction(result)
        if contradiction:
            raise InputError(f"{file}: contradicts itself ({contradiction}); evaluate anew")
        return result


def result_file(path: Location) -> Location:
    """`evaluation.json` of a result folder, or the file itself."""
    return path / RESULT if path.is_dir() else path


def read_result(path: Location) -> bytes:
    """The bytes of a result folder's or file's JSON; raises InputError where they cannot be read or are too many."""
    file = result_file(path)
    try:
        return read_at_most(file, MOST_BYTES)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); run `python -m harness evaluate`") from None


def _unknown_format(error: ValidationError) -> str | None:
    """What is wrong where the file says that it is of another format."""
    found = [item["input"] for item in error.errors() if item["loc"] == ("format",)]
    if not found or not isinstance(found[0], int):
        return None
    later = (
        " was written by a later version: update this program" if found[0] > FORMAT else " is not known: evaluate anew"
    )
    return f"format {found[0]}{later} (known: {FORMAT})"


def _not_ours(error: ValidationError) -> str:
    return f"not an evaluation of format {FORMAT} ({first_problem(error)})"


def schema() -> str:
    """The JSON Schema of `evaluation.json`."""
    return json.dumps(Evaluation.model_json_schema(), indent=1) + "\n"
