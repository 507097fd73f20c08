"""The page of docs/browser in headless Chromium: its map is Python's."""

from __future__ import annotations

import functools
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

from harness.images.loading import channels_first, load_grey, load_view
from harness.images.notices import ignore
from harness.images.rule import ImageRule, stored
from tests import tiny_graphs
from tests.real_pictures import ORIENTATION

pytestmark = pytest.mark.browser
PAGE = Path(__file__).parent.parent / "docs" / "browser"
TOLERANCE = 1e-4  # relative L2: other kernels, same float32


class Quiet(SimpleHTTPRequestHandler):
    """A file server that does not log."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with its npm package, served on loopback."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(PAGE, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder, check=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(address: str, chromium: str) -> Iterator:
    """The page, open; console errors and foreign requests fail the test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page()
        wrong: list[str] = []
        opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on("request", lambda r: None if r.url.startswith((address, "blob:", "data:")) else wrong.append(r.url))
        opened.goto(address)
        yield opened
        assert not wrong
        browser.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A graph that explains itself, one that does not, and pictures larger, smaller and coloured."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (6, 5)).astype(np.float32)
    for name, size in (("large", (75, 90)), ("small", (20, 23)), ("mixed", (20, 90))):
        cv2.imwrite(str(folder / f"{name}.png"), cv2.resize(coarse, size).astype(np.uint8))
    colour = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    cv2.imwrite(str(folder / "colour.png"), colour)
    (folder / "broken.jpg").write_bytes(b"no picture")
    tiny_graphs.write_graph(folder / "plain.onnx")
    tiny_graphs.write_graph(folder / "fused.onnx", methods=["layercam", "gradcam"])
    return {path.stem: path for path in folder.iterdir()}


def python_says(model: Path, image: Path, output: str, target: int) -> tuple[np.ndarray, np.ndarray]:
    session = ort.InferenceSession(model)
    batch = channels_first(load_grey(image, (tiny_graphs.SIZE, tiny_graphs.SIZE), notice=ignore)[None])
    logits, found = session.run(["logits", output], {"image": batch, "target": np.array([target])})
    return logits[0], found[0]


def explained(page: object) -> dict:
    page.wait_for_function("selfExplaining.result !== null")
    return page.evaluate("selfExplaining.result")


@pytest.mark.parametrize("name", ["large", "small", "mixed", "colour"])
def test_map_and_logits_are_those_of_python(page: object, files: dict[str, Path], name: str) -> None:
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", files[name])
    found = explained(page)
    output = page.input_value("#map")
    logits, expected = python_says(files["fused"], files[name], output, -1)
    size = tiny_graphs.SIZE
    expected_view = load_grey(files[name], (size, size), notice=ignore)
    (plane,) = found["planes"]
    assert np.array(plane).reshape(size, size) == pytest.approx(expected_view, abs=0.51 if name == "colour" else 2e-3)
    if name == "colour":  # half a grey level apart: OpenCV rounds its weights
        return
    assert found["logits"] == pytest.approx(logits.tolist(), abs=1e-3)
    distance = np.linalg.norm(np.array(found["map"]) - expected.ravel())
    assert distance <= TOLERANCE * np.linalg.norm(expected)


