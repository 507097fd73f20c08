"""A finished evaluation in Python: its numbers as rows and tables, its scores and maps as Arrow."""

from __future__ import annotations

import shutil
import weakref
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.storage import Location, as_location
from harness.results.schema import Evaluation

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Result:
    """The numbers of an evaluation (`evaluation`, the content of `evaluation.json`) and the folder that holds the rest.

    In a notebook it shows itself: the verdict and the table of the report.
    """

    evaluation: Evaluation
    folder: Location
    temporary: Path | None = field(default=None, repr=False, compare=False)  # removed when the result is gone

    def __post_init__(self) -> None:
        if self.temporary is not None:
            weakref.finalize(self, shutil.rmtree, self.temporary, ignore_errors=True)

    @classmethod
    def read(cls, folder: Any) -> Result:
        """The result in a folder that an evaluation wrote. Raises InputError where there is none."""
        where = as_location(folder)
        return cls(Evaluation.read(where), where)

    def summary(self) -> pa.Table:
        """Tidy rows: one per pair, layer, method, metric and scope, with mean, interval, references and index."""
        import pyarrow as pa

        from harness.report.tidy import summary_rows

        return pa.Table.from_pylist(summary_rows(self.evaluation))

    def scores(self, **equal: Any) -> pa.Table:
        """One row per image, pair, layer, method, reference and metric; `equal` selects, as in metric="iou_top20"."""
        return self._parts("scores", equal)

    def maps(self, **equal: Any) -> pa.Table:
        """One row per image, checkpoint, layer, method and draw of the jitter: the raw map, row by row in `map`."""
        return self._parts("maps", equal)

    def predictions(self, **equal: Any) -> pa.Table:
        """One row per image and checkpoint: its logits, or why it could not be read."""
        return self._parts("predictions", equal)

    def to_csv(self) -> str:
        """The rows of `summary` as CSV."""
        from harness.report.tidy import as_csv

        return as_csv(self.evaluation)

    def to_latex(self) -> str:
        """The paper's table, one line per pair, layer and method, for LaTeX with the package booktabs."""
        from harness.report.tidy import as_latex

        return as_latex(self.evaluation)

    def _parts(self, kind: str, equal: dict[str, Any]) -> pa.Table:
        from harness.results.part_files import Store

        return Store(self.folder).read_all(kind, **equal)

    @cached_property
    def _html(self) -> str:
        from harness.report.notebook import fragment

        return fragment(self.evaluation)

    def _repr_html_(self) -> str:
        return self._html
