"""Paths in files that are passed on: no home folder, no user's name, no layout of a machine's folders."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.results.pseudonyms import portable_command, portable_path, without_home

HOME, WORK = "/home/dr mueller", "/srv/ward 7/drift-2026"


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A home and a working folder with blanks in their names, which need not exist."""
    monkeypatch.setattr(Path, "home", lambda: Path(HOME))
    monkeypatch.setattr(Path, "cwd", lambda: Path(WORK))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        # in the working folder: relative
        (f"{WORK}/out/contact-sheet.png", "out/contact-sheet.png"),
        (WORK, "."),
        # in a home folder, mine or another's: a tilde
        (f"{HOME}/daten/p d/x.csv", "~/daten/p d/x.csv"),
        (HOME, "~"),
        (f"{HOME}stead/x", "~/x"),
        ("/home/alice/x", "~/x"),
        ("/Users/bob/y z", "~/y z"),
        ("/root/models/a.onnx", "~/models/a.onnx"),
        ("/root", "~"),
        (r"C:\\Users\\carol\\x".replace("\\\\", "\\"), r"~\x"),
        ("D:/Users/carol/x", "~/x"),
        # anywhere else: the last part
        (f"{WORK}-old/x", ".../x"),
        ("/data/home/alice", ".../alice"),
        ("/scratch/alice/my drift/", ".../my drift"),
        (r"D:\data\x.png", ".../x.png"),
        (r"\\server\share\x.png", ".../x.png"),
        # relative, but out of the working folder
        ("../../alice/x.csv", ".../x.csv"),
        ("../../../home/alice/x.csv", "~/x.csv"),
        ("out/../../../home/alice/x.csv", ".../x.csv"),
        ("../drift-2026/x.csv", "x.csv"),
        # what reveals nothing stays
        ("out/x.csv", "out/x.csv"),
        ("./x.csv", "./x.csv"),
        ("~/x.csv", "~/x.csv"),
        ("a..b/x", "a..b/x"),
        ("s3://bucket/run/../x", "s3://bucket/run/../x"),
        ("-", "-"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_a_path_becomes_portable(path: str, shown: str) -> None:
    assert portable_path(path) == shown
    assert portable_path(shown) == shown


def test_in_a_home_folder_the_working_folder_hides_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home"))
    assert portable_path("/home/alice/x") == "~/x"
    monkeypatch.setattr(Path, "cwd", lambda: Path("/home/alice/project"))
    assert portable_path("/home/alice/project/x") == "x"
    assert portable_path("../x") == "~/x"
    monkeypatch.setattr(Path, "cwd", lambda: Path("/"))
    assert portable_path("/data/alice/x") == ".../x"


def test_a_working_folder_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> Path:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "cwd", gone)
    assert portable_path("../alice/x") == ".../x"
    assert without_home("/home/alice/x: gone") == "~/x: gone"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (f"{HOME}/daten/x.png: cannot be read", "~/daten/x.png: cannot be read"),
        (f"{WORK}/x.png: cannot be read", "x.png: cannot be read"),
        ("/home/alice/x and /Users/bob/y, /scratch/eve/z.", "~/x and ~/y, .../z."),
        (f"--data '{HOME}/x' --root=/mnt/alice/y", "--data '~/x' --root=.../y"),
        ("see (/data/alice/x.png) or ../alice/x.png", "see (.../x.png) or .../x.png"),
        (r"C:\Users\carol\x and E:\b\c", r"~\x and .../c"),
        ("file:///home/alice/x, sqlite:////home/alice/ml.db", "file://~/x, sqlite:///~/ml.db"),
        ("https://host/home/x s3://bucket/home/x", "https://host/home/x s3://bucket/home/x"),
        ("1/2 and/or n/a </b> a / b", "1/2 and/or n/a </b> a / b"),
        ("0.5 .. 0.7, n..m, ...", "0.5 .. 0.7, n..m, ..."),
    ],
)
def test_a_text_becomes_portable(text: str, shown: str) -> None:
    assert without_home(text) == shown


def test_a_command_line_becomes_portable() -> None:
    words = ["python", "gate", f"{HOME}/a b", "--json=/data/My Files/v.json", "--policy", "/x/y z/p.toml", "--wide"]
    words += ["--log-to", "mlflow:sqlite:////home/alice/ml.db", "--out", f"{WORK}/out"]
    assert portable_command(words) == [
        "python", "gate", "~/a b", "--json=.../v.json", "--policy", ".../p.toml", "--wide",
        "--log-to", "mlflow:sqlite:///~/ml.db", "--out", "out",
    ]  # fmt: skip


NAMES = st.text("abcxyz -_.", min_size=1, max_size=8).filter(lambda name: name.strip(". ") == name)


@given(st.lists(NAMES, max_size=4), st.sampled_from(["/home/", "/Users/", "/scratch/", "/", "../", "x/../../../"]))
def test_no_user_survives(folders: list[str], start: str) -> None:
    path = start + "/".join(["drmueller", *folders, "scan.png"])
    for shown in (portable_path(path), portable_command([f"--data={path}"])[0]):
        assert "drmueller" not in shown
    if " " not in path:
        assert "drmueller" not in without_home(f"{path}: cannot be read")
    assert not re.match(r"/|\.\./", portable_path(path))
