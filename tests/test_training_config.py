"""The configuration: every key is known, every wrong one is answered with its place and the nearest known one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.common.errors import InputError
from training.backbones import find
from training.config import PRESETS, Augment, Config, Data, Model, Phantoms, Phase, Preserve, read_config

GOOD = """
[data]
manifest = "m.csv"
[model]
backbone = "DenseNet201"
[phases.transfer]
epochs = 3
"""


def read(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "run.toml"
    path.write_text(text, encoding="utf-8")
    return read_config(path)


def refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read(tmp_path, text)


def test_a_short_file_is_enough(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD)
    assert config.phases["transfer"].trainable == "head"
    assert config.phases["transfer"].batchnorm == "inference"
    assert config.model.weights == "imagenet"
    assert not config.phases["transfer"].augment.flip


def test_presets_give_way_to_what_the_file_says(tmp_path: Path) -> None:
    config = read(tmp_path, GOOD + "[phases.finetune]\nepochs = 2\nlearning_rate = 0.5\n")
    assert config.phases["finetune"].learning_rate == 0.5
    assert config.phases["finetune"].schedule == PRESETS["finetune"]["schedule"]
    assert list(config.phases) == ["transfer", "finetune"]


def test_unfreezing_layer_by_layer_takes_three_lines(tmp_path: Path) -> None:
    text = GOOD + '[phases.conv5]\ntrainable = "conv5_block1_0_bn"\nepochs = 3\n'
    refused(tmp_path, text, "phases.conv5.learning_rate: Field required")
    config = read(tmp_path, text.replace("epochs = 3\n", "epochs = 3\nlearning_rate = 1e-4\n"))
    assert config.phases["conv5"].trainable == "conv5_block1_0_bn"


@pytest.mark.parametrize("table", [Config, Data, Model, Phase, Augment, Preserve, Phantoms])
def test_every_table_names_the_nearest_key(table: type) -> None:
    for name, field in table.model_fields.items():  # type: ignore[attr-defined]
        key = field.alias or name
        with pytest.raises(ValueError, match=rf"unknown key '{key}x'; did you mean '{key}'\?"):
            table.model_validate({f"{key}x": 1})  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("epochs = 3", "epoch = 3", "phases.transfer: unknown key 'epoch'; did you mean 'epochs'?"),
        ("epochs = 3", "epochs = 0", "phases.transfer.epochs: Input should be greater than or equal to 1"),
        ("epochs = 3", 'epochs = "many"', "phases.transfer.epochs: Input should be a valid integer"),
        ("epochs = 3", 'epochs = 3\nbatchnorm = "off"', "phases.transfer.batchnorm: Input should be 'train' or"),
        ("epochs = 3", "epochs = 3\nlearning_rate = 0", "phases.transfer.learning_rate: Input should be greater"),
        ("epochs = 3", "epochs = 3\nseeds = []", "phases.transfer.seeds: List should have at least 1 item"),
        ('manifest = "m.csv"', "", "data: give exactly one of manifest, folders and phantoms (found none of them)"),
        ('manifest = "m.csv"', 'manifest = "m.csv"\nfolders = "f"', "found manifest and folders"),
        ('manifest = "m.csv"', 'manifest = "m.csv"\ntest = 0.9', "validation + test must leave something"),
        (
            'manifest = "m.csv"',
            'manifest = "m.csv"\nclasses = ["a", "b", "a"]',
            "data.classes: list each of at least two",
        ),
        (
            'manifest = "m.csv"',
            'manifest = "m.csv"\nclasses = []',
            "data.classes: list each of at least two classes once",
        ),
        ('manifest = "m.csv"', 'manifest = "m.csv"\ngroup_pattern = "x"', "data.group_pattern: belongs to folders"),
        ('manifest = "m.csv"', 'folders = "f"\ncolumns.file = "x"', "data.columns: names columns of a manifest"),
        (
            'manifest = "m.csv"',
            'manifest = "m.csv"\ncolumns.patient = "x"',
            "data.columns: 'patient' is not known; a manifest has file, class, group, split",
        ),
        (
            'manifest = "m.csv"',
            'folders = "f"\ngroup_pattern = "("',
            "data.group_pattern: no regular expression (missing )",
        ),
        ('manifest = "m.csv"', 'manifest = "m.csv"\ncache_gb = inf', "data.cache_gb: Input should be a finite number"),
        (
            'manifest = "m.csv"',
            "phantoms = { images = 9 }",
            "data.phantoms: 9 images of 700 patients: every patient needs",
        ),
        (
            'manifest = "m.csv"',
            "phantoms = { seed = -1 }",
            "data.phantoms.seed: Input should be greater than or equal to 0",
        ),
        (
            'manifest = "m.csv"',
            "phantoms = { size = 9999 }",
            "data.phantoms.size: Input should be less than or equal to",
        ),
        ("[phases.transfer]", "[phases]", "phases.epochs: Input should be a valid dictionary"),
        ("[phases.transfer]\nepochs = 3", "[phases]", "phases: Dictionary should have at least 1 item"),
        ("[phases.transfer]", '[phases."a/b"]\nlearning_rate = 1', "phases.a/b: cannot be the name of a file"),
        ("[phases.transfer]", '[phases.".."]\nlearning_rate = 1', "phases...: cannot be the name of a file"),
        ("epochs = 3", "epochs = 3\nseeds = [1, 1]", "phases.transfer.seeds: two replicates of one seed are equal"),
        (
            "epochs = 3",
            "epochs = 3\nseeds = [-1]",
            "phases.transfer.seeds.0: Input should be greater than or equal to 0",
        ),
        ("[data]", "seed = 4294967296\n[data]", "seed: Input should be less than 4294967296"),
        (
            "epochs = 3",
            "epochs = 3\nlearning_rate = inf",
            "phases.transfer.learning_rate: Input should be a finite number",
        ),
        (
            "epochs = 3",
            'epochs = 3\nseeds = [0, 1]\n[phases."transfer.seed1"]\nepochs = 1\nlearning_rate = 1',
            "phases: two checkpoints would be called transfer.seed1; let names and seeds differ",
        ),
        ('backbone = "DenseNet201"', 'backbone = "DenseNet201"\nweights = "none"', "put [phases.pretrain] first"),
        ("[model]", "[modle]", "unknown key 'modle'; did you mean 'model'?"),
        ("epochs = 3", "epochs = ", "not TOML"),
        ('backbone = "DenseNet201"', 'backbone = "D"\ninput_size = [224]', "model.input_size"),
    ],
)
def test_wrong_values_are_refused_with_their_place(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    refused(tmp_path, GOOD.replace(old, new), message)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.toml: no such file"):
        read_config(tmp_path / "none.toml")


def test_text_that_is_not_utf8_is_refused_and_a_byte_order_mark_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes("# für\n".encode("latin-1") + GOOD.encode())
    with pytest.raises(InputError, match=r"run\.toml: not a text in UTF-8 .*; save it as such"):
        read_config(path)
    path.write_text(GOOD, encoding="utf-8-sig")
    assert read_config(path) == read(tmp_path, GOOD)


def test_configuration_survives_the_record() -> None:
    """`resume` reads the configuration back from run.json."""
    values = {
        "data": {"phantoms": {"images": 9, "patients": 9}},
        "model": {"backbone": "PhantomNet", "weights": "none", "input_size": [64, 32]},
        "phases": {"pretrain": {"epochs": 1, "augment": {"shift": 0.1}}, "finetune": {"epochs": 2, "seeds": [1, 2]}},
    }
    config = Config.model_validate(values)
    assert Config.model_validate(config.model_dump(mode="json")) == config


SCRIPTS = Path(__file__).parent.parent / "scripts"
NO_TRAINING = ("lesions.toml", "mutants.toml", "study-drift.toml", "study-training.toml")


@pytest.mark.parametrize(
    "path", sorted(path for path in SCRIPTS.glob("*.toml") if path.name not in NO_TRAINING), ids=lambda path: path.name
)
def test_every_configuration_of_the_project_is_sound(path: Path) -> None:
    config = read_config(path)
    assert {"pretrain", "finetune"} & set(config.phases)
    find(config.model)
