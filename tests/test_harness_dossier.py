"""The dossier: criteria that came first, numbers that can be traced, a signature that can be checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

import harness
from harness import cli
from harness.change_control import dossier as dossiers
from harness.change_control.commit import commit_of
from harness.change_control.dossier import make_dossier
from harness.change_control.sections import Judged, sections
from harness.change_control.signature import is_signed_by, sign
from harness.change_control.traced import Section
from harness.common.errors import InputError
from harness.common.formatting import MINUS
from harness.gate.policy import read_policy
from harness.results.schema import Evaluation
from tests import made_results, tiny_graphs

RULES = """format = 1
[requirements]
min_images = 5
min_patients = 5
max_undefined = 1.0
same_data = false
[[rule]]
metric = "accuracy"
statistic = "change"
min = -0.9
mode = "point"
[[rule]]
metric = "iou_top20"
method = "layercam"
layer = "early"
statistic = "mean"
min = 0.01
[[rule]]
metric = "iou_top20"
method = "gradcam++"
layer = "early"
statistic = "mean"
min = 0.001
scope = "bright"
mode = "point"
severity = "warn"
[[rule]]
metric = "negative-flip-rate"
max = 0.99
[[rule]]
metric = "moved-unseen-rate"
method = "layercam"
layer = "early"
max = 0.99
mode = "point"
[[rule]]
region = "left"
method = "layercam"
layer = "early"
min_inside = 0.01
"""
EARLY, LATE = "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"


def commit(folder: Path, time: str = EARLY) -> None:
    """Commit everything in a folder, at a time."""
    who = {f"GIT_{role}_{what}": "a@b" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    when = {"GIT_AUTHOR_DATE": time, "GIT_COMMITTER_DATE": time}
    environment = {**os.environ, **who, **when, "GIT_CONFIG_GLOBAL": os.devnull}
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "policy"]):
        subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with regions, of three classes and 24 patients."""
    folder = tmp_path_factory.mktemp("dossier")
    before = tiny_graphs.write_graph(folder / "before.onnx", balanced=True)
    after = tiny_graphs.write_graph(folder / "after.onnx", balanced=True, nudge=0.1, phase="finetune")
    manifest = tiny_graphs.write_images(folder / "images", patients=60, each=1, exposure=0.6)
    tiny_graphs.label_as(before, manifest, wrong_each=9)
    boxes = ["file,x,y,w,h,region", *(f"image-{n:03d}.png,0,0,24,40,left" for n in range(60))]
    (folder / "boxes.csv").write_text("\n".join(boxes))
    with tiny_graphs.in_brief():
        tiny_graphs.evaluate(
            folder / "result", "--before", before, "--after", after, "--data", manifest, "--map-size", 32,
            "--select", "all", "--boxes", folder / "boxes.csv", "--jitter", 1, "--chance", 2,
        )  # fmt: skip
    return folder / "result"


@pytest.fixture
def policy(tmp_path: Path) -> Path:
    (tmp_path / "rules").mkdir()
    (tmp_path / "rules" / "policy.toml").write_text(RULES)
    commit(tmp_path / "rules")
    return tmp_path / "rules" / "policy.toml"


@pytest.fixture
def made(result: Path, policy: Path) -> list[Section]:
    found = Evaluation.read(result)
    verdict = make_dossier(result, policy).verdict
    commit = commit_of(policy, policy.read_bytes())
    return sections(Judged(found, read_policy(policy, found.vocabulary), verdict, commit, None))


def test_the_order_is_that_of_a_change_control_plan(result: Path, policy: Path) -> None:
    html = make_dossier(result, policy).html
    titles = re.findall(r'<h[23] id="section-[\d.]+">([\d.]+) ([^<]+)<', html)
    assert [title for _, title in titles if "." not in _][:3] == [
        "Description of modifications", "Modification protocol", "Impact assessment",
    ]  # fmt: skip
    numbers = [tuple(map(int, number.split("."))) for number, _ in titles]
    assert numbers == sorted(numbers)
    assert numbers[-2:] == [(5,), (6,)]
    assert "<script" not in html


def test_the_criteria_stand_with_digest_commit_and_time(result: Path, policy: Path) -> None:
    html = make_dossier(result, policy).html
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=policy.parent, capture_output=True, text=True, check=True)
    assert head.stdout.strip() in html
    assert EARLY in html
    assert Evaluation.read(result).environment["began"] in html
    for digest in (policy, result / "evaluation.json"):
        assert dossiers.bytes_digest(digest.read_bytes()) in html


# Every number stands where its row says


