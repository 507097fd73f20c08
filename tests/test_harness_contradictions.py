"""An `evaluation.json` that contradicts itself, is too large, or is of another format ends in one sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.common.errors import InputError
from harness.gate import reporters
from harness.gate.derive_policy import propose
from harness.gate.judge import judge
from harness.gate.policy import Policy
from harness.results import schema
from harness.results.contradictions import first_contradiction
from harness.results.schema import Evaluation
from harness.results.vocabulary import BUILT_IN
from tests.made_results import LAYER, METHOD, evaluation, summary

ROOT = Path(__file__).parent.parent
Content = dict[str, Any]
MAPS = {"method": METHOD, "layer": LAYER}
RULES: list[tuple[str, str, dict[str, str]]] = [
    *(("iou_top20", statistic, MAPS) for statistic in ("mean", "median", "p05", "index")),
    ("iou_top20", "mean", {**MAPS, "scope": "worst-class"}),
    ("accuracy", "value", {}),
]


def first(content: Content) -> Content:
    """The first metric of the first pair: iou_top20 of layercam at penultimate, of all images."""
    return content["pairs"][0]["metrics"][0]


def changed(change: Callable[[Content], object]) -> str:
    content = json.loads(evaluation().model_dump_json())
    change(content)
    return json.dumps(content)


def refusal(folder: Path, text: str) -> str:
    """The sentence with which the file is refused."""
    (folder / "evaluation.json").write_text(text)
    with pytest.raises(InputError) as caught:
        Evaluation.read(folder)
    sentence = str(caught.value)
    assert sentence.startswith(f"{folder / 'evaluation.json'}: ")
    assert len(sentence.splitlines()) == 1
    assert len(sentence) < 1000
    return sentence


CASES: list[tuple[Callable[[Content], object], str]] = [
    (lambda c: first(c)["estimate"].update(mean=7), "layercam at penultimate, pair 'a -> b', scope 'all': 7"),
    (lambda c: first(c)["estimate"].update(mean=-0.1), "-0.1 lies outside 0 .. 1"),
    (lambda c: first(c)["estimate"].update(low=0.9, high=0.1), "the interval's low end 0.9 is above its high end 0.1"),
    (lambda c: first(c)["index"].update(low=0.9, high=0.1), "index of iou_top20"),
    (lambda c: first(c)["index"].update(floor=1e308), "1e+308 lies outside 0 .. 1"),
    (lambda c: first(c)["intervals"].update(median=[0.9, 0.1]), "median of iou_top20"),
    (lambda c: first(c)["chance"].update(mean=1.5), "chance of iou_top20"),
    (lambda c: first(c)["floor"].update(high=1.5), "floor of iou_top20"),
    (lambda c: first(c)["vanished_rate"].update(mean=1.5), "vanished rate of iou_top20"),
    (lambda c: first(c).update(median=2.0), "2 lies outside 0 .. 1"),
    (lambda c: first(c).update(vanished=101), "101 of 100 images vanished"),
    (lambda c: first(c).update(vanished=-1), "a number of images or patients is negative"),
    (lambda c: first(c).update(undefined={"empty_map": -50}), "a number of images or patients is negative"),
    (lambda c: first(c).update(undefined={"empty_map": 1}), "100 images have a value and 1 have none, but 100 are"),
    (lambda c: first(c).update(n_patients=91), "91 patients in 100 images of 90 patients"),
    (lambda c: c["pairs"][0]["metrics"].append(first(c)), "has two entries for iou_top20 of layercam at penultimate"),
    (lambda c: c.update(pairs=[]), "it lists no pairs"),
    (lambda c: c.update(layers=[]), "it lists no layers"),
    (lambda c: c.update(methods=[]), "it lists no methods"),
    (lambda c: c.update(methods=["layercam", "x"]), "the CAM method 'x' is not known here"),
    (lambda c: c.update(environment={"versions": 1}), "its environment's versions are no table"),
    (lambda c: c["pairs"].append(c["pairs"][0]), "pair 'a -> b' of 'Made' is listed twice"),
    (lambda c: c["checkpoints"].append(c["checkpoints"][0]), "checkpoint 'a' is listed twice"),
    (lambda c: c.update(checkpoints=[]), "pair 'a -> b' names a checkpoint 'a' that is not listed"),
    (lambda c: c["pairs"][0].update(after="gone"), "pair 'a -> b' names a checkpoint 'gone' that is not listed"),
    (lambda c: c["pairs"][0]["agreement"].update(mean=1.2), "agreement of 'a -> b': 1.2 lies outside 0 .. 1"),
    (lambda c: c["pairs"][0]["change"]["accuracy"].update(low=-2), "change of accuracy of 'a -> b': -2 lies outside"),
    (lambda c: c["checkpoints"][0]["quality"]["auc"].update(mean=1.1), "auc of 'a': 1.1 lies outside 0 .. 1"),
    (lambda c: c.update(unreadable={str(n): "" for n in range(121)}), "121 of 120 images are unreadable"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), CASES, ids=[sentence for _, sentence in CASES])
def test_a_contradiction_is_a_sentence(tmp_path: Path, change: Callable[[Content], object], sentence: str) -> None:
    found = refusal(tmp_path, changed(change))
    assert "contradicts itself (" in found
    assert sentence in found


def test_what_is_sound_is_no_contradiction() -> None:
    assert first_contradiction(evaluation()) is None
    low = [summary("pearson", mean=-0.5), summary("gini_change", mean=-0.9), summary("unknown_metric", mean=7)]
    assert first_contradiction(evaluation(low)) is None
    rounded = evaluation([summary(estimate=summary().estimate.model_copy(update={"mean": 1 + 1e-7, "high": 1 + 1e-7}))])
    assert first_contradiction(rounded) is None


def test_every_column_has_its_range() -> None:
    ranges = {name: BUILT_IN.range_of(name) for name in BUILT_IN.columns}
    assert ranges["pearson"] == (-1, 1)
    assert ranges["gini_before"] == ranges["gini_shift"] == ranges["iou_top20"] == (0, 1)
    assert ranges["gini_change"] == (-1, 1)
    assert None not in ranges.values()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (changed(lambda c: first(c)["estimate"].update(mean="NaN")), "0.estimate.mean: Input should be a finite"),
        (changed(lambda c: first(c).update(sd="Infinity")), "pairs.0.metrics.0.sd: Input should be a finite number"),
        (changed(lambda c: c["seconds"].update(total=float("nan"))), "seconds.total: Input should be a finite number"),
        (changed(lambda c: c.update(format=2)), "format 2 was written by a later version: update this program"),
        (changed(lambda c: c.update(format=0)), "format 0 is not known: evaluate anew (known: 1)"),
        (changed(lambda c: c.update({"x\n" * 500: 1})), "Extra inputs are not permitted"),
        (200_000 * "[", "not an evaluation of format 1 (the file: Invalid JSON: recursion limit exceeded"),
        ("", "not an evaluation of format 1 (the file: Invalid JSON"),
        ("\x00\xff", "not an evaluation of format 1 (the file: Invalid JSON"),
        ("[" + 200_000 * "{}," + "{}]", "not an evaluation of format 1"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_evaluation_is_a_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, text)


ODD = (None, [], {}, "", "x", -1, 1e308, "NaN", 10**30)


def places(node: object, above: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path to every value of a JSON document, of lists their first entry only."""
    if above:
        yield above
    inner = node.items() if isinstance(node, dict) else enumerate(node[:1]) if isinstance(node, list) else ()
    for key, value in inner:
        yield from places(value, (*above, key))


