"""Studies of several architectures, replicates and checkpoints: their files, their floors, their common images."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from harness.common.errors import InputError
from harness.evaluation.study_file import read_study
from harness.results.schema import Evaluation
from harness.results.vocabulary import STABILITY
from kernels.metrics import pair_metrics
from tests import tiny_graphs
from tests.tiny_graphs import evaluate, maps_of, metric, read_rows

BRIEF = 'map_size = 16\nchance = 2\njitter = 1\nmethods = ["layercam", "gradcam"]\n'
ALPHA = '[[architecture]]\nname = "Alpha"\nbefore = "graphs/a-before.onnx"\nafter = '
ONE = ALPHA + '"graphs/a-after-1.onnx"\n'
TWO = ALPHA + '["graphs/a-after-1.onnx", "graphs/a-after-2.onnx", "graphs/a-after-3.onnx"]\n'
BETA = '[[architecture]]\nname = "Beta"\nbefore = "graphs/b-before.onnx"\nafter = "graphs/b-after.onnx"\n'
DATA = 'data = "images/manifest.csv"\n'
Writer = Callable[..., Path]

pytestmark = pytest.mark.usefixtures("in_brief")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images that Alpha mostly gets right, and graphs of two architectures."""
    folder = tmp_path_factory.mktemp("study")
    before = tiny_graphs.write_graph(folder / "graphs" / "a-before.onnx", 0, balanced=True, architecture="Alpha")
    for number, nudge in enumerate((0.15, -0.15, 0.3), 1):
        tiny_graphs.write_graph(
            folder / "graphs" / f"a-after-{number}.onnx", 0, nudge=nudge, balanced=True, phase="finetune"
        )
    tiny_graphs.write_graph(folder / "graphs" / "b-before.onnx", 1, balanced=True, roles={"late": "last"})
    tiny_graphs.write_graph(folder / "graphs" / "b-after.onnx", 1, nudge=0.3, balanced=True, roles={"late": "last"})
    manifest = tiny_graphs.write_images(folder / "images", patients=24, each=2, exposure=0.6)
    tiny_graphs.label_as(before, manifest)
    return folder


@pytest.fixture
def study(place: Path, request: pytest.FixtureRequest) -> Writer:
    """Writes a study file beside the graphs."""

    def write(*parts: str) -> Path:
        path = place / f"{request.node.name.replace('/', '-')[:60]}.toml"
        path.write_text("".join(parts))
        return path

    return write


@pytest.fixture(scope="module")
def both(place: Path) -> tuple[Evaluation, Path]:
    """Alpha with three replicates, and Beta; evaluated once."""
    path = place / "both.toml"
    path.write_text(DATA + BRIEF + TWO + BETA)
    return evaluate(place / "out-both", path), place / "out-both"


def right(out: Path, checkpoint: str) -> set[str]:
    """The images whose largest logit is that of their class."""
    return {
        row["image"]
        for row in read_rows(out, "predictions", checkpoint=checkpoint)
        if row["labels"] == [tiny_graphs.CLASSES[int(np.argmax(row["logits"]))]]
    }


def mean_of_defined(columns: list[np.ndarray]) -> np.ndarray:
    return np.array(
        [np.mean(row[np.isfinite(row)]) if np.isfinite(row).any() else np.nan for row in np.transpose(columns)]
    )


# What a study compares


def test_replicates_are_the_floor_and_its_value_is_their_mean_disagreement(both: tuple[Evaluation, Path]) -> None:
    result, out = both
    alpha = [pair for pair in result.pairs if pair.architecture == "Alpha"]
    assert [pair.replicate for pair in alpha] == [0, 1, 2]
    assert {pair.floor for pair in alpha} == {"replicate"}
    afters = [pair.after for pair in alpha]
    for number, pair in enumerate(alpha):
        chosen = sorted(right(out, pair.before) & right(out, pair.after))
        assert pair.selected == len(chosen) > 10
        maps = {key: {image: one for (image, _), one in maps_of(
            out, checkpoint=key, layer="early", method="layercam", draw=0
        ).items()} for key in afters}  # fmt: skip
        columns = []
        for one, other in combinations(afters, 2):
            first, second = (np.stack([maps[key][image] for image in chosen]) for key in (one, other))
            scores = pair_metrics(first, second, size=(16, 16))
            columns.append(scores.column("soft_iou")[0])
        literal = np.nanmean(mean_of_defined(columns))
        found = metric(result, "soft_iou", pair=number)
        assert found.floor is not None
        assert found.floor.mean == pytest.approx(literal)


