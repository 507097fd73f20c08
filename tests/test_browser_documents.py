"""The trend page and the dossier in a real browser: headless Chromium, no network. Run with `pytest -m browser`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.change_control.dossier import make_dossier
from harness.evaluation.demonstration import FOLDER
from harness.monitoring.outputs import write_outputs
from harness.monitoring.run import Request, monitor
from tests import tiny_graphs
from tests.test_harness_dossier import RULES, commit

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore::ResourceWarning")]
sync_api = pytest.importorskip("playwright.sync_api")
WIDTHS = (375, 1440)
KINDS = ("trend", "dossier")
_BEYOND = """width => [...document.querySelectorAll("main *, header *")]
    .filter(item => !item.closest(".scroll, svg, .hidden") && item.getBoundingClientRect().right > width + 0.5)
    .map(item => item.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both, of the demonstration; the trend with an alarm, since every picture of the night is one of another kind."""
    place = tmp_path_factory.mktemp("documents")
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(place / "drift")
    rules = RULES.replace('"early"', '"block4_out"').partition("[[rule]]\nregion")[0].replace('scope = "bright"\n', "")
    (place / "policy.toml").write_text(rules)
    commit(place)
    (place / "dossier.html").write_text(make_dossier(place / "drift", place / "policy.toml").html)
    tiny_graphs.write_images(place / "night", patients=60, each=1).unlink()
    request = Request(FOLDER / "finetune.onnx", place / "drift", place / "night", place / "state.json")
    write_outputs(monitor(request), place)
    return {"trend": place / "trend.html", "dossier": place / "dossier.html"}


@pytest.fixture
def complaints() -> list[str]:
    return []


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path], complaints: list[str]) -> Iterator[Any]:
    contexts = []

    def open_page(kind: str, width: int, scheme: str = "light", **options: Any) -> Any:
        contexts.append(browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("request", lambda request: complaints.append(request.url) if "file:" not in request.url else None)
        page.goto(pages[kind].as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_fits_and_asks_for_nothing(opened: Any, complaints: list[str], kind: str, width: int) -> None:
    assert opened(kind, width).evaluate(_BEYOND, width) == []
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", KINDS)
def test_passes_axe(opened: Any, kind: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(opened(kind, 1440, scheme, bypass_csp=True))  # axe is a script of its own
    assert [(item["id"], item["nodes"][0]["html"]) for item in found.response["violations"]] == []


def test_the_alarm_is_the_heading(opened: Any) -> None:
    page = opened("trend", 1440)
    assert page.locator("h1").inner_text().startswith("Alarm: ")
    assert page.locator("figure.alarm").count() > 3


def test_the_dossier_prints_on_a4_across(opened: Any) -> None:
    content = opened("dossier", 1440).pdf(prefer_css_page_size=True)
    assert content.startswith(b"%PDF")
    assert b"/MediaBox [0 0 841.91998 594.95996]" in content or b"/MediaBox [0 0 842" in content
