"""Reports in a real browser: headless Chromium, no network. Run with `pytest -m browser`."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.api.write import render_again
from harness.evaluation import demonstration
from harness.images.view import Geometry
from harness.report import change, heatmaps
from harness.report import html as report_html
from harness.results.options import Options
from harness.results.pseudonyms import Names
from harness.results.schema import Evaluation
from kernels.resize import upsample
from tests import made_studies

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
sync_api = pytest.importorskip("playwright.sync_api")
KINDS = ("demonstration", "study", "training", "hostile")
WIDTHS = (375, 768, 1440)
_BEYOND = """width => [...document.querySelectorAll("main *")]
    .filter(item => !item.closest(".scroll, .strip, svg, .hidden") && item.getBoundingClientRect().right > width + 0.5)
    .map(item => item.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A result folder of every kind."""
    place = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(heatmaps, "contact_sheet", lambda *_: None)
        found = {
            "demonstration": made_studies.evaluated(demonstration.plan(Options()), place / "demonstration"),
            "study": made_studies.study(place / "study"),
            "training": made_studies.training(place / "training"),
            "hostile": made_studies.hostile(place / "hostile"),
        }
    shown = report_html.render(Evaluation.read(found["hostile"]), found["hostile"], Names(None))
    (found["hostile"] / "report.html").write_text(shown, encoding="utf-8")  # names as they are: the harder case
    return found


class Opened:
    """A page with everything that it complained about or asked for."""

    def __init__(self, browser: Any, path: Path, width: int = 1440, scheme: str = "light", **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", self._complain)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(dialog.message), dialog.dismiss()))
        self.context.route("**/*", self._only_the_file)
        self.page.goto((path / "report.html").as_uri())

    def _complain(self, message: Any) -> None:
        if "willReadFrequently" not in message.text:  # about the tests' own reading of pixels
            self.complaints.append(message.text)

    def _only_the_file(self, route: Any) -> None:
        """Images inside the page are `data:` and never come here."""
        if route.request.url.startswith("file:") and route.request.is_navigation_request():
            route.continue_()
            return
        self.requests.append(route.request.url)
        route.abort()

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()


@pytest.fixture
def opened(browser: Any, results: dict[str, Path]) -> Iterator[Any]:
    """Opens reports; at the end none has complained or asked for anything."""
    pages: list[Opened] = []

    def open_(kind: str, **options: Any) -> Any:
        pages.append(Opened(browser, results[kind], **options))
        return pages[-1].page

    yield open_
    for item in pages:
        item.context.close()
        assert item.complaints == []
        assert item.requests == []


def caption(page: Any) -> str:
    return page.locator("#case").inner_text()


def pixels(page: Any, panel: str) -> list[int]:
    """RGBA of a panel's heat map."""
    return page.evaluate(
        """panel => { const c = document.querySelector(`.stage [data-panel="${panel}"] canvas`);
        return [...c.getContext("2d").getImageData(0, 0, c.width, c.height).data]; }""",
        panel,
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", WIDTHS)
def test_opens_without_complaint_request_or_overflow(opened: Any, kind: str, width: int) -> None:
    page = opened(kind, width=width)
    page.evaluate("document.querySelectorAll('details').forEach(block => { block.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.evaluate(_BEYOND, width)
    assert wide == []
    assert page.locator("h1").inner_text()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1440])
def test_passes_axe(opened: Any, kind: str, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened(kind, scheme=scheme, width=width, bypass_csp=True)  # axe is a script of its own
    page.evaluate("document.querySelectorAll('details').forEach(block => { block.open = true; })")
    found = Axe().run(page)
    assert [(item["id"], item["nodes"][0]["html"]) for item in found.response["violations"]] == []


def test_axe_would_notice(opened: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = opened("demonstration", bypass_csp=True)
    page.evaluate("document.documentElement.style.setProperty('--muted', '#c0c0c0')")
    assert "color-contrast" in {item["id"] for item in Axe().run(page).response["violations"]}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_system_and_the_switch(opened: Any, scheme: str) -> None:
    page = opened("demonstration", scheme=scheme)

    def luminance() -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    assert (luminance() > 380) == (scheme == "light")
    other = "Dark" if scheme == "light" else "Light"
    page.get_by_label(other, exact=True).check()
    assert (luminance() > 380) == (other == "Light")
    page.get_by_label("Auto", exact=True).check()
    assert (luminance() > 380) == (scheme == "light")


def test_metric_switch_changes_all_three_sections(opened: Any) -> None:
    page = opened("study")
    select = page.locator("#metric")
    before = {
        part: page.locator(f"#{part} .by-metric").first.inner_text() for part in ("matrix", "distributions", "classes")
    }
    select.select_option("centroid_shift")
    for part, text in before.items():
        assert page.locator(f"#{part} .by-metric").first.inner_text() != text
    assert "centroid_shift" in page.locator("#matrix caption").inner_text()
    select.focus()
    page.keyboard.press("Home")  # by keyboard, back to the first: the headline
    assert select.input_value() == "iou_top20"
    for part, text in before.items():
        assert page.locator(f"#{part} .by-metric").first.inner_text() == text


def test_definitions_open_by_keyboard_click_and_hover(opened: Any) -> None:
    page = opened("demonstration")
    term = page.locator("#verdict .term").first
    name = term.get_attribute("popovertarget")
    definition = page.locator(f"#{name}")
    term.focus()
    page.keyboard.press("Enter")
    assert definition.is_visible()
    assert "Stability index" in definition.inner_text()
    box, word = definition.bounding_box(), term.bounding_box()
    assert 0 <= box["y"] - (word["y"] + word["height"]) < 20
    page.keyboard.press("Escape")
    assert definition.is_hidden()
    term.click()
    assert definition.is_visible()
    page.locator("h1").click()
    assert definition.is_hidden()
    page.mouse.move(5, 5)
    term.hover()
    definition.wait_for(state="visible")
    definition.hover()
    page.wait_for_timeout(500)
    assert definition.is_visible()  # the pointer may rest on it
    page.mouse.move(5, 5)
    definition.wait_for(state="hidden")


def test_definitions_open_by_touch_and_stay_on_a_telephone(opened: Any) -> None:
    page = opened("demonstration", width=375, has_touch=True)
    for term in page.locator("#verdict .term").all()[:4]:
        term.tap()
        box = page.locator(f"#{term.get_attribute('popovertarget')}").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 375
        page.keyboard.press("Escape")


def test_gallery_by_mouse(opened: Any) -> None:
    page = opened("study")
    assert caption(page).startswith("Case 1 of ")
    page.locator("#next").click()
    assert caption(page).startswith("Case 2 of ")
    page.locator("#previous").click()
    page.locator("#previous").click()
    count = page.locator(".strip button").count()
    assert caption(page).startswith(f"Case {count} of {count}")
    page.locator(".strip button").nth(2).click()
    assert caption(page).startswith("Case 3 of ")
    assert page.locator('.strip button[aria-current="true"]').count() == 1
    before = pixels(page, "before")
    page.locator('.gallery input[name="method"]').nth(1).check(force=True)
    assert pixels(page, "before") != before
    assert "gradcam)" in caption(page)
    page.locator('.gallery input[name="kind"][value="least"]').check(force=True)
    assert "least drifted" in caption(page)
    assert "layercam)" in caption(page)  # the group starts at the method that it was chosen by
    last = page.locator("#gallery-pair option").last.get_attribute("value")
    page.locator("#gallery-pair").select_option(last)
    assert page.locator(".strip button").count() > 0


def test_gallery_by_keyboard(opened: Any) -> None:
    page = opened("study")
    page.locator('.strip button[aria-current="true"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert caption(page).startswith("Case 3 of ")
    assert page.evaluate("document.activeElement.getAttribute('aria-current')") == "true"
    page.keyboard.press("ArrowLeft")
    assert caption(page).startswith("Case 2 of ")
    page.locator('.gallery input[name="method"]').first.focus()
    page.keyboard.press("ArrowRight")  # in a choice the arrows are its own
    assert caption(page).startswith("Case 2 of ")
    assert "gradcam)" in caption(page)
    page.locator("#strength").focus()
    before = pixels(page, "before")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#strength-shown").inner_text() == "60 %"
    assert pixels(page, "before") != before
    page.keyboard.press("Home")
    for panel in ("after", "difference"):
        assert set(pixels(page, panel)[3::4]) == {0}  # no opacity: the radiograph alone


def test_everything_is_reached_by_tab(opened: Any) -> None:
    page = opened("demonstration")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    seen = set()
    for _ in range(120):
        page.keyboard.press("Tab")
        seen.add(
            page.evaluate(
                "document.activeElement.id || document.activeElement.name || document.activeElement.className"
            )
        )
    assert {"metric", "kind", "method", "strength", "previous", "next", "theme"} <= seen


def test_panels_draw_what_the_python_rule_says(opened: Any) -> None:
    """The page's interpolation against `kernels.resize`, and its picture against `harness.report.heatmaps`."""
    page = opened("demonstration")
    rng = np.random.default_rng(0)
    for (h, w), (height, width) in (((7, 7), (224, 224)), ((7, 9), (50, 33)), ((14, 14), (10, 320)), ((1, 1), (5, 4))):
        raw = rng.integers(0, 256, (h, w)).astype(np.float32)
        drawn = page.evaluate(
            "([values, h, w, height, width]) => [...evidenceDrift.upsample(values, h, w, height, width)]",
            [raw.ravel().tolist(), h, w, height, width],
        )
        expected = upsample(raw[None], (height, width))[0].ravel()
        assert np.abs(np.array(drawn) - expected).max() <= 255 * 2**-20
    share = rng.random((4, 5)).astype(np.float32)
    rgba = page.evaluate(
        """values => { const data = JSON.parse(document.querySelector("#gallery-data").textContent);
        return [...evidenceDrift.painted(Float32Array.from(values), evidenceDrift.decode(data.colours),
        data.strongest)]; }""",
        share.ravel().tolist(),
    )
    grey = np.full((4, 5), 128.0, np.float32)
    seen = np.ones((4, 5), bool)
    assert np.abs(over(grey, rgba) - heatmaps.overlay(heatmaps.as_rgb(grey), share, seen)).max() < 1 / 128


def over(grey: np.ndarray, rgba: list[int]) -> np.ndarray:
    """What is seen where pixels of a canvas lie over a radiograph: RGB (H, W, 3) in 0..1."""
    pixels = np.array(rgba).reshape(*grey.shape, 4) / 255
    return pixels[..., 3:] * pixels[..., :3] + (1 - pixels[..., 3:]) * heatmaps.as_rgb(grey)


@pytest.mark.parametrize("size", [(224, 224), (320, 250), (40, 60)])
def test_differences_are_drawn_as_the_python_rule_says(opened: Any, size: tuple[int, int]) -> None:
    """Colours, the two lines and their dashes: every pixel of the page's picture is that of `harness.report.change`."""
    page, rng = opened("demonstration"), np.random.default_rng(0)
    raws = (rng.random((5, 6)).astype(np.float32) ** 3 for _ in range(2))
    before, after = (heatmaps.relative(raw, Geometry(size, size), size)[0] for raw in raws)
    grey = rng.uniform(0, 255, size).astype(np.float32)
    drawn = page.evaluate(
        """([before, after, height, width, strength]) => {
        const { change } = JSON.parse(document.querySelector("#gallery-data").textContent);
        return [...evidenceDrift.changed(Float32Array.from(before), Float32Array.from(after), height, width, change,
        strength)]; }""",
        [before.ravel().tolist(), after.ravel().tolist(), *size, 1],
    )
    expected = change.paint(heatmaps.as_rgb(grey), before, after)
    assert np.abs(over(grey, drawn) - expected).max() < 1 / 128
    assert (
        np.array(drawn)
        .reshape(*size, 4)[change.outline(change.top(after), dashed=False)]
        .tolist()
        .count([*change.LINE_AFTER, 255])
    )


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry((32, 32), (32, 64), (0, 16)),
        Geometry((32, 32), (16, 32), (-8, 0)),
        Geometry((32, 32), (40, 36), (4, 2)),
    ],
    ids=["crop", "letterbox", "both cropped"],
)
def test_a_part_of_a_picture_is_drawn_where_python_draws_it(opened: Any, geometry: Geometry) -> None:
    page, rng, shape = opened("demonstration"), np.random.default_rng(0), (60, 90)
    raw = rng.integers(0, 256, (5, 6)).astype(np.float32)
    share, seen = heatmaps.relative(raw, geometry, shape)
    drawn = page.evaluate(
        """([text, height, width, window]) => {
        const data = JSON.parse(document.querySelector("#gallery-data").textContent);
        const share = evidenceDrift.relative([5, 6, text], height, width, window);
        const painted = evidenceDrift.painted(share, evidenceDrift.decode(data.colours), data.strongest);
        return [...evidenceDrift.veiled(painted, height, width, window, data.unseen)]; }""",
        [base64.b64encode(raw.astype(np.uint8).tobytes()).decode(), *shape, list(geometry.window)],
    )
    grey = np.full(shape, 128.0, np.float32)
    assert not seen.all() or geometry.window[2] > 1
    assert np.abs(over(grey, drawn) - heatmaps.overlay(heatmaps.as_rgb(grey), share, seen)).max() < 1 / 100


def test_heat_maps_share_one_scale_and_differences_dim_the_picture(opened: Any) -> None:
    page = opened("demonstration")
    strongest = [max(pixels(page, panel)[3::4]) for panel in ("before", "after")]
    assert strongest[0] == strongest[1] == round(255 * heatmaps.STRONGEST)  # each by its own maximum
    assert max(pixels(page, "difference")[3::4]) == 255  # the lines
    assert min(pixels(page, "difference")[3::4]) == round(255 * (1 - change.DIM))  # a dimmed picture below no change
    assert set(pixels(page, "radiograph")[3::4]) == {0}


def test_hostile_names_are_shown_and_do_nothing(opened: Any) -> None:
    page = opened("hostile")
    for kind in page.locator('.gallery input[name="kind"]:not([disabled])').all():
        kind.check(force=True)
        for _ in range(page.locator(".strip button").count()):
            page.locator("#next").click()
    page.locator("#metric").select_option("pearson")
    assert page.locator("main i, main svg[onload], img[src='x']").count() == 0
    assert made_studies.HOSTILE_CLASSES[0] in page.locator("#classes").inner_text()
    assert page.evaluate("[...document.scripts].length") == 2


def test_names_do_not_overflow_a_telephone_however_long(browser: Any, results: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(results["demonstration"], tmp_path / "long")
    text = (tmp_path / "long" / "evaluation.json").read_text(encoding="utf-8").replace("PhantomNet", "Phantom" * 30)
    (tmp_path / "long" / "evaluation.json").write_text(text, encoding="utf-8")
    render_again(tmp_path / "long")
    with Opened(browser, tmp_path / "long", width=375) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_a_missing_image_leaves_its_maps(browser: Any, tmp_path: Path) -> None:
    made_studies.training(tmp_path)
    for image in (tmp_path / "images").glob("*.png"):
        image.unlink()
    render_again(tmp_path / "out")
    with Opened(browser, tmp_path / "out") as page:
        assert "gone or cannot be read" in page.locator('.stage [data-panel="radiograph"]').inner_text()
        assert max(pixels(page, "before")[3::4]) > 100


def test_paper_shows_every_block_and_the_cases(opened: Any) -> None:
    page = opened("demonstration")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert page.locator(".sheet > figure").count() == page.locator(".strip button").count()
    page.emulate_media(media="print")
    assert page.locator(".sheet").is_visible()
    assert page.locator(".contents").is_hidden()
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
    assert page.locator(".sheet > figure").count() == 0


def test_without_script_the_numbers_are_there(opened: Any) -> None:
    page = opened("demonstration", java_script_enabled=False)
    assert page.locator("#matrix .cell").count() > 0
    assert page.locator("#distributions svg.box").count() > 0
    assert "needs JavaScript" in page.locator("#gallery").inner_text()
    page.locator("#verdict .term").first.click()
    assert page.locator(".definition:popover-open").count() == 1