def test_without_replicates_the_floor_is_jitter(both: tuple[Evaluation, Path]) -> None:
    result, _ = both
    assert [pair.floor for pair in result.pairs if pair.architecture == "Beta"] == ["jitter"]


def test_architectures_are_compared_on_the_images_that_all_their_checkpoints_get_right(
    both: tuple[Evaluation, Path],
) -> None:
    result, out = both
    common = set.intersection(*(right(out, checkpoint.key) for checkpoint in result.checkpoints))
    assert result.study is not None
    assert result.study.selected == len(common)
    assert len(common) < min(pair.selected for pair in result.pairs)
    values: dict[str, dict[str, list[float]]] = {}
    for row in read_rows(out, "scores", reference="observed", metric="iou_top20", method="gradcam"):
        if row["image"] in common:
            values.setdefault(row["image"], {}).setdefault(row["architecture"], []).append(row["value"])
    means = [
        (float(np.mean(of["Alpha"])), of["Beta"][0])
        for of in values.values()
        if np.isfinite([*of["Alpha"], *of["Beta"]]).all()
    ]
    alpha, beta = np.mean(means, axis=0)
    compared = next(item for item in result.study.comparisons if (item.scope, item.metric) == ("all", "iou_top20"))
    ranking = next(item for item in compared.rankings if item.method == "gradcam")
    assert dict(zip(ranking.architectures, ranking.means, strict=True)) == pytest.approx({"Alpha": alpha, "Beta": beta})
    assert alpha != beta
    assert ranking.architectures == (["Alpha", "Beta"] if alpha > beta else ["Beta", "Alpha"])
    assert ranking.n == len(means)


def test_three_replicates_are_resampled_and_one_is_not(both: tuple[Evaluation, Path]) -> None:
    result, _ = both
    assert result.study is not None
    assert result.study.resampled == ["Alpha"]


def test_convergence_is_tested_between_the_ends_of_the_architectures(both: tuple[Evaluation, Path]) -> None:
    result, out = both
    assert result.study is not None
    found = next(item for item in result.study.convergence if item.of == "accuracy")
    shares = [len(right(out, pair.after)) / result.images for pair in result.pairs]
    assert found.difference == pytest.approx(shares[3] - np.mean(shares[:3]))


def test_each_image_goes_through_each_checkpoint_once(both: tuple[Evaluation, Path]) -> None:
    result, out = both
    rows = read_rows(out, "predictions")
    assert len(rows) == len({(row["checkpoint"], row["image"]) for row in rows}) == 6 * 48
    assert len(result.checkpoints) == 6


