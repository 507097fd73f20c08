"""What is wrong with a file that people or programs wrote, in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from pydantic import BaseModel, ValidationError

from harness.common.errors import InputError
from harness.common.formatting import one_line
from kernels.function_errors import UserFunctionError
from kernels.registry import nearest

_LONGEST = 200  # of a key or a message that comes from the file


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known names most like `name`, or all of them."""
    return " or ".join(nearest(name, known))


@contextmanager
def user_functions(named: Callable[[int], str]) -> Iterator[None]:
    """Around metrics and CAM methods of a batch: one of the user's own that fails is reported with its image.

    :param named: what to call the image of an index in the batch.
    :raises InputError: it failed.
    """
    try:
        yield
    except UserFunctionError as error:
        where = "" if error.place is None else f", {named(error.place)}"
        raise InputError(f"{error.what}{where}: {error.problem}") from error


def first_problem(error: ValidationError | UnicodeDecodeError) -> str:
    """The first thing that is wrong with a JSON file, with where it is."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    where = one_line(".".join(map(str, first["loc"])))[:_LONGEST]
    return f"{where or 'the file'}: {one_line(first['msg'])[:_LONGEST]}"


def complaint(error: ValidationError, top: type[BaseModel], tables: Mapping[str, type[BaseModel]]) -> str:
    """The first thing that is wrong, with where it is (entries are counted from 1) and the nearest known key.

    :param tables: the model of each table of the file, by its key.
    """
    first = error.errors()[0]
    place = [part + 1 if isinstance(part, int) else part for part in first["loc"]]
    where = " ".join(map(str, place)) or "the file"
    if first["type"] == "extra_forbidden":
        model = tables.get(str(first["loc"][0]), top)
        return f"{where}: unknown key; did you mean {did_you_mean(str(first['loc'][-1]), model.model_fields)}?"
    return f"{where}: {str(first['msg']).removeprefix('Value error, ')}"
