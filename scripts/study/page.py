"""`docs/study/README.md` from `docs/study/numbers.json`: no measured number of the page is typed by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from scripts.study import tables

PAGE, NUMBERS = "README.md", "numbers.json"
TEMPLATE = Path(__file__).parent / "page.md.jinja"


def render(numbers: dict[str, Any]) -> str:
    """The page; a name that the template uses and the numbers lack is an error."""
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "f": tables.number,
        "span": tables.spanned,
        "pct": tables.percent,
        "p": tables.probability,
    }
    environment.globals["tables"] = tables
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**numbers)