def leaves(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        for one in value.values():
            yield from leaves(one)
    elif isinstance(value, list):
        for one in value:
            yield from leaves(one)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        yield float(value)


def at(content: Any, pointer: str) -> Any:
    """RFC 6901, without escapes."""
    for part in filter(None, pointer.split("/")):
        content = content[int(part)] if isinstance(content, list) else content[part]
    return content


def test_every_number_stands_where_its_row_says(made: list[Section], result: Path) -> None:
    content = json.loads((result / "evaluation.json").read_text())
    checked = 0
    for section in made:
        for table in section.tables:
            for row in table.rows:
                pointers = [one[1:] for one in row.source.split(", ") if one.startswith("E")]
                known = [leaf for pointer in pointers for leaf in leaves(at(content, pointer))]
                for head, cell in zip(table.headers, row.cells, strict=True):
                    if not pointers or head in ("drop shown with 80 % power", "bound", "why", "before", "after"):
                        continue
                    for text in re.findall(rf"[{MINUS}+]?\d+\.\d+", cell.replace("95 %", "")):
                        value, places = float(text.replace(MINUS, "-")), len(text.partition(".")[2])
                        close = 0.5 * 10**-places + 1e-9
                        assert any(abs(leaf - value) <= close for leaf in known), (
                            section.title,
                            head,
                            cell,
                            row.source,
                        )
                        checked += 1
    assert checked > 150


def test_counts_of_images_are_those_of_the_result(made: list[Section], result: Path) -> None:
    found = Evaluation.read(result)
    (data,) = [section for section in made if section.number == "2.1"]
    shown = {row.cells[0]: row.cells[1] for row in data.tables[0].rows}
    assert (shown["images"], shown["patients"]) == (str(found.images), str(found.patients)) == ("60", "60")
    assert shown["digest of names, classes, patients and contents"] == found.data_digest


def test_what_was_not_shown_is_named(made: list[Section], result: Path, policy: Path) -> None:
    points = " ".join(made[-1].points)
    assert made[-1].title == "What was not shown"
    for text in ("noise on the picture", "no causal check", "no nulls", "Subgroups", "not why an answer is right"):
        assert text in points
    assert "No region was given" not in points
    skipped = policy.with_name("more.toml")
    skipped.write_text(RULES.replace("min_images = 5", "min_images = 50000"))
    commit(policy.parent)
    assert "could not be judged: 60 images; the policy requires 50000" in make_dossier(result, skipped).html


def test_what_the_policy_names_is_defined(result: Path, policy: Path) -> None:
    html = make_dossier(result, policy).html
    defined = html[html.index('id="section-6"') :]
    for word in ("iou_top20", "gradcam++", "layercam", "Stability index", "Chance"):
        assert word.lower() in defined.lower(), word


# What is refused


def test_a_policy_that_is_younger_than_the_result_is_refused(result: Path, policy: Path) -> None:
    policy.write_text(RULES + "# tightened\n")
    commit(policy.parent, LATE)
    sentence = r"policy.toml: was committed at 2099-01-01T00:00:00Z, after the evaluation began \(20.*Z\)"
    with pytest.raises(InputError, match=sentence):
        make_dossier(result, policy)


def test_a_younger_commit_that_leaves_the_policy_alone_is_none_of_its(result: Path, policy: Path) -> None:
    (policy.parent / "other.txt").write_text("later")
    commit(policy.parent, LATE)
    assert make_dossier(result, policy).verdict.exit_code == 0


def derived(result: Path, policy: Path) -> None:
    digest = dossiers.bytes_digest((result / "evaluation.json").read_bytes())
    policy.write_text(RULES.replace("format = 1\n", f'format = 1\nderived_from = "{digest}"\n'))
    commit(policy.parent)


def uncommitted(_: Path, policy: Path) -> None:
    policy.rename(policy.with_name("old.toml"))
    policy.write_text(RULES)
    subprocess.run(["git", "rm", "-q", "--cached", "policy.toml"], cwd=policy.parent, check=True)
    commit_all_but = ["git", "-c", "user.name=a", "-c", "user.email=b", "commit", "-q", "-m", "x"]
    subprocess.run(commit_all_but, cwd=policy.parent, check=True)


def changed(_: Path, policy: Path) -> None:
    policy.write_text(RULES + "# loosened\n")


def without_repository(_: Path, policy: Path) -> None:
    (policy.parent / ".git").rename(policy.parent / "gone")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (derived, "was derived from this very result"),
        (uncommitted, "exists on disk, but not in"),
        (changed, "was changed after its last commit"),
        (without_repository, "git does not say when it was committed .*; keep policies in a git repository"),
    ],
)
def test_criteria_that_were_not_fixed_are_refused(
    result: Path, policy: Path, change: Callable[[Path, Path], None], sentence: str
) -> None:
    change(result, policy)
    with pytest.raises(InputError, match=sentence):
        make_dossier(result, policy)


def test_a_policy_that_was_never_committed_is_refused(result: Path, policy: Path) -> None:
    fresh = policy.with_name("fresh.toml")
    fresh.write_text(RULES)
    with pytest.raises(InputError, match=r"fresh.toml: is in no commit"):
        make_dossier(result, fresh)