RULES = [
    *(
        {"fit": "squash", "interpolation": interpolation, "resampler": resampler, "levels": levels}
        for interpolation in ("nearest", "area", "bilinear", "bicubic", "lanczos")
        for resampler in ("pillow", "opencv")
        for levels in ("whole", "fractions")
    ),
    {"fit": "crop", "shorter": 40},
    {"fit": "crop"},
    {"fit": "letterbox", "pad": 114},
    {"fit": "letterbox", "orientation": "ignore"},
    {"fit": "crop", "colour": "grey", "interpolation": "bicubic"},
]


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_the_default_rule_turns_nothing(page: object, files: dict[str, Path], tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    grey = np.linspace(0, 255, 60 * 40).astype(np.uint8).reshape(60, 40)
    Image.fromarray(grey).save(tmp_path / f"a{suffix}", quality=95, exif=exif)
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", tmp_path / f"a{suffix}")
    size = tiny_graphs.SIZE
    seen = np.array(explained(page)["planes"]).reshape(size, size)
    assert np.abs(seen - load_grey(tmp_path / f"a{suffix}", (size, size), notice=ignore)).max() <= 2


@pytest.mark.parametrize("fields", RULES, ids=lambda fields: " ".join(map(str, fields.values())))
def test_the_page_sees_what_python_sees(page: object, tmp_path: Path, fields: dict) -> None:
    """Every interpolation and every fit, of a picture of colour that is stored turned."""
    rule = ImageRule.model_validate({"name": "x", **fields})
    size = tiny_graphs.SIZE
    graph = tiny_graphs.write_graph(tmp_path / "x.onnx", methods=["layercam"], image_rule=stored(rule))
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(cv2.resize(coarse, (75, 52))).save(tmp_path / "a.jpg", quality=95, subsampling=0, exif=exif)
    page.set_input_files("#model", graph)
    page.set_input_files("#image", tmp_path / "a.jpg")
    found = explained(page)
    expected = load_view(tmp_path / "a.jpg", rule, (size, size), notice=ignore)
    seen = np.array(found["planes"]).reshape(-1, size, size).transpose(1, 2, 0)
    apart = np.abs(seen - expected.pixels.reshape(size, size, -1))
    assert apart.max() <= 3  # levels: the browser's JPEG decoder is another
    assert apart.mean() <= 0.6
    assert found["window"] == pytest.approx(expected.geometry.window)


def test_another_class_and_method(page: object, files: dict[str, Path]) -> None:
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", files["large"])
    explained(page)
    page.select_option("#map", index=1)
    page.select_option("#target", "2")
    page.wait_for_function("document.querySelector('#classes tr.explained td').textContent === 'left'")
    page.wait_for_timeout(200)
    output = page.input_value("#map")
    _, expected = python_says(files["fused"], files["large"], output, 2)
    assert explained(page)["map"] == pytest.approx(expected.ravel().tolist(), abs=1e-5)
    assert page.locator("#classes tr").count() == 3


def test_picture_shows_the_map_and_opacity_hides_it(page: object, files: dict[str, Path]) -> None:
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", files["large"])
    explained(page)
    colourful = "(() => { const c = document.getElementById('picture'); const d = c.getContext('2d').getImageData(0, 0,"
    colourful += " c.width, c.height).data; return d.some((v, i) => i % 4 === 0 && Math.abs(v - d[i + 2]) > 30); })()"
    assert page.evaluate(colourful)
    page.fill("#opacity", "0")
    page.dispatch_event("#opacity", "input")
    assert not page.evaluate(colourful)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("plain", "holds no map; export it with --fuse layercam"), ("large", "not an ONNX file")],
)
def test_what_is_no_such_model_is_said(page: object, files: dict[str, Path], name: str, sentence: str) -> None:
    page.set_input_files("#model", files[name])
    page.wait_for_selector("#status.error")
    assert sentence in page.text_content("#status")


def shown(page: object) -> tuple[int, bool]:
    """Rows of the table of classes, and whether the picture holds a pixel."""
    painted = "(() => { const c = document.getElementById('picture'); return c.getContext('2d').getImageData(0, 0,"
    painted += " c.width, c.height).data.some((v) => v > 0); })()"
    return page.locator("#classes tr").count(), page.evaluate(painted)


@pytest.mark.parametrize(
    ("field", "name", "sentence"),
    [
        ("#image", "broken", "could not be decoded"),
        ("#image", None, "Choose a picture."),
        ("#model", "plain", "holds no map"),
        ("#model", "large", "not an ONNX file"),
        ("#model", None, "Choose a model."),
    ],
)
def test_nothing_of_the_last_file_stays(
    page: object, files: dict[str, Path], field: str, name: str | None, sentence: str
) -> None:
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", files["large"])
    explained(page)
    assert shown(page) == (3, True)
    page.set_input_files(field, files[name] if name else [])
    page.wait_for_function("words => document.querySelector('#status').textContent.includes(words)", arg=sentence)
    assert shown(page) == (0, False)
    page.fill("#opacity", "30")
    page.dispatch_event("#opacity", "input")
    assert shown(page) == (0, False)
    page.set_input_files("#model", files["fused"])  # and goes on from there
    page.set_input_files("#image", files["small"])
    explained(page)
    assert shown(page) == (3, True)


def test_a_result_that_is_overtaken_is_not_shown(page: object, files: dict[str, Path]) -> None:
    """A run that ends after the picture has changed for one that cannot be read shows nothing."""
    page.set_input_files("#model", files["fused"])
    page.wait_for_function("selfExplaining.session !== null")
    page.evaluate(
        """() => { const run = selfExplaining.session.run.bind(selfExplaining.session);
        selfExplaining.session.run = async (...given) => { window.began = true; const found = await run(...given);
        await new Promise((done) => setTimeout(done, 800)); window.ended = true; return found; }; }"""
    )
    page.set_input_files("#image", files["large"])
    page.wait_for_function("window.began === true")  # one that is overtaken earlier does not run at all
    page.set_input_files("#image", files["broken"])
    page.wait_for_function("window.ended === true")
    page.wait_for_timeout(100)
    assert shown(page) == (0, False)
    assert "could not be decoded" in page.text_content("#status")


@pytest.mark.parametrize("width", [375, 1440])
def test_nothing_overflows(page: object, files: dict[str, Path], width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    page.set_input_files("#model", files["fused"])
    page.set_input_files("#image", files["large"])
    explained(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
