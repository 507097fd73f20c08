"""The bars on stderr: what they count, and none for a step that has nothing to do."""

from __future__ import annotations

import pytest

from harness.api.progress import Bars, shown


@pytest.mark.parametrize(
    ("step", "unit"), [("explain images", "image"), ("explain noisy copies", "noisy copy"), ("score parts", "part")]
)
def test_a_bar_counts_one_of_what_the_step_names(step: str, unit: str, capsys: pytest.CaptureFixture[str]) -> None:
    with shown(None) as progress:
        progress(step, 0, 2)
        progress(step, 2, 2)
    written = capsys.readouterr().err
    assert "2/2 [00:00<00:00, " in written
    assert f"{unit}/s]" in written or f"s/{unit}]" in written


def test_a_step_without_anything_to_do_has_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    Bars()("explain noisy copies", 0, 0)
    assert not capsys.readouterr().err