def test_no_odd_value_anywhere_is_a_fault_of_the_program() -> None:
    """Every value of a result in turn becomes each of ODD: it is refused in a sentence, or judged and proposed from."""
    text = evaluation().model_dump_json()
    rules = [{"metric": metric, "statistic": statistic, **place, "min": 0.1} for metric, statistic, place in RULES]
    policy = Policy.model_validate({"format": 1, "rule": rules})
    refused = judged = 0
    for path in places(json.loads(text)):
        for odd in ODD:
            content = json.loads(text)
            node = content
            for key in path[:-1]:
                node = node[key]
            node[path[-1]] = odd
            try:
                result = Evaluation.parse(json.dumps(content).encode(), Path("evaluation.json"))
            except InputError:
                refused += 1
                continue
            judged += 1
            assert reporters.terminal(judge(result, policy, result))
            with suppress(InputError):
                propose(result, "digest", "name")
    assert min(refused, judged) > 100


def test_a_huge_file_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "evaluation.json").open("wb") as stream:
        stream.truncate(200_000_000)  # a hole, which takes no space on the disk
    with pytest.raises(InputError, match="holds more than 128 MB"):
        Evaluation.read(tmp_path)
    with pytest.raises(InputError, match="is a device, not a plain file"):
        Evaluation.read(Path("/dev/zero"))
    monkeypatch.setattr(schema, "MOST_BYTES", 1000)
    with Path("/dev/zero").open("rb") as endless, pytest.raises(InputError, match="holds more than 0 MB"):
        schema.read_result(Path(f"/dev/fd/{endless.fileno()}"))


def test_a_result_may_come_through_an_open_pipe(tmp_path: Path) -> None:
    """One that is open already, as a shell's `<(command)` is; a FIFO may have no writer, and is refused."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        thread = threading.Thread(target=lambda: (stream.write(evaluation().model_dump_json()), stream.close()))
        thread.start()
        assert Evaluation.read(Path(f"/dev/fd/{reader}")) == evaluation()
        thread.join(10)
    os.close(reader)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="is a FIFO, not a plain file"):
        Evaluation.read(tmp_path / "fifo")


@pytest.mark.parametrize("command", ["report", "gate"])
def test_commands_exit_with_2(tmp_path: Path, command: str) -> None:
    (tmp_path / "evaluation.json").write_text(changed(lambda c: c.update(checkpoints=[])))
    line = [sys.executable, "-m", "harness", command, str(tmp_path)]
    found = subprocess.run(line, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 2
    assert "contradicts itself" in found.stderr
    assert "fault of this program" not in found.stderr


def null(**changed: Any) -> dict[str, Any]:
    estimates = ("similarity", "others", "margin", "rank", "others_rank")
    return {
        "null": "null.onnx", "digest": "d", "phase": "p", "pair": "a -> b", **MAPS, "n": 9, "entropy": 0.1,
        "blind": False, **{name: {"mean": 0.5, "low": 0.4, "high": 0.6} for name in estimates}, **changed,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (null(pair="b -> a"), "a null is of 'b -> a', penultimate, layercam, which is not listed"),
        (
            null(similarity={"mean": 1.5, "low": 1.4, "high": 1.6}),
            "overlap of 'a -> b' with 'null.onnx' under layercam",
        ),
    ],
)
def test_nulls_contradict_themselves_in_words(tmp_path: Path, item: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(tmp_path, changed(lambda content: content["nulls"].append(item)))
    assert "nulls" in changed(lambda content: content["nulls"].append(null()))
