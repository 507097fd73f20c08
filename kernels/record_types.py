"""A metric and a CAM method as records: name, meaning, what follows from it, and where the code is.

Nothing here loads more than the standard library, so command lines and gates can read records. The code of a record
is imported when it is first needed (`MetricRecord.compute`, `MethodRecord.reduce`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from typing import Any, Literal, TypeVar, get_args

from kernels.fingerprints import fingerprint

Kind = Literal["pair", "concentration"]
StableIs = Literal["low", "high", "zero"]
Needs = Literal["overlap", "mass", "variation"]
Paradigm = Literal["gradient", "perturbation", "path", "activation"]
Asks = Literal["pass", "tail", "network"]
Where = Literal["any", "layer", "picture"]
Implementation = str | Callable[..., Any] | None
KINDS: tuple[Kind, ...] = get_args(Kind)
Record = TypeVar("Record", "MetricRecord", "MethodRecord")
PARTS = ("before", "after", "change")  # the columns of a concentration metric


@dataclass(frozen=True)
class MetricRecord:
    """A metric of a pair of maps.

    kind: `pair` compares two maps; `concentration` describes one, reported before, after and as their change
    range: smallest and largest possible value
    stable_is: the side of the range at which nothing drifted; of a concentration, the change is near zero
    needs: `mass`: no empty map; `variation`: no constant one either; `overlap`: not two empty maps, and a
        single empty one scores 0 with the reason VANISHED
    implementation: `module:function` of ours, from PairFacts (pair) or MapFacts (concentration) that meet `needs`; a
        user's function of two maps, or of one, float32 (H, W); None where only the description is known
    least_side, least_pixels: a smaller height or width, or product of both, is TOO_SMALL
    fingerprint: digest of a user's function, in a description of it
    """

    name: str
    kind: Kind
    range: tuple[float, float]
    stable_is: StableIs
    needs: Needs
    definition: str
    source: str
    implementation: Implementation = field(default=None, compare=False, repr=False)
    least_side: int = 1
    least_pixels: int = 1
    fingerprint: str = ""

    @property
    def direction(self) -> int:
        """+1 where a higher value means more stable, -1 where a lower one (or a smaller change) does."""
        return 1 if self.stable_is == "high" else -1

    @property
    def is_overlap(self) -> bool:
        """True where evidence that vanished scores 0."""
        return self.needs == "overlap"

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of its values in `PairScores`."""
        return (self.name,) if self.kind == "pair" else tuple(f"{self.name}_{part}" for part in PARTS)

    @property
    def change(self) -> str | None:
        """The column that holds after - before; None for a pair metric."""
        return f"{self.name}_change" if self.kind == "concentration" else None

    @property
    def absolute_change(self) -> str | None:
        """The column that holds abs(after - before); None for a pair metric."""
        return f"{self.name}_shift" if self.kind == "concentration" else None

    @property
    def stability(self) -> str:
        """The column that has a chance level, a floor and an index: the pair metric itself, or the absolute change."""
        return self.absolute_change or self.name

    def range_of(self, column: str) -> tuple[float, float]:
        """Between what a column of the metric lies; the absolute change is one, too."""
        low, high = map(float, self.range)
        if column == self.absolute_change:
            return 0.0, high - low
        return (low - high, high - low) if column == self.change else (low, high)

    def stable_at(self, column: str) -> StableIs:
        """The side at which a column says that nothing drifted."""
        return "low" if column == self.absolute_change else self.stable_is

    def described(self) -> MetricRecord:
        """The record with the digest of a user's function in its place, since no file can hold the function."""
        return _described(self)

    @cached_property
    def compute(self) -> Callable[[Any], float]:
        """The function of PairFacts or MapFacts; a user's one is checked around each call."""
        if isinstance(self.implementation, str):
            return _imported(self.implementation)
        from kernels.user_functions import checked_metric

        return checked_metric(self)

    def __call__(self, *maps: Any, threads: int = 1) -> tuple[Any, Any]:
        """Values float64 (N,) and reason codes uint8 (N,), for `before, after` or for one batch of maps (N, H, W)."""
        from kernels.scoring import score

        return score(self, maps, threads)

    def fits(self, size: tuple[int, ...]) -> bool:
        """False where maps of `size` = (H, W) are too small."""
        return min(size) >= self.least_side and size[0] * size[1] >= self.least_pixels