def test_paths_are_relative_to_the_study_and_not_to_where_one_stands(
    place: Path, study: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study('data = "lists/of.csv"\nroot = "images"\n', BRIEF, ONE)
    (place / "lists").mkdir(exist_ok=True)
    (place / "lists" / "of.csv").write_text((place / "images" / "manifest.csv").read_text())
    monkeypatch.chdir(tmp_path)
    result = evaluate(tmp_path / "out", path)
    assert result.images == 48
    assert not result.unreadable


def test_options_of_the_study_are_honoured(study: Writer, tmp_path: Path) -> None:
    path = study(
        DATA,
        'methods = ["hirescam"]\nlayers = ["late", "early"]\nselect = "agree"\nmap_size = 20\nseed = 5\njitter = 2\n'
        "chance = 3\nmargin = 0.4\n",
        ONE,
    )
    result = evaluate(tmp_path, path)
    assert (result.methods, result.layers, result.selection) == (["hirescam"], ["late", "early"], "agree")
    assert (result.map_size, result.seed, result.margin) == ((20, 20), 5, 0.4)
    assert (result.jitter_draws, result.chance_draws) == (2, 3)
    assert {row["draw"] for row in read_rows(tmp_path, "maps")} == {0, 1, 2}
    assert {row["layer"] for row in read_rows(tmp_path, "maps")} == {"late", "early"}
    assert {item.margin for item in result.pairs[0].equivalence} == {0.4}
    assert result.pairs[0].equivalence[0].equivalent


def test_the_role_of_a_layer_names_it_in_every_architecture(place: Path, study: Writer, tmp_path: Path) -> None:
    roles = '[[architecture]]\nname = "Gamma"\nbefore = "graphs/g.onnx"\nafter = "graphs/g2.onnx"\n'
    for name, nudge in (("g", 0.0), ("g2", 0.2)):
        tiny_graphs.write_graph(place / "graphs" / f"{name}.onnx", 0, nudge=nudge, roles={"early": "last"})
    for number, (named, files) in enumerate([("last", BETA + roles), ("late", BETA)]):
        result = evaluate(tmp_path / str(number), study(DATA, f'layers = ["{named}"]\nselect = "all"\n', BRIEF, files))
        assert result.layers == ["last"]


# Checkpoints along a training


def test_checkpoints_are_compared_with_the_first_and_with_the_one_before(place: Path, tmp_path: Path) -> None:
    names = ["a-before", "a-after-1", "a-after-2", "a-after-3"]
    files = [place / "graphs" / f"{name}.onnx" for name in names]
    data = place / "images" / "manifest.csv"
    result = evaluate(tmp_path, "--checkpoints", *files, "--data", data, "--map-size", 16, "--chance", 2, "--jitter", 1)
    assert [(pair.before, pair.after, pair.kind) for pair in result.pairs] == [
        ("a-before", "a-after-1", "since-first"),
        ("a-before", "a-after-2", "since-first"),
        ("a-before", "a-after-3", "since-first"),
        ("a-after-1", "a-after-2", "since-previous"),
        ("a-after-2", "a-after-3", "since-previous"),
    ]
    rows = read_rows(tmp_path, "predictions")
    assert len(rows) == len({(row["checkpoint"], row["image"]) for row in rows}) == 4 * 48
    assert result.study is None or not any(item.rankings for item in result.study.comparisons)


# Study files that are refused


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DATA + "methodz = 1\n" + ONE, r"methodz: unknown key; did you mean methods"),
        (DATA + ONE + 'colour = "red"\n', r"architecture 1 colour: unknown key"),
        (DATA + 'jitter = "many"\n' + ONE, r"jitter: Input should be a valid integer"),
        (DATA + "map_size = 1\n" + ONE, r"map_size 1: Input should be greater than or equal to 2"),
        (DATA + "margin = 0.0\n" + ONE, r"margin: Input should be greater than 0"),
        (DATA + 'select = "best"\n' + ONE, r"select: Input should be 'true-positive', 'agree' or 'all'"),
        (DATA + 'methods = ["layercamm"]\n' + ONE, r"methods: .*layercamm.*layercam"),
        (DATA + 'layers = ["middle"]\n' + ONE, r"no CAM layer 'middle' in .*; all have: early, late"),
        (DATA, r"architecture: Field required"),
        (DATA + "architecture = []\n", r"architecture: List should have at least 1 item"),
        (ONE, r"data: Field required"),
        (DATA + '[[architecture]]\nbefore = "x.onnx"\n', r"give `before` and `after`, or `checkpoints`"),
        (DATA + ONE + 'checkpoints = ["a", "b"]\n', r"give `before` and `after`, or `checkpoints`"),
        (DATA + '[[architecture]]\ncheckpoints = ["a.onnx"]\n', r"`checkpoints` needs two files or more"),
        (DATA + '[[architecture]]\nbefore = ["1", "2"]\nafter = ["1", "2", "3"]\n', r"`before` takes one file, or as"),
        (DATA + ONE + ONE, r"'Alpha' stands for two architectures or checkpoints; give each \[\[architecture\]\] a"),
        (DATA + ONE.replace("a-before", "gone"), r"gone\.onnx: cannot be read \(No such file or directory\)"),
        ('data = "gone.csv"\n' + ONE, r"gone\.csv: no such manifest or folder"),
        (DATA + "split = \n" + ONE, r"not a TOML file \(Invalid value"),
        ("\udcff", r"not a TOML file"),
    ],
)
def test_a_study_that_cannot_be_read_is_refused_with_its_place(
    place: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    path = place / "refused.toml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=sentence) as refused:
        evaluate(tmp_path / "out", path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_a_study_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.toml: cannot be read \(No such file or directory\); give a study"):
        evaluate(tmp_path / "out", tmp_path / "gone.toml")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"classes": ["dark", "bright", "other"]}, "different classes: dark, bright, left and dark, bright, other"),
        ({"score_kind": "multilabel"}, "different score kinds: softmax and multilabel"),
        ({"explained": "probability"}, "different explained scores"),
    ],
)
def test_architectures_that_do_not_speak_of_the_same_are_refused(
    place: Path, study: Writer, tmp_path: Path, changed: dict, sentence: str
) -> None:
    tiny_graphs.write_graph(place / "graphs" / "other.onnx", 3, **changed)
    other = '[[architecture]]\nname = "Other"\nbefore = "graphs/other.onnx"\nafter = "graphs/other.onnx"\n'
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path / "out", study(DATA, ONE, other))


