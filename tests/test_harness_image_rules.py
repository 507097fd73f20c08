"""Image rules: each beside the transform that it copies, their geometry, how they are stored, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from harness.common.errors import InputError
from harness.images.jitter import jittered
from harness.images.loading import load_grey, load_view, read_picture
from harness.images.notices import Notice, ignore
from harness.images.presets import find_preset
from harness.images.regions import Box, Region
from harness.images.rule import GREY, RULE, ImageRule, restored, stored
from harness.images.view import Geometry, channels_first, channels_last, fit, view
from tests.real_pictures import ORIENTATION, by_pillow, write_pictures

MOST, ON_AVERAGE = 2, 0.05  # levels by which a rule may differ from what it copies, in one value and over a picture
LETTERBOX = ImageRule(name="letterbox", fit="letterbox", pad=114)
CROP = ImageRule(name="crop", fit="crop", shorter=72)
COVER = ImageRule(name="cover", fit="crop")
SQUASH = ImageRule(name="squash", fit="squash")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_pictures(tmp_path_factory.mktemp("real"))


def require_alike(found: np.ndarray, expected: np.ndarray) -> None:
    apart = np.abs(found.astype(np.float64) - expected)
    assert apart.max() <= MOST
    assert apart.mean() <= ON_AVERAGE


# The transforms of the frameworks, written out with Pillow alone


def resized_and_cropped(picture: Image.Image, resize: int, crop: int, how: Image.Resampling) -> np.ndarray:
    """torchvision's Resize(resize) of the shorter side, then CenterCrop(crop)."""
    width, height = picture.size
    size = (resize, int(resize * height / width)) if width <= height else (int(resize * width / height), resize)
    left, top = round((size[0] - crop) / 2.0), round((size[1] - crop) / 2.0)
    return np.asarray(picture.resize(size, how).crop((left, top, left + crop, top + crop)))


