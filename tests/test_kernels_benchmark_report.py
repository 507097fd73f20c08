"""The table of ratios: computed from a benchmark run, and put where the README marks its place."""

from __future__ import annotations

import click
import pytest

from benchmarks.report import kernel_table, replace_section


def entry(group: str, contender: str, seconds: float, items: int = 1) -> dict:
    information = {"contender": contender, "items": items, "wanted": 4}
    return {"group": group, "stats": {"min": seconds}, "extra_info": information}


def test_ratio_is_to_the_fastest_rival_and_times_are_per_item() -> None:
    entries = [
        entry("ssim", "ours", 0.004, items=8),
        entry("ssim", "slow", 0.4, items=8),
        entry("ssim", "fast", 0.02, items=8),
    ]
    table = kernel_table({"benchmarks": entries, "machine_info": {"cpu": {"brand_raw": "A CPU"}}})
    cells = [cell.strip() for cell in table.splitlines()[2].strip("|").split("|")]
    assert cells == ["ssim", "0.500", "fast", "2.500", "5.0", "4"]
    assert "A CPU" in table


def test_section_is_replaced_and_the_rest_kept() -> None:
    text = "before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n"
    once = replace_section(text, "speed", "new")
    assert once == "before\n<!-- speed -->\n\nnew\n\n<!-- /speed -->\nafter\n"
    assert replace_section(once, "speed", "new") == once


@pytest.mark.parametrize("text", ["", "<!-- speed -->", "<!-- speed --><!-- /speed --><!-- speed -->"])
def test_file_without_its_place_is_refused(text: str) -> None:
    with pytest.raises(click.ClickException, match="needs the lines <!-- speed --> and <!-- /speed -->, once each"):
        replace_section(text, "speed", "new")