def test_a_policy_from_another_evaluation_of_the_same_checkpoint_is_refused(
    result: Path, policy: Path, tmp_path: Path
) -> None:
    other = Evaluation.read(result)
    other.seconds["total"] = 1.0
    (tmp_path / "other.json").write_text(other.model_dump_json())
    digest = dossiers.bytes_digest((tmp_path / "other.json").read_bytes())
    policy.write_text(RULES.replace("format = 1\n", f'format = 1\nderived_from = "{digest}"\n'))
    commit(policy.parent)
    with pytest.raises(InputError, match="was derived from another evaluation of the same checkpoint, the baseline"):
        make_dossier(result, policy, tmp_path / "other.json")
    assert "was not given as baseline" in make_dossier(result, policy).html


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [({}, "does not say when it was made"), ({"began": None}, "does not say"), ({"began": "noon"}, "is no time")],
)
def test_a_result_without_its_time_is_refused(policy: Path, tmp_path: Path, environment: dict, sentence: str) -> None:
    made_results.evaluation(environment=environment).write(tmp_path)
    with pytest.raises(InputError, match=sentence):
        make_dossier(tmp_path, policy)


def test_names_are_escaped_and_places_are_not_told(policy: Path, tmp_path: Path) -> None:
    found = made_results.evaluation(environment={"began": LATE})
    hostile = found.model_copy(update={"data": str(tmp_path / "secret" / "<b>x</b>")})
    pair = hostile.pairs[0].model_copy(update={"architecture": "<script>alert(1)</script>"})
    hostile = hostile.model_copy(update={"pairs": [pair]})
    (tmp_path / "e.json").write_text(hostile.model_dump_json())
    html = make_dossier(tmp_path / "e.json", policy).html
    assert "<script>" not in html
    assert "<b>x</b>" not in html


# Signature


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, ed25519.Ed25519PrivateKey.generate())


def write_keys(folder: Path, key: Any, secret: bytes | None = None) -> tuple[Path, Path]:
    """Private and public key as PEM files."""
    locked = serialization.BestAvailableEncryption(secret) if secret else serialization.NoEncryption()
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked))
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return private, public


def test_a_signature_is_of_these_bytes_by_this_key(
    result: Path, policy: Path, tmp_path: Path, keys: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "d.html"
    words = ["dossier", result, "--policy", policy, "--out", out, "--sign", keys[0]]
    assert cli.cli.main(list(map(str, words)), standalone_mode=False) == 0
    assert len((tmp_path / "d.html.sig").read_bytes()) == 64
    key = serialization.load_pem_public_key(keys[1].read_bytes())
    key.verify((tmp_path / "d.html.sig").read_bytes(), out.read_bytes())  # type: ignore[union-attr, call-arg, arg-type]
    verify = ["verify", str(out), "--key", str(keys[1])]
    assert cli.cli.main(verify, standalone_mode=False) == 0
    out.write_text(out.read_text().replace("PASS", "FAIL") + " ")
    assert cli.cli.main(verify, standalone_mode=False) == 1
    assert "verdict: FAIL" in capsys.readouterr().out


def test_a_signature_of_another_key_does_not_fit(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    (tmp_path / "x.html").write_text("x")
    (tmp_path / "other").mkdir()
    other, _ = write_keys(tmp_path / "other", ed25519.Ed25519PrivateKey.generate())
    from harness.change_control.signature import private_key

    sign(tmp_path / "x.html", private_key(other))
    assert not is_signed_by(tmp_path / "x.html", keys[1])


def test_an_old_signature_does_not_stay_beside_a_new_document(result: Path, policy: Path, tmp_path: Path) -> None:
    (tmp_path / "d.html.sig").write_bytes(bytes(64))
    harness.dossier(result, policy, tmp_path / "d.html")
    assert not (tmp_path / "d.html.sig").exists()


@pytest.mark.parametrize(
    "key",
    [
        lambda folder: write_keys(folder, ec.generate_private_key(ec.SECP256R1())),
        lambda folder: write_keys(folder, ed25519.Ed25519PrivateKey.generate(), b"secret"),
        lambda folder: ((folder / "private.pem").write_text("no key"), folder)[1:] * 2,
    ],
)
def test_other_keys_are_refused_before_anything_is_written(
    result: Path, policy: Path, tmp_path: Path, key: Callable[[Path], object]
) -> None:
    key(tmp_path)
    with pytest.raises(InputError, match="not a private Ed25519 key in PEM without a passphrase"):
        harness.dossier(result, policy, tmp_path / "d.html", sign=tmp_path / "private.pem")
    assert not (tmp_path / "d.html").exists()


def test_a_file_needs_a_key(tmp_path: Path) -> None:
    (tmp_path / "x.html").write_text("x")
    with pytest.raises(InputError, match="give the signer's public key with --key"):
        cli.cli.main(["verify", str(tmp_path / "x.html")], standalone_mode=False)


# Outcomes


def test_a_failed_criterion_is_written_down_too(result: Path, policy: Path, tmp_path: Path) -> None:
    policy.write_text(RULES.replace("min = 0.01\n", "min = 0.9999\n"))
    commit(policy.parent)
    verdict = harness.dossier(result, policy, tmp_path / "sub" / "d.html")
    assert verdict.exit_code == 1
    html = (tmp_path / "sub" / "d.html").read_text()
    assert '<span class="outcome">fail</span>' in html
    assert 'class="marked"' in html
