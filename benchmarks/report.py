"""From a run of pytest-benchmark to a Markdown table of ratios."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import click
from tabulate import tabulate

OURS = "ours"
HEADERS = ("kernel", "ours, ms", "best rival", "its ms", "times faster", "wanted")


def run(path: str) -> dict[str, Any]:
    """Run the benchmarks of `path` in one process; its JSON result."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", "pytest", path, f"--benchmark-json={result}", "--benchmark-quiet"]
        root = Path(__file__).parent.parent
        finished = subprocess.run(command, cwd=root, stdout=sys.stderr, check=False)
        if finished.returncode:
            raise click.ClickException("the benchmarks failed; see the output above")
        return json.loads(result.read_text())


def kernel_table(result: dict[str, Any]) -> str:
    """One row per kernel: the fastest round of ours and of the fastest rival, per item, and their ratio."""
    groups: dict[str, dict[str, Any]] = defaultdict(dict)
    for entry in result["benchmarks"]:
        groups[entry["group"]][entry["extra_info"]["contender"]] = entry
    rows = [_row(name, contenders) for name, contenders in groups.items()]
    machine = result["machine_info"]["cpu"].get("brand_raw", "an unnamed CPU")
    note = f"CPU time on {machine}, one thread (for two: wall time), fastest round of one run, per map, pair or set."
    return f"{tabulate(rows, HEADERS, 'pipe', disable_numparse=True, colalign=_ALIGN)}\n\n{note}"


_ALIGN = ("left", "right", "left", "right", "right", "right")


def _row(name: str, contenders: dict[str, Any]) -> tuple[str, ...]:
    per_item = {who: 1e3 * e["stats"]["min"] / e["extra_info"]["items"] for who, e in contenders.items()}
    ours = per_item.pop(OURS)
    rival = min(per_item, key=lambda who: per_item[who])
    wanted = contenders[OURS]["extra_info"]["wanted"]
    return name, f"{ours:.3f}", rival, f"{per_item[rival]:.3f}", f"{per_item[rival] / ours:.1f}", f"{wanted}"


def replace_section(text: str, name: str, content: str) -> str:
    """`text` with what stands between `<!-- name -->` and `<!-- /name -->` replaced by `content`."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise click.ClickException(f"the file needs the lines {start} and {end}, once each, around the table")
    before, rest = text.split(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.split(end)[1]}"
