"""`docs/study/README.md` from `docs/study/numbers.json`: no measured number of the page is typed by hand."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import jinja2

from scripts.study import claims, tables

PAGE, NUMBERS = "README.md", "numbers.json"
WIDTH = 120
VERBATIM = ("|", "#", "<", "!", "```")  # how tables, headings, comments, pictures and code begin
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
    environment.globals |= {"tables": tables, "claims": claims}
    text = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(**numbers)
    return "\n\n".join(_filled(block) for block in text.strip().split("\n\n")) + "\n"


def _filled(block: str) -> str:
    """A paragraph or list, its lines filled again; anything else as it is."""
    if block.lstrip().startswith(VERBATIM):
        return block.strip("\n")
    points = re.split(r"\n(?=- )", block.strip())
    indent = "  " if points[0].startswith("- ") else ""
    return "\n".join(
        textwrap.fill(
            " ".join(point.split()), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        for point in points
    )