def bilinear(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """tf.image.resize(picture, size): half-pixel centres, no antialiasing."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for old, new in zip(picture.shape[:2], size, strict=True):
        position = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(position).astype(int)
        parts.append((low, np.minimum(low + 1, old - 1), position - low))
    (top, bottom, down), (left, right, across) = parts
    levels, down, across = picture.astype(np.float64), down[:, None, None], across[None, :, None]
    upper = levels[top][:, left] * (1 - across) + levels[top][:, right] * across
    lower = levels[bottom][:, left] * (1 - across) + levels[bottom][:, right] * across
    return upper * (1 - down) + lower * down


@pytest.mark.parametrize(
    ("name", "resize", "crop", "how"),
    [
        ("torchvision:resnet18", 256, 224, Image.Resampling.BILINEAR),
        ("torchvision:resnet50", 232, 224, Image.Resampling.BILINEAR),
        ("torchvision:resnet50:IMAGENET1K_V1", 256, 224, Image.Resampling.BILINEAR),
        ("torchvision:swin_t", 232, 224, Image.Resampling.BICUBIC),
        ("torchvision:efficientnet_b1", 255, 240, Image.Resampling.BILINEAR),
    ],
)
def test_torchvisions_rule_is_its_transform(
    pictures: list[Path], name: str, resize: int, crop: int, how: Image.Resampling
) -> None:
    rule = find_preset(name).rule
    for path in pictures:
        found = load_view(path, rule, (crop, crop), notice=ignore).pixels
        require_alike(found, resized_and_cropped(by_pillow(path), resize, crop, how))


def test_kerass_rules_are_its_readers(pictures: list[Path]) -> None:
    """load_img resizes to the nearest pixel by default; image_dataset_from_directory without antialiasing."""
    for path in pictures:
        picture = by_pillow(path)
        nearest = picture.resize((160, 128), Image.Resampling.NEAREST)
        found = load_view(path, find_preset("keras.applications:resnet_v2").rule, (128, 160), notice=ignore).pixels
        require_alike(found, np.asarray(nearest))
        found = load_view(path, find_preset("keras.dataset").rule, (128, 160), notice=ignore).pixels
        levels = read_picture(path, SQUASH, notice=ignore) if path.stem == "deep" else np.asarray(picture)
        require_alike(found, bilinear(levels, (128, 160)))


def test_timms_rule_is_read_from_its_configuration(pictures: list[Path], tmp_path: Path) -> None:
    config = {
        "input_size": [3, 240, 240], "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5],
    }  # fmt: skip
    (tmp_path / "hub.json").write_text(json.dumps({"architecture": "x", "pretrained_cfg": config}))
    preset = find_preset("timm:hub.json", tmp_path)
    assert (preset.normalisation.mean, preset.normalisation.std) == ((0.5, 0.5, 0.5), (0.25, 0.5, 0.5))
    for path in pictures[:4]:
        found = load_view(path, preset.rule, (240, 240), notice=ignore).pixels
        require_alike(found, resized_and_cropped(by_pillow(path), 252, 240, Image.Resampling.BICUBIC))


@pytest.mark.parametrize("interpolation", ["nearest", "area", "bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("resampler", ["pillow", "opencv"])
@pytest.mark.parametrize("levels", ["whole", "fractions"])
def test_every_interpolation_keeps_a_constant_and_stays_near_the_picture(
    pictures: list[Path], interpolation: str, resampler: str, levels: str
) -> None:
    fields = {"fit": "squash", "interpolation": interpolation, "resampler": resampler, "levels": levels}
    rule = ImageRule.model_validate({"name": "x", **fields})
    flat = np.full((37, 51, 3), (7, 90, 201), np.uint8)
    np.testing.assert_allclose(view(flat, rule, (20, 80)).pixels, np.broadcast_to((7, 90, 201), (20, 80, 3)), atol=1e-3)
    picture = read_picture(pictures[0], rule)
    found = view(picture, rule, (40, 40)).pixels
    assert found.dtype == np.float32
    assert (found == np.rint(found)).all() == (levels == "whole" or interpolation == "nearest")
    assert np.abs(found.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 4


def test_the_default_rule_is_what_it_was(pictures: list[Path]) -> None:
    """Area where an axis shrinks, linear where it grows, of the luminance of what OpenCV decodes."""
    colours = cv2.imread(str(pictures[2]), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    grey = cv2.cvtColor(colours, cv2.COLOR_BGR2GRAY).astype(np.float32)
    found = load_view(pictures[2], GREY, (100, 100), notice=ignore)
    np.testing.assert_allclose(found.pixels, cv2.resize(grey, (100, 100), interpolation=cv2.INTER_AREA), atol=0.51)
    assert found.geometry.is_whole
    assert np.array_equal(found.pixels, load_grey(pictures[2], (100, 100), notice=ignore))


# Geometry

SIZES = st.tuples(st.integers(2, 90), st.integers(2, 90))


@given(SIZES, SIZES, st.sampled_from([LETTERBOX, COVER, SQUASH, ImageRule(name="x", fit="crop", shorter=95)]))
def test_the_geometry_inverts_itself(shape: tuple[int, int], size: tuple[int, int], rule: ImageRule) -> None:
    geometry = fit(rule, shape, size)
    points = np.array([[0.0, 0.0], [0.5, 0.25], [1.0, 1.0]])
    np.testing.assert_allclose(geometry.to_view(geometry.to_picture(points)), points, atol=1e-12)
    rows, columns = geometry.inside
    assert 0 <= rows.start < rows.stop <= size[0]
    assert 0 <= columns.start < columns.stop <= size[1]
    seen = view(np.full((*shape, 3), 200, np.uint8), rule, size).pixels
    filled = np.zeros(size, bool)
    filled[rows, columns] = True
    assert (seen[filled] == 200).all()
    assert (seen[~filled] == rule.pad).all()


@pytest.mark.parametrize("rule", [SQUASH, CROP, COVER, LETTERBOX, GREY, find_preset("keras.dataset").rule])
@pytest.mark.parametrize("orientation", [1, 3, 6, 7])
@pytest.mark.parametrize("shape", [(90, 140), (140, 100)])
def test_a_planted_mark_is_found_on_the_original(
    tmp_path: Path, rule: ImageRule, orientation: int, shape: tuple[int, int]
) -> None:
    """A map that is hot where the view shows the mark is hot on the mark of the picture, and nowhere else."""
    upright = np.zeros((*shape, 3), np.uint8)
    rows, columns = slice(shape[0] // 2 - 24, shape[0] // 2 - 10), slice(shape[1] // 2 + 8, shape[1] // 2 + 26)
    upright[rows, columns] = 255
    exif = Image.Exif()
    exif[ORIENTATION] = 1 if rule.orientation == "ignore" else orientation
    save_turned(upright, tmp_path / "a.png", exif)
    seen = load_view(tmp_path / "a.png", rule, (64, 64), notice=ignore)
    levels = seen.pixels if seen.pixels.ndim == 2 else seen.pixels[..., 0]
    raw = np.where(levels == rule.pad, 0, levels).astype(np.float32)
    raw = raw.reshape(16, 4, 16, 4).mean(axis=(1, 3))
    heat, inside = seen.geometry.on_picture(raw, shape)
    assert inside[rows, columns].all()
    assert heat[rows, columns].mean() > 0.6 * raw.max()
    down, right = np.average(np.argwhere(heat > raw.max() / 2), axis=0)
    assert rows.start <= down < rows.stop
    assert columns.start <= right < columns.stop
    heat[max(0, rows.start - 14) : rows.stop + 14, max(0, columns.start - 14) : columns.stop + 14] = 0
    assert not heat.any()


_UNTURNED: dict[int, list[Image.Transpose]] = {
    1: [], 3: [Image.Transpose.ROTATE_180], 6: [Image.Transpose.ROTATE_90],
    7: [Image.Transpose.TRANSVERSE],
}  # fmt: skip


def save_turned(upright: np.ndarray, path: Path, exif: Image.Exif) -> None:
    """Stored turned, so that the orientation of EXIF turns it upright."""
    picture = Image.fromarray(upright)
    for step in _UNTURNED[exif[ORIENTATION]]:
        picture = picture.transpose(step)
    picture.save(path, exif=exif)


@pytest.mark.parametrize("rule", [SQUASH, CROP, LETTERBOX, GREY])
def test_masks_and_boxes_are_mapped_into_the_view(rule: ImageRule) -> None:
    mask = np.zeros((96, 144), bool)
    mask[30:66, 50:100] = True
    picture = np.where(mask, 255, 0).astype(np.uint8)
    rule = rule.model_copy(update={"pad": 0})
    geometry = fit(rule, mask.shape, (64, 64))
    seen = view(picture if rule.colour == "grey" else np.repeat(picture[..., None], 3, axis=-1), rule, (64, 64)).pixels
    levels = seen if seen.ndim == 2 else seen[..., 0]
    covered = Region(mask.shape, mask=mask).cover(geometry, (64, 64))
    assert np.abs(levels / 255 - covered).mean() < 0.02
    box = Region(mask.shape, boxes=[Box(50, 30, 50, 36).within(mask.shape)]).cover(geometry, (64, 64))
    np.testing.assert_allclose(box, covered, atol=1e-6)
    corners = geometry.to_view(np.array([[30, 50], [66, 100]]) / mask.shape) * 64
    found = np.argwhere(covered > 0.5)
    np.testing.assert_allclose(found.min(axis=0), np.clip(corners[0], 0, 64), atol=1)
    np.testing.assert_allclose(found.max(axis=0) + 1, np.clip(corners[1], 0, 64), atol=1)


def test_what_a_crop_cuts_off_is_unseen_and_padding_is_not_drawn() -> None:
    crop, letterbox = fit(COVER, (50, 100), (40, 40)), fit(LETTERBOX, (50, 100), (40, 40))
    assert crop.window == (0, 0.25, 1, 0.5)
    assert letterbox.window == (-0.5, 0, 2, 1)
    heat, seen = crop.on_picture(np.ones((5, 5)), (50, 100))
    assert seen[:, 25:75].all()
    assert not seen[:, :25].any()
    assert not seen[:, 75:].any()
    assert np.array_equal(heat, seen.astype(np.float32))
    upper = np.zeros((4, 4), np.float32)
    upper[0] = 1  # evidence in the padding alone
    heat, seen = letterbox.on_picture(upper, (50, 100))
    assert seen.all()
    assert heat.max() <= 0.5  # what interpolation brings over the border


def test_noise_and_shift_leave_padding_alone() -> None:
    picture = np.full((20, 40, 3), 100, np.uint8)
    seen = view(picture, LETTERBOX, (40, 40))
    moved = jittered(seen.pixels, "a", 1, 0, seen.geometry.inside)
    assert (moved[:10] == 114).all()
    assert (moved[30:] == 114).all()
    inside = moved[10:30]
    assert 0.8 < inside.std() < 1.2
    assert np.abs(np.corrcoef(inside.reshape(-1, 3).T) - np.eye(3)).max() < 0.15  # every channel has its own noise


def test_channels_of_both_kinds() -> None:
    grey, colour = np.random.default_rng(0).random((2, 4, 5)), np.random.default_rng(1).random((2, 4, 5, 3))
    assert channels_first(grey).shape == channels_first(colour).shape == (2, 3, 4, 5)
    assert channels_last(grey).shape == channels_last(colour).shape == (2, 4, 5, 3)
    assert np.array_equal(channels_first(colour)[:, 2], colour[..., 2])


# Names, storage, comparison


def test_a_rule_is_stored_and_restored() -> None:
    assert stored(GREY) == RULE
    assert restored(RULE) is GREY
    rule = find_preset("torchvision:resnet18").rule
    assert restored(json.loads(json.dumps(stored(rule)))) == rule
    assert str(rule) == (
        "torchvision:resnet18/1: RGB, shorter side to 256, centre crop (224 x 224), Pillow bilinear, 8-bit, "
        "orientation applied"
    )


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        ("grey-squash/2", r"image rule 'grey-squash/2', later than this version knows \(/1\); update it"),
        ("grey-squash/0", r"image rule 'grey-squash/0', this is 'grey-squash/1'"),
        ({**stored(CROP), "version": 2, "new": 1}, r"image rule 'crop/2', later than this version knows"),
        ({"name": "x", "version": None}, r"image rule 'x/None', this is"),
        (3, r"this is 'grey-squash/1'"),
    ],
)
def test_an_unknown_rule_is_refused(found: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        restored(found)


def test_what_differs_between_rules_is_named_and_names_are_no_difference() -> None:
    one, other = find_preset("torchvision:resnet18").rule, find_preset("torchvision:vit_b_16").rule
    assert not one.differences(other)
    swin = find_preset("torchvision:swin_t").rule
    assert one.differences(swin) == {"shorter": (256, 232), "interpolation": ("bilinear", "bicubic")}
    assert not one.shows_what(swin, (224, 224), (224, 224))
    inception = find_preset("torchvision:inception_v3").rule
    assert one.shows_what(inception, (224, 224), (299, 299))  # crops of 0.875 and 0.874
    assert SQUASH.shows_what(GREY.model_copy(update={"orientation": "apply"}), (224, 224), (299, 299))


def test_a_rule_fits_a_network_or_is_refused() -> None:
    rule = find_preset("torchvision:resnet18").rule
    assert rule.for_size((224, 224)) == rule
    with pytest.raises(ValueError, match="resnet18/1 gives 224 x 224, the network takes 299 x 299"):
        rule.for_size((299, 299))
    assert CROP.for_size((64, 48)).size == (64, 48)
    with pytest.raises(ValueError, match="`shorter` is 72, less than the crop of 80 x 80"):
        CROP.for_size((80, 80))
    assert GREY.for_size((5, 5)) is GREY


def test_a_rule_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "scanner.toml").write_text('like = "torchvision:resnet18"\norientation = "ignore"\n')
    preset = find_preset("scanner.toml", tmp_path)
    assert preset.rule.differences(find_preset("torchvision:resnet18").rule) == {"orientation": ("ignore", "apply")}
    assert (preset.rule.label, preset.normalisation.std) == ("scanner/1", (0.229, 0.224, 0.225))
    (tmp_path / "pad.toml").write_text('name = "pad"\nfit = "letterbox"\ncolour = "grey"\npad = 7.5\n')
    assert find_preset("pad.toml", tmp_path).rule == ImageRule(name="pad", fit="letterbox", colour="grey", pad=7.5)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"fit: Field required"),
        ('fit = "crop"\nshort = 3', r"short: unknown key; did you mean shorter\?"),
        ('fit = "squash"\nshorter = 3', r"`shorter` belongs to fit = 'crop', not 'squash'"),
        ('fit = "stretch"', r"fit: Input should be 'squash', 'crop', 'letterbox' or 'native'"),
        ('fit = "squash"\nversion = 2', r"version: Input should be 1"),
        ('fit = "letterbox"\npad = nan', r"pad: Input should be "),
        ("fit = ", r"not a TOML file"),
        ('like = "torchvision:resnet19"', r"'torchvision:resnet19' is unknown; nearest: resnet18"),
        ("like = 3", r"`like` takes the name of a rule, not 3"),
    ],
)
def test_a_file_that_holds_no_rule_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(InputError, match=sentence):
        find_preset("a.toml", tmp_path)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18", r"image rule 'resnet18' is unknown; known: radiograph, torchvision:MODEL"),
        ("keras.applications:resnet", None),
        ("keras.applications:resnet50", r"'keras.applications:resnet50' is unknown; nearest: resnet"),
        ("timm:none.json", r"none\.json: cannot be read \(No such file or directory\); give an image rule"),
        ("none.toml", r"none\.toml: cannot be read"),
    ],
)
def test_an_unknown_name_is_answered_with_known_ones(tmp_path: Path, name: str, sentence: str | None) -> None:
    if sentence is None:
        assert find_preset(name, tmp_path).normalisation.channels == "bgr"
        return
    with pytest.raises(InputError, match=sentence):
        find_preset(name, tmp_path)


def test_a_timm_configuration_without_a_rule_is_refused(tmp_path: Path) -> None:
    config = {"input_size": [3, 8, 8], "crop_pct": 0.9, "crop_mode": "border", "mean": [0], "std": [1]}
    (tmp_path / "a.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"a\.json: crop_mode 'border' with crop_pct 0\.9 at 8 x 8 has no image rule"):
        find_preset("timm:a.json", tmp_path)
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(InputError, match=r"b\.json: no data_config of timm as JSON"):
        find_preset("timm:b.json", tmp_path)


# Files


def notices_of(path: Path, rule: ImageRule) -> list[str]:
    found: list[Notice] = []
    read_picture(path, rule, notice=found.append)
    return [notice.kind for notice in found]


def test_what_should_be_said_about_a_picture(pictures: list[Path], tmp_path: Path) -> None:
    by_name = {path.name: path for path in pictures}
    assert notices_of(by_name["plain.jpg"], SQUASH) == []
    assert notices_of(by_name["turned-6.jpg"], SQUASH) == []
    assert notices_of(by_name["turned-6.jpg"], SQUASH.model_copy(update={"orientation": "ignore"})) == ["orientation"]
    assert notices_of(by_name["transparent.png"], SQUASH) == ["alpha"]
    cv2.imwrite(str(tmp_path / "grey.png"), np.arange(64, dtype=np.uint8).reshape(8, 8))
    assert notices_of(tmp_path / "grey.png", SQUASH) == ["grey"]
    found = read_picture(tmp_path / "grey.png", SQUASH, notice=ignore)
    assert found.shape == (8, 8, 3)
    assert (found[..., 0] == found[..., 2]).all()


def test_a_grey_rule_refuses_what_it_refused(pictures: list[Path]) -> None:
    by_name = {path.name: path for path in pictures}
    with pytest.raises(InputError, match=r"cmyk\.jpg: has CMYK; save it as grey or RGB"):
        read_picture(by_name["cmyk.jpg"])
    with pytest.raises(InputError, match=r"turned\.tif: has the TIFF orientation 6; save it upright"):
        read_picture(by_name["turned.tif"])


def test_a_native_picture_of_another_size_is_refused(pictures: list[Path]) -> None:
    rule = ImageRule(name="as it is", fit="native")
    assert load_view(pictures[0], rule, (254, 314)).pixels.shape == (254, 314, 3)
    with pytest.raises(InputError, match=r"turned-1\.jpg: has 314 x 254 pixels, and image rule as it is/1 takes pic"):
        load_view(pictures[0], rule, (224, 224))


def test_a_damaged_cmyk_file_is_one_sentence(pictures: list[Path], tmp_path: Path) -> None:
    content = next(path for path in pictures if path.name == "cmyk.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content.replace(b"\xff\xdb", b"\xff\xef"))  # without its tables
    with pytest.raises(InputError, match=r"a\.jpg: not a readable image, or damaged"):
        read_picture(tmp_path / "a.jpg", SQUASH)


def test_a_geometry_of_its_own() -> None:
    whole = Geometry((4, 6), (4, 6))
    assert whole.is_whole
    assert whole.window == (0, 0, 1, 1)
    assert not Geometry((4, 6), (4, 6), (0, 1)).is_whole
