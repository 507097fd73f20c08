"""The written pages as data: links, headings, code blocks with their markers, and the commands in them."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
PROGRAMS = {
    "harness": ("harness.cli", "cli"),
    "export": ("export.cli", "cli"),
    "training": ("training.cli", "main"),
    "benchmarks": ("benchmarks.__main__", "main"),
}
FENCE = re.compile(r"^ {0,3}(```+)(\w*)\s*$")
COMMENT = re.compile(r"<!--(.*?)-->", re.DOTALL)
OPERATORS = {"&&", "||", ";", "|", ">", ">>", "<", "&", "(", ")"}


@dataclass(frozen=True)
class Block:
    """A fenced code block. `marker` is the comment right before it, without its brackets."""

    page: str
    line: int
    language: str
    marker: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """The pages that people read, relative to the root."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return sorted(path.relative_to(ROOT).as_posix() for path in found if "node_modules" not in path.parts)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, text: str | None = None) -> list[Block]:
    """The code blocks of a page, in order."""
    found, start, fence, language = [], 0, "", ""
    lines = (read(page) if text is None else text).splitlines()
    for number, line in enumerate(lines):
        opened = FENCE.match(line)
        if opened and not fence:
            start, fence, language = number, opened[1], opened[2]
        elif fence and line.strip() == fence:
            inside = "\n".join(lines[start + 1 : number]) + "\n"
            found.append(Block(page, start + 1, language, _marker("\n".join(lines[:start])), inside))
            fence = ""
    assert not fence, f"{page}: the code block at line {start + 1} is not closed"
    return found


def _marker(before: str) -> str:
    """The comment that ends `before`, or nothing."""
    found = COMMENT.findall(before) if before.rstrip().endswith("-->") else []
    return " ".join(found[-1].split()) if found else ""


def prose(page: str, text: str | None = None) -> str:
    """A page without its code blocks and comments; lines stay where they are."""
    lines = (read(page) if text is None else text).splitlines()
    inside, kept = "", []
    for line in lines:
        opened = FENCE.match(line)
        if inside or opened:
            kept.append("")
            inside = (opened[1] if opened else "") if not inside else ("" if line.strip() == inside else inside)
        else:
            kept.append(line)
    return COMMENT.sub(lambda comment: "\n" * comment[0].count("\n"), "\n".join(kept))


def inline_code(page: str) -> list[str]:
    """The spans between single backticks, on one line each."""
    return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose(page))]


def links(page: str, text: str | None = None) -> list[str]:
    """The targets of a page's links and pictures."""
    return re.findall(r"\]\(([^)]*)\)", re.sub(r"(?<!`)`[^`\n]+`(?!`)", "`code`", prose(page, text)))


@cache
def anchors(page: str) -> frozenset[str]:
    """What a link may name behind `#`: the headings, as GitHub writes them."""
    found: list[str] = []
    for heading in re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset(found)


def commands(shell: str) -> Iterator[tuple[str, list[str]]]:
    """(program, arguments) of every `python -m PROGRAM ...` of ours, and of `evidence-drift ...`."""
    for line in re.sub(r"\\\n", " ", shell).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split, lexer.commenters = True, "#"
        yield from _called(list(lexer))


def _called(words: list[str]) -> Iterator[tuple[str, list[str]]]:
    for place, word in enumerate(words):
        end = next((i for i in range(place, len(words)) if words[i] in OPERATORS), len(words))
        if word == "-m" and place and re.search(r"python[\d.]*$", words[place - 1]):
            yield words[place + 1], words[place + 2 : end]
        elif word == "evidence-drift" and (place == 0 or words[place - 1] in OPERATORS):
            yield "harness", words[place + 1 : end]


@cache
def program(name: str) -> click.Group:
    """The command line of one of our programs."""
    module, attribute = PROGRAMS[name]
    return getattr(importlib.import_module(module), attribute)


def wrong_with(name: str, arguments: list[str]) -> str:
    """What the program's own parser has against a command line; nothing where it would run."""
    words = [word for word in arguments if word not in ("...", "--debug")]
    group = program(name)
    if not words or words[0] not in group.commands:
        return f"python -m {name} has no command {words[:1]}; it has {', '.join(group.commands)}"
    try:
        group.commands[words[0]].make_context(words[0], words[1:])
    except click.exceptions.Exit:
        return ""  # --help
    except click.UsageError as error:  # a file of the example need not be there
        return "" if "does not exist" in error.format_message() else error.format_message()
    return ""


def options(name: str, command: str | None = None) -> set[str]:
    """The option strings of one command, or of all commands of a program."""
    chosen = program(name).commands
    return {
        text
        for key, item in chosen.items()
        if command in (None, key)
        for parameter in item.params
        if isinstance(parameter, click.Option)
        for text in (*parameter.opts, *parameter.secondary_opts)
    } | {"--help", "--debug"}
