"""The split: no patient in two parts, classes in proportion, seeded, and re-usable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.common.errors import InputError
from training.samples import Sample, one_hot, read_manifest
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


def test_written_split_is_a_manifest_and_reads_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    samples = [Sample(f"{k}.png", data / f"{k}.png", (CLASSES[k % 3],), str(k)) for k in range(9)]
    chosen = np.arange(9) % 3
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / "split.csv"
    write_split(path, samples, chosen)
    assert path.read_text(encoding="utf-8").splitlines()[1] == "../data/0.png,a,0,train"
    assert [row.path.resolve() for row in read_manifest(path)] == [sample.path.resolve() for sample in samples]
    assert np.array_equal(read_split(path, samples[::-1]), chosen[::-1])
    with pytest.raises(InputError, match=r"no split for .*new\.png"):
        read_split(path, [Sample("new.png", data / "new.png", ("a",), "1")])


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
