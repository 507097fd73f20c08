"""Characters that are not seen: nothing that people are shown holds one, so no name mirrors the numbers behind it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL.ImageDraw import ImageDraw

from harness.common.formatting import one_line
from harness.images.view import Geometry
from harness.models.attribution import ExplainedImage, Map
from harness.report import explain_image, heatmaps, plots, tidy
from harness.report import html as report_html
from harness.report.notebook import fragment
from harness.report.text_tables import drift_table, markdown
from harness.results.pseudonyms import Names, names_of
from harness.results.schema import Evaluation, Ranking
from kernels.reasons import Reason
from tests import made_results, made_studies

DIRECTIONS = [*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0x200E, 0x200F, 0x061C]
OTHERS = [0x00AD, 0x034F, 0x115F, 0x180E, 0x200B, 0x200D, 0x2028, 0x2060, 0x2800, 0x3164, 0xFEFF, 0xFE0F, 0xFFA0]
WHOLE = Geometry((8, 8), (8, 8))
RLO = "\u202e"


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class, image, patient and architecture with a control of direction each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.report.heatmaps.contact_sheet", lambda *_: None)
        return made_studies.hostile(tmp_path_factory.mktemp("hostile"))


def require_seen(text: str) -> None:
    assert text
    assert [hex(ord(letter)) for letter in text if letter != "\n" and one_line(letter) != letter] == []


def named(name: str) -> Evaluation:
    """A result in which everything that has a name holds a control of direction."""
    text = made_results.evaluation().model_dump_json()
    for word in ("a -> b", made_results.LAYER, made_results.CLASSES[0], "Made"):
        text = text.replace(json.dumps(word), json.dumps(f"{word}{name}"))
    return Evaluation.model_validate_json(text)


@pytest.mark.parametrize("code", [*DIRECTIONS, *OTHERS, *range(32), 0x7F, 0xD800, 0xE0041, 0xE0100])
def test_what_is_not_seen_is_a_blank(code: int) -> None:
    assert one_line(f"a{chr(code)}1") == "a 1"


@pytest.mark.parametrize("name", ["Pneumonia 0.84", "Lungenödem", "肺炎", "التهاب", "❤ µ → ²", ""])
def test_what_is_seen_stays(name: str) -> None:
    assert one_line(name) == name


@pytest.mark.parametrize("show", [True, False])
def test_in_the_report(hostile: Path, show: bool) -> None:
    names = Names(None) if show else names_of(hostile, show=False)
    result = Evaluation.read(hostile)
    assert RLO in "".join(result.classes)
    page = report_html.render(result, hostile, names)
    require_seen(page)
    require_seen(str(json.loads(re.search(r'id="gallery-data">(.*?)</script>', page, re.DOTALL)[1])))  # type: ignore[index]


@pytest.mark.parametrize("wide", [True, False])
def test_in_tables(hostile: Path, wide: bool) -> None:
    for result in (Evaluation.read(hostile), named(RLO)):
        require_seen(drift_table(result, wide))
        require_seen(markdown(result))
        require_seen(tidy.as_latex(result))


def test_in_notebooks(hostile: Path) -> None:
    for result in (Evaluation.read(hostile), named(RLO)):
        require_seen(fragment(result))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is written into pictures."""
    found: list[str] = []
    real = ImageDraw.text

    def text(self: ImageDraw, at: tuple[float, float], words: str, *arguments: Any, **options: Any) -> None:
        found.append(words)
        real(self, at, words, *arguments, **options)

    monkeypatch.setattr(ImageDraw, "text", text)
    return found


def test_in_the_contact_sheet(tmp_path: Path, written: list[str]) -> None:
    case = heatmaps.Case(
        f"a{RLO}b   IoU 0.30", np.zeros((8, 8)), WHOLE, np.ones((2, 2), np.float32), np.eye(2, dtype=np.float32)
    )
    heatmaps.contact_sheet([case], f"title{RLO}", tmp_path / "sheet.png")
    assert "a b   IoU 0.30" in written
    require_seen("".join(written))


def test_in_the_picture_and_the_table_of_explain(tmp_path: Path, written: list[str]) -> None:
    a_map = Map(f"layer{RLO}", f"method{RLO}", np.eye(4, dtype=np.float32), Reason.DEFINED)
    shares = np.array([0.84, 0.16])
    found = ExplainedImage(np.zeros((8, 8)), WHOLE, [f"class{RLO}", "other"], np.log(shares), shares, 0, [a_map])
    explain_image.draw(found, f"title{RLO}", tmp_path / "maps.png")
    require_seen("".join(written))
    require_seen(explain_image.explanation_table(found, (8, 8)))


def test_in_plots() -> None:
    ranking = {"architectures": [f"A{RLO}", "B"], "means": [0.4, 0.3], "most_stable": {}, "orders": [], "n": 9,
               "n_patients": 9, "reason": None}  # fmt: skip
    rankings = [Ranking.model_validate({**ranking, "method": name}) for name in (f"layercam{RLO}", "gradcam")]
    require_seen(plots.slopes(rankings, upwards=True))
