"""The error of a metric or CAM method of the user's own, with where it happened."""

from __future__ import annotations


class UserFunctionError(ValueError):
    """A user's function failed, or returned what its record rules out.

    place: index of the map or pair in its batch, where that is known; whoever knows names of images adds them
    """

    def __init__(self, what: str, problem: str, place: int | None = None) -> None:
        super().__init__(f"{what}: {problem}" if place is None else f"{what}, number {place} of the batch: {problem}")
        self.what = what
        self.problem = problem
        self.place = place

    def at(self, place: int) -> UserFunctionError:
        """The same error with the index of the map or pair."""
        return UserFunctionError(self.what, self.problem, place)