@dataclass(frozen=True)
class MethodRecord:
    """An attribution method at one layer: a CAM layer, or the picture itself.

    paradigm: what a map is made of. `gradient`: activations A and gradients G = dY/dA at one point; `path`: gradients
        at several points; `perturbation`: scores Y of changed inputs; `activation`: A alone, so that the map is the
        same for every class
    asks: what it asks of the model. `pass`: A and G of the one pass that serves all such methods; `tail`: further
        passes of what lies behind the layer; `network`: further passes of the whole network with changed pictures
    cost: the further passes per map, in words; empty for `pass`
    where: at CAM layers (`layer`), at the picture (`picture`), or at both
    implementation: for `pass`, `module:function` of ours, reduce(A (C, P), G (C, P), M (P,)), P = h w, which writes M
        before relu and returns the share of singular weights; a user's function of A and G, float32 (C, h, w), that
        returns M (h, w); None where only the description is known. Else `module:class` of ours, a
        `kernels.several_passes.Attribution`
    hides: a gradient that is not finite may leave no trace in M, so that gradients are checked beforehand
    conditioning: `module:function` of A (C, P) and G (C, P): the share of the weight that comes from small
        denominators (`kernels.cam.conditioning`); None where the method divides by nothing of the kind
    fingerprint: digest of a user's function, in a description of it
    """

    name: str
    equation: str
    source: str
    implementation: Implementation = field(default=None, compare=False, repr=False)
    hides: bool = False
    conditioning: str | None = field(default=None, compare=False, repr=False)
    paradigm: Paradigm = "gradient"
    fingerprint: str = ""
    asks: Asks = "pass"
    cost: str = ""
    where: Where = "any"

    @property
    def takes_passes(self) -> bool:
        """True where a map costs further passes: such a method is computed on a sample of the images."""
        return self.asks != "pass"

    def applies_to(self, picture: bool) -> bool:
        """Whether there is a map of it at the picture itself, or (False) at a CAM layer."""
        return self.where == "any" or (self.where == "picture") == picture

    @cached_property
    def is_users(self) -> bool:
        """True where `reduce` takes (C, h, w) and not (C, P)."""
        return not isinstance(self.implementation, str)

    def described(self) -> MethodRecord:
        """The record with the digest of a user's function in its place."""
        return _described(self)

    @cached_property
    def measure_conditioning(self) -> Callable[[Any, Any], float]:
        """The function of `conditioning`; only where there is one."""
        assert self.conditioning is not None
        return _imported(self.conditioning)

    @cached_property
    def reduce(self) -> Callable[[Any, Any, Any], float]:
        """Writes M before relu, (h, w), from A and G (C, h, w) of one image; returns the share of singular weights."""
        assert not self.takes_passes
        if isinstance(self.implementation, str):
            return _imported(self.implementation)
        from kernels.user_functions import checked_method

        return checked_method(self)

    @cached_property
    def attribution(self) -> Callable[..., Any]:
        """The class of a method that takes further passes (`kernels.several_passes`)."""
        assert self.takes_passes
        assert isinstance(self.implementation, str)
        return _imported(self.implementation)


def _described(record: Record) -> Record:
    if not callable(record.implementation):
        return record
    return replace(record, implementation=None, fingerprint=fingerprint(record.implementation))


def _imported(implementation: str) -> Callable[..., Any]:
    """The function that `module:function` names."""
    module, _, name = implementation.partition(":")
    return getattr(import_module(module), name)
