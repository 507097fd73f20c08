"""The null ladder as rows, for terminal, Markdown and page."""

from __future__ import annotations

from harness.common.formatting import digits
from harness.report.summaries import with_span
from harness.results.schema import Evaluation

HEADERS = ["null", "pair", "layer", "method", "overlap", "other patients", "rank", "other patients", "entropy", "blind"]
NOTE = (
    "null ladder: overlap (iou_top20) and rank correlation of the maps after with those of a network that knows "
    "nothing, beside those of two different patients of a class. A method is blind where the null is not shown to be "
    "farther away"
)


def rows(result: Evaluation) -> list[list[str]]:
    """One per null, pair, layer and method."""
    return [
        [
            item.name, item.pair, item.layer, item.method, with_span(item.similarity, 2), with_span(item.others, 2),
            with_span(item.rank, 2), with_span(item.others_rank, 2), digits(item.entropy),
            {True: "blind", False: "no", None: "not judged"}[item.blind],
        ]
        for item in result.nulls
    ]  # fmt: skip
