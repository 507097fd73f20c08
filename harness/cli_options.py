"""`Options` as options of the command line: one flag per field, with its type, limits, default and description."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, Literal, Union, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from harness.results.options import LARGEST_MAP, SMALLEST_MAP, Options

SINGULAR = {"methods": "method", "layers": "layer"}  # repeatable options are spelled in the singular


def spelled(name: str) -> str:
    """A field as people write it on a command line."""
    return f"--{SINGULAR.get(name, name).replace('_', '-')}"


def option_flags(kinds: dict[str, click.ParamType]) -> Callable[[Any], Any]:
    """Add one option per field of `Options` to a command.

    :param kinds: the types of fields whose names are known elsewhere.
    """

    def add(command: Any) -> Any:
        for name, field in reversed(Options.model_fields.items()):
            kind, repeatable = _type(name, field, kinds), name in SINGULAR
            text = _help(field)
            command = click.option(spelled(name), name, type=kind, multiple=repeatable, help=text)(command)
        return command

    return add


def given_options(asked: dict[str, Any]) -> dict[str, Any]:
    """Those fields of `Options` that stand on the command line."""
    return {name: asked[name] for name in Options.model_fields if asked[name] not in (None, ())}


def _help(field: FieldInfo) -> str:
    """The description, with the default in brackets where the description names none."""
    default = field.default
    if default in (None, ()) or "[" in str(field.description):
        return f"{field.description}."
    shown = default if isinstance(default, tuple) else (default,)
    return f"{field.description} [{', '.join(map(str, dict.fromkeys(shown)))}]."


def _type(name: str, field: FieldInfo, kinds: dict[str, click.ParamType]) -> Any:
    if name in kinds:
        return kinds[name]
    if name == "map_size":
        return click.IntRange(SMALLEST_MAP, LARGEST_MAP)
    annotation = _without_none(field.annotation)
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    return {int: click.INT, float: click.FLOAT}.get(annotation, click.STRING)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        return next(item for item in get_args(annotation) if item is not type(None))
    return annotation
