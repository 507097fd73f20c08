"""The written pages: links lead somewhere, code blocks are executed or say why not, commands and options exist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.evaluation.demonstration import FOLDER
from harness.evaluation.study_file import StudyConfig
from harness.gate.policy import parse_policy
from tests import documents
from tests.documents import ROOT, Block

PAGES = documents.pages()
BLOCKS = [block for page in PAGES for block in documents.blocks(page)]
SHELL = [block for block in BLOCKS if block.language in ("sh", "bash", "shell", "console")]
# Marker of a block -> the file that executes it; `PAGE` stands for the page that the marker belongs to.
EXECUTED = {
    ("README.md", "run"): ".ci/run",
    ("README.md", "test"): ".ci/run",
    ("docs/gate.md", "recipe: shell"): "tests/test_harness_gate_recipes.py",
    ("docs/gate.md", "recipe: service"): "tests/test_harness_gate_recipes.py",
    ("docs/pytorch.md", "shell: 1"): "tests/test_export_torch.py",
    ("docs/pytorch.md", "shell: 2"): "tests/test_export_torch.py",
    ("docs/pytorch.md", "shell: 3"): "tests/test_export_torch.py",
}
HERE = "executed: demonstration"  # by this file, in a folder with the demonstration
NOT = re.compile(r"not executed: (\w.{10,})")
OURS = set(documents.PROGRAMS)


# Links


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    wrong = [complaint for link in documents.links(page) if (complaint := wrong_with_link(page, link))]
    assert not wrong, f"{page}: {'; '.join(wrong)}"


def wrong_with_link(page: str, link: str) -> str:
    """What is wrong with a link of a page; addresses are looked at, not fetched."""
    parts = urlsplit(link)
    if parts.scheme:
        sound = parts.scheme == "https" and re.fullmatch(r"([\w-]+\.)+[a-z]{2,}", parts.netloc) and " " not in link
        return "" if sound else f"{link}: not an https address"
    path = unquote(parts.path)
    target = (ROOT / page).parent / path if path else ROOT / page
    if not target.exists() or not target.resolve().is_relative_to(ROOT):
        return f"{link}: no such file"
    relative = target.resolve().relative_to(ROOT).as_posix()
    if parts.fragment and parts.fragment not in documents.anchors(relative):
        return f"{link}: {relative} has no such heading"
    return ""


@pytest.mark.parametrize(
    ("link", "complaint"),
    [
        ("docs/gone.md", "no such file"),
        ("../secret", "no such file"),
        ("docs/gate.md#gone", "no such heading"),
        ("#gone", "no such heading"),
        ("http://example.org", "not an https address"),
        ("https://example", "not an https address"),
        ("docs/gate.md#what-a-rule-says", ""),
        ("https://example.org/a?b=c#d", ""),
    ],
)
def test_the_checker_of_links_catches(link: str, complaint: str) -> None:
    assert complaint in (found := wrong_with_link("README.md", link))
    assert bool(found) == bool(complaint)


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, open_pages = set(), ["README.md"]
    while open_pages:
        page = open_pages.pop()
        seen.add(page)
        targets = {(ROOT / page).parent / urlsplit(link).path for link in documents.links(page) if "://" not in link}
        there = [path for path in targets if path.suffix == ".md" and path.is_file()]
        linked = {path.resolve().relative_to(ROOT).as_posix() for path in there}
        open_pages += sorted(linked - seen)
    assert set(PAGES) <= seen


@pytest.mark.parametrize("page", PAGES)
def test_files_and_tests_in_the_text_exist(page: str) -> None:
    gone = [span for span in documents.inline_code(page) if is_gone(span)]
    assert not gone, f"{page} names what is not there: {', '.join(gone)}"


def is_gone(span: str) -> bool:
    """Whether a span is the path of a source file of ours, or `test_x.py::test_y`, and there is none."""
    folders = "kernels|harness|export|training|tests|scripts|benchmarks|docs"
    found = re.fullmatch(rf"((?:(?:{folders})/)[\w./*-]+|test_\w+\.py)(?:::(\w+))?", span)
    if not found:
        return False
    path = found[1] if "/" in found[1] else f"tests/{found[1]}"
    files = list(ROOT.glob(path))
    return not files or (found[2] is not None and f"def {found[2]}(" not in files[0].read_text(encoding="utf-8"))


def test_the_checker_of_files_catches() -> None:
    assert is_gone("harness/gone.py")
    assert is_gone("test_documentation.py::test_gone")
    assert not is_gone("harness/gate/judge.py")
    assert not is_gone("test_documentation.py::test_the_checker_of_files_catches")
    assert not is_gone("scores/part-00001.parquet")


# Code blocks


def lacks(block: Block) -> str:
    """What is missing above a shell block; nothing where it is executed or says why not."""
    if (block.page, block.marker) in EXECUTED or block.marker == HERE or NOT.fullmatch(block.marker):
        return ""
    return (
        f"{block}: nothing executes this block; put `<!-- {HERE} -->` above it, or `<!-- not executed: WHY -->`, "
        "or add the test that executes it to EXECUTED"
    )


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_shell_block_is_executed_or_says_why_not(block: Block) -> None:
    assert not lacks(block)


def test_the_files_that_execute_blocks_name_their_pages() -> None:
    for (page, marker), executor in EXECUTED.items():
        assert marker in {block.marker for block in BLOCKS if block.page == page}, f"{page} has no block {marker!r}"
        text = (ROOT / executor).read_text(encoding="utf-8")
        assert Path(page).name in text
        assert marker.split(":")[0] in text


@pytest.mark.parametrize(
    ("above", "sound"),
    [
        ("", False),
        ("<!-- not executed: -->", False),
        ("<!-- not executed: no -->", False),
        ("<!-- recipe: shell -->", False),
        ("<!-- not executed: needs a GPU and an hour -->", True),
        ("<!-- executed: demonstration -->", True),
    ],
)
def test_the_checker_of_blocks_catches(above: str, sound: bool) -> None:
    (block,) = documents.blocks("docs/x.md", f"# Title\n\n{above}\n```sh\nls\n```\n")
    assert (lacks(block) == "") == sound


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands_of_a_block_can_be_parsed(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    called = [item for item in documents.commands(block.text) if item[0] in OURS]
    wrong = [complaint for name, words in called if (complaint := documents.wrong_with(name, words))]
    assert not wrong, f"{block}: {'; '.join(wrong)}"


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("python -m harness judge x", "no command ['judge']"),
        ("python -m harness gate x --polcy p", "No such option"),
        ("python -m harness gate", "Missing argument"),
        ("python -m export compress a --to int4 --out b", "'int4' is not one of"),
        ("x && .venv/bin/python -m export onnx a.onnx \\\n --outt b", "No such option"),
        ("evidence-drift evaluate --jitter many", "'many' is not a valid integer"),
        ("python -m harness gate x --policy p  # --polcy", ""),
        ("python -m harness evaluate --checkpoints a b c --data d", ""),
    ],
)
def test_the_checker_of_commands_catches(line: str, complaint: str) -> None:
    ((name, words),) = documents.commands(line)
    assert complaint in (found := documents.wrong_with(name, words))
    assert bool(found) == bool(complaint)


@pytest.mark.parametrize("page", PAGES)
def test_options_in_the_text_exist(page: str) -> None:
    """Options of `python -m X command` must be its own; one that stands alone must be one of ours."""
    known = set().union(*(documents.options(name) for name in OURS))
    for span in documents.inline_code(page):
        words = re.sub(r"[\[\]|]", " ", span).split()
        named = [word.split("=")[0] for word in words if word.startswith("--")]
        if words[:2] == ["python", "-m"] and words[2] in OURS:
            command = words[3] if len(words) > 3 and words[3] != "..." and words[3][:2] != "--" else None
            assert command is None or command in documents.program(words[2]).commands, f"{page}: `{span}`"
            assert set(named) <= documents.options(words[2], command), f"{page}: `{span}`"
        elif words and words[0].startswith("--"):
            assert set(named) <= known, f"{page}: `{span}`"


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language not in ("", "sh")], ids=str)
def test_block_of_a_language_can_be_read(block: Block) -> None:
    readers = {"python": compile_python, "toml": read_toml, "json": json.loads, "yaml": yaml.safe_load}
    assert block.language in {*readers, "mermaid"}, f"{block}: give a block of {block.language} a reader here"
    if block.language in readers:
        readers[block.language](block.text)


def compile_python(text: str) -> None:
    compile(text, "block", "exec")


def read_toml(text: str) -> None:
    """A policy or a study is read as such: no key that is gone."""
    content = tomllib.loads(text)
    if "rule" in content:
        parse_policy(text if "format" in content else f"format = 1\n{text}", "block")
    elif "architecture" in content:
        StudyConfig.model_validate(content)


@given(st.text(alphabet="ab`# \n<!->", max_size=60))
def test_prose_keeps_line_numbers(text: str) -> None:
    assert documents.prose("x", text).count("\n") == "\n".join(text.splitlines()).count("\n")


# The blocks that are executed here


def demonstration(folder: Path) -> Path:
    """A folder with what the pages name: the demonstration where a clone has it, and under the names of your files."""
    shutil.copytree(FOLDER, folder / "harness" / "demo")
    shutil.copytree(FOLDER / "images", folder / "images")
    shutil.copy(FOLDER / "manifest.csv", folder / "test.csv")
    for name, source in (("deployed", "transfer"), ("accepted", "finetune"), ("candidate", "finetune")):
        shutil.copy(FOLDER / f"{source}.onnx", folder / f"{name}.onnx")
    return folder


def run(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "GITHUB_STEP_SUMMARY": str(folder / "s.md")}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text], cwd=folder, env=environment, text=True, capture_output=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.marker == HERE}))
def test_the_blocks_of_a_page_run_one_after_the_other(page: str, tmp_path: Path) -> None:
    """TOML blocks under `<!-- file: NAME -->` are written first, steps of a YAML block are run as its service would."""
    folder = demonstration(tmp_path)
    for block in documents.blocks(page):
        if block.marker.startswith("file: "):
            (folder / block.marker.removeprefix("file: ")).write_text(block.text, encoding="utf-8")
        elif block.marker == HERE:
            for text in steps(block):
                done = run(text, folder)
                assert done.returncode == 0, f"{block}: {done.stdout[-1000:]}{done.stderr[-2000:]}"


def steps(block: Block) -> list[str]:
    """What a block runs, but for the installation."""
    if block.language != "yaml":
        return [block.text]
    found = [step["run"] for step in yaml.safe_load(block.text) if "run" in step]
    return [text for text in found if not text.startswith("pip install")]