def test_a_study_fixes_its_options_so_none_is_taken_beside_it(study: Writer, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--seed cannot be given beside the study .*, which says that itself"):
        evaluate(tmp_path, study(DATA, ONE), "--seed", 3)


@pytest.mark.parametrize("option", ["--seed", "--jitter", "--chance"])
def test_an_option_of_zero_is_not_lost_beside_a_study(study: Writer, tmp_path: Path, option: str) -> None:
    with pytest.raises(InputError, match=f"{option} cannot be given beside"):
        evaluate(tmp_path, study(DATA, BRIEF, ONE), option, 0)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (DATA + "methods = []\n" + ONE, "methods: name at least one CAM method"),
        (DATA + "seed = -1\n" + ONE, "seed: Input should be greater than or equal to 0"),
        (DATA + "[[architecture]]\nbefore = []\nafter = []\n", "one file or more, not an empty list"),
        (DATA + '[[architecture]]\nbefore = "a.onnx"\nafter = []\n', "one file or more, not an empty list"),
        (DATA + '[[architecture]]\nbefore = []\nafter = "a.onnx"\n', "one file or more, not an empty list"),
    ],
    ids=["no method", "negative seed", "no files", "no after", "no before"],
)
def test_empty_lists_and_negative_seeds_are_refused(study: Writer, tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        evaluate(tmp_path / "out", study(text))


@pytest.mark.parametrize("kind", ["replicates", "checkpoints"])
def test_one_file_cannot_stand_in_two_places_of_a_training(study: Writer, kind: str) -> None:
    """Two equal replicates would be a floor without noise; two pairs of one name would overwrite each other."""
    after = '["graphs/a-after-1.onnx", "graphs/a-after-1.onnx"]\n'
    series = (
        '[[architecture]]\ncheckpoints = ["graphs/a-before.onnx", "graphs/a-after-1.onnx", "graphs/a-after-1.onnx"]'
    )
    with pytest.raises(InputError, match=r"a-after-1"):
        read_study(study(DATA, ALPHA + after if kind == "replicates" else series))


def test_methods_named_twice_are_computed_once(study: Writer, tmp_path: Path) -> None:
    result = evaluate(tmp_path, study(DATA, 'methods = ["layercam", "layercam"]\nmap_size = 16\n', ONE))
    assert result.methods == ["layercam"]


def test_methods_named_twice_on_the_command_line_are_computed_once(place: Path, tmp_path: Path) -> None:
    files = ["--before", place / "graphs" / "a-before.onnx", "--after", place / "graphs" / "a-after-1.onnx"]
    result = evaluate(
        tmp_path, *files, "--data", place / "images" / "manifest.csv", "--map-size", 16, "--chance", 2,
        "--method", "layercam", "--method", "layercam",
    )  # fmt: skip
    assert result.methods == ["layercam"]
    assert len(result.pairs[0].metrics) == len({(item.metric, item.scope) for item in result.pairs[0].metrics})


def test_every_metric_that_has_an_index_has_both_references(both: tuple[Evaluation, Path]) -> None:
    result, _ = both
    for pair in result.pairs:
        for item in pair.metrics:
            has = {name: getattr(item, name) is not None for name in ("chance", "floor", "index")}
            assert has == dict.fromkeys(has, item.metric in STABILITY), item.metric
