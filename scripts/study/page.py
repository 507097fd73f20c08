"""`docs/study/README.md` from `docs/study/numbers.json`: no number of the page is typed by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from tabulate import tabulate

PAGE, NUMBERS = "README.md", "numbers.json"
TEMPLATE = Path(__file__).parent / "page.md.jinja"
DASH = "-"
HEADS = {
    "centroid_shift": "displacement",
    "zone_overlap": "zones kept",
    "iou_top20": "IoU top 20",
    "pearson": "correlation",
    "gini_change": "Gini change",
}


def render(numbers: dict[str, Any]) -> str:
    """The page; a name that the template uses and the numbers lack is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {"f": number, "span": spanned, "pct": percent, "p": probability}
    environment.globals |= {"table": table, "drift_table": drift_table}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**numbers)


def number(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals, a dash for null."""
    return DASH if value is None else f"{value:.{digits}f}"


def spanned(found: dict[str, Any], digits: int = 3) -> str:
    """`mean (low .. high)`; the mean alone where there is no interval."""
    if found["low"] is None:
        return number(found["mean"], digits)
    return f"{number(found['mean'], digits)} ({number(found['low'], digits)} .. {number(found['high'], digits)})"


def percent(value: float | None) -> str:
    """A share as a whole percentage."""
    return DASH if value is None else f"{100 * value:.0f} %"


def probability(value: float | None) -> str:
    """A p value; below one in a thousand it is only said to be."""
    return DASH if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table of texts."""
    return tabulate([list(row) for row in rows], list(headers), tablefmt="github", disable_numparse=True)


def drift_table(rows: Sequence[dict[str, Any]]) -> str:
    """The paper's table: architecture, method, and what fine-tuning did to the maps."""
    cells = [
        [row["architecture"], row["method"], *(spanned(row[metric]) for metric in HEADS), counts(row["n"])]
        for row in rows
    ]
    return table(["architecture", "method", *HEADS.values(), "images"], cells)


def counts(values: Sequence[int]) -> str:
    """How many images, per replicate."""
    return ", ".join(map(str, dict.fromkeys(values)))
