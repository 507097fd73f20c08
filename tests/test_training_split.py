"""The split: no patient in two parts, classes in proportion, seeded, and re-usable."""

from __future__ import annotations

import csv
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.common.errors import InputError
from training.samples import Sample, content_digests, one_hot, read_manifest
from training.split import SPLITS, read_split, require_all_classes, split_by_group, write_split

CLASSES = ("a", "b", "c")


def samples_of(pairs: list[tuple[str, str]]) -> list[Sample]:
    return [Sample(f"{k}.png", Path(f"{k}.png"), (label,), group) for k, (label, group) in enumerate(pairs)]


@given(
    st.lists(st.tuples(st.sampled_from(CLASSES), st.integers(0, 12).map(str)), min_size=1, max_size=80),
    st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_group_is_in_two_parts(pairs: list[tuple[str, str]], seed: int) -> None:
    samples = samples_of(pairs)
    chosen = split_by_group(samples, one_hot(samples, CLASSES), 0.2, 0.3, seed)
    for group in {sample.group for sample in samples}:
        assert len({chosen[k] for k, sample in enumerate(samples) if sample.group == group}) == 1


def uneven() -> list[Sample]:
    """600 images of 300 patients, classes 4 : 2 : 1, up to five images of a patient."""
    rng = np.random.default_rng(0)
    labels = rng.choice(CLASSES, 300, p=[4 / 7, 2 / 7, 1 / 7])
    owners = np.sort(rng.integers(0, 300, 600))
    return samples_of([(str(labels[owner]), str(owner)) for owner in owners])


def test_classes_and_sizes_keep_their_proportions() -> None:
    samples = uneven()
    targets = one_hot(samples, CLASSES)
    chosen = split_by_group(samples, targets, 0.15, 0.25, seed=0)
    for part, share in enumerate((0.6, 0.15, 0.25)):
        assert (chosen == part).mean() == pytest.approx(share, abs=0.01)
        assert targets[chosen == part].mean(axis=0) == pytest.approx(targets.mean(axis=0), abs=0.02)


def test_many_labels_keep_their_proportions() -> None:
    rng = np.random.default_rng(1)
    targets = (rng.uniform(size=(900, 3)) < [0.5, 0.2, 0.05]).astype(np.float32)
    samples = [Sample(str(k), Path(str(k)), (), str(k // 2)) for k in range(900)]
    chosen = split_by_group(samples, targets, 0.2, 0.2, seed=0)
    for part in range(3):
        assert targets[chosen == part].mean(axis=0) == pytest.approx(targets.mean(axis=0), abs=0.015)


def test_split_is_a_function_of_the_seed() -> None:
    samples = uneven()
    targets = one_hot(samples, CLASSES)
    first, again, other = (split_by_group(samples, targets, 0.2, 0.2, seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def placed(folder: Path, count: int = 9) -> list[Sample]:
    """Samples whose files exist, three classes in turn, each image a patient of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        (folder / f"{k}.png").write_bytes(bytes([k]))
    return [Sample(f"{k}.png", folder / f"{k}.png", (CLASSES[k % 3],), str(k)) for k in range(count)]


def written(path: Path, samples: list[Sample]) -> list[str]:
    """The column `file` of the split that is written for the samples, all of them in the same part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_split(path, samples, np.zeros(len(samples), int), content_digests(samples))
    return [row.file for row in read_manifest(path)]


def test_written_split_is_a_manifest_and_reads_back(tmp_path: Path) -> None:
    samples, chosen = placed(tmp_path / "data"), np.arange(9) % 3
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "split.csv"
    write_split(path, samples, chosen, content_digests(samples))
    sha256 = hashlib.sha256(b"\0").hexdigest()
    assert path.read_text(encoding="utf-8").splitlines()[1] == f"../data/0.png,a,0,train,{sha256}"
    assert [row.path.resolve() for row in read_manifest(path)] == [sample.path.resolve() for sample in samples]
    assert np.array_equal(read_split(path, samples[::-1]), chosen[::-1])
    with pytest.raises(InputError, match=r"no split for .*new\.png"):
        read_split(path, [Sample("new.png", tmp_path / "data" / "new.png", ("a",), "1")])


def test_split_names_links_and_not_their_targets(tmp_path: Path) -> None:
    """So a run beside a linked store of images can be moved to where the store is linked again."""
    stored = placed(tmp_path / "store")
    (tmp_path / "here" / "data").mkdir(parents=True)
    (tmp_path / "here" / "folder").symlink_to(tmp_path / "store")
    for sample in stored:
        (tmp_path / "here" / "data" / sample.file).symlink_to(sample.path)
    for name in ("data", "folder"):
        samples = [replace(sample, path=tmp_path / "here" / name / sample.file) for sample in stored]
        path = tmp_path / "here" / "run" / f"{name}.csv"
        assert written(path, samples) == [f"../{name}/{k}.png" for k in range(9)]
        assert read_split(path, samples).tolist() == [0] * 9


def test_split_of_a_run_behind_a_link_leads_to_the_images(tmp_path: Path) -> None:
    """`runs/../data` is not `data` where `runs` is a link: the written path has to be followed, not calculated."""
    samples = placed(tmp_path / "project" / "data")
    (tmp_path / "disk").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "disk")
    files = written(tmp_path / "project" / "runs" / "one" / "split.csv", samples)
    assert files[0] == "../../project/data/0.png"
    assert all((tmp_path / "disk" / "one" / file).is_file() for file in files)


def test_split_with_resolved_or_absolute_paths_is_still_read(tmp_path: Path) -> None:
    """As earlier versions wrote it: the targets of links, relative or not."""
    stored = placed(tmp_path / "store")
    (tmp_path / "data").mkdir()
    for sample in stored:
        (tmp_path / "data" / sample.file).symlink_to(sample.path)
    samples = [replace(sample, path=tmp_path / "data" / sample.file) for sample in stored]
    for folder in ("store", tmp_path / "store"):
        rows = [f"{folder}/{k}.png,a,{k},{SPLITS[k % 3]}" for k in range(9)]
        (tmp_path / "split.csv").write_text("\n".join(["file,class,group,split", *rows]), encoding="utf-8")
        assert read_split(tmp_path / "split.csv", samples).tolist() == [0, 1, 2] * 3


def test_split_can_be_moved_together_with_its_images(tmp_path: Path) -> None:
    """And stays a manifest: files are relative to its folder."""
    samples = placed(tmp_path / "old" / "data")
    assert len(written(tmp_path / "old" / "run" / "split.csv", samples)) == 9
    (tmp_path / "old").rename(tmp_path / "new")
    with (tmp_path / "new" / "run" / "split.csv").open(encoding="utf-8") as stream:
        files = [row["file"] for row in csv.DictReader(stream)]
    assert [(tmp_path / "new" / "run" / file).read_bytes() for file in files] == [bytes([k]) for k in range(9)]


def test_part_without_a_class_is_refused() -> None:
    targets = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 0, 1, 2]]
    chosen = np.array([0, 0, 0, 1, 1, 2, 2, 2])
    with pytest.raises(InputError, match="the validation part has no image of c; give more patients"):
        require_all_classes(chosen, targets, CLASSES)


def test_real_data_has_no_leak(shared: Path) -> None:
    samples = read_manifest(shared / "cxr5" / "manifest.csv")
    targets = one_hot(samples, tuple(sorted({sample.labels[0] for sample in samples})))
    chosen = split_by_group(samples, targets, 0.15, 0.2, seed=0)
    parts = [{s.group for s, part in zip(samples, chosen, strict=True) if part == k} for k in range(len(SPLITS))]
    assert sum(map(len, parts)) == len(parts[0] | parts[1] | parts[2])
    for part, share in enumerate((0.65, 0.15, 0.2)):
        assert targets[chosen == part].sum(axis=0) == pytest.approx(share * targets.sum(axis=0), abs=4)
