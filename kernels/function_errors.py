"""The error of a metric or CAM method of the user's own, with where it happened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class UserFunctionError(ValueError):
    """A user's function failed, or returned what its record rules out.

    place: index of the map or pair in its batch, where that is known; whoever knows names of images adds them
    """

    def __init__(self, what: str, problem: str, place: int | None = None) -> None:
        super().__init__(f"{what}: {problem}" if place is None else f"{what}, number {place} of the batch: {problem}")
        self.what = what
        self.problem = problem
        self.place = place


@contextmanager
def located(place: int) -> Iterator[None]:
    """Around the work on one map or pair: a user's function that fails is reported with its index."""
    try:
        yield
    except UserFunctionError as error:
        raise UserFunctionError(error.what, error.problem, place) from error.__cause__
