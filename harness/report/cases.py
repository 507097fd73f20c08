"""Which cases a report shows as pictures: one ranking, for the contact sheet and for the gallery."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kernels.reasons import BY_CODE, Reason


@dataclass(frozen=True)
class Ranking:
    """The records of one pair under one layer and method, ordered by the headline metric, of which high is stable.

    values: (R,) NaN where undefined or not compared; codes: (R,) reasons

    Vanished evidence counts as the most drifted: nothing is left of it. Ties are in the order of the records.
    """

    values: np.ndarray
    codes: np.ndarray

    @property
    def vanished(self) -> list[int]:
        """Records with evidence on one side only."""
        return [int(record) for record in np.flatnonzero(self.codes == Reason.VANISHED)]

    @property
    def most_drifted(self) -> list[int]:
        """Every record that is known, vanished ones first, then by ascending value."""
        return self.vanished + self._by(self.values)

    @property
    def least_drifted(self) -> list[int]:
        """Records with evidence on both sides, by descending value."""
        return self._by(-self.values)

    def text(self, record: int) -> str:
        """The value of a record and whether its evidence vanished, or why there is none."""
        reason = BY_CODE[int(self.codes[record])]
        if reason.is_undefined:
            return f"undefined: {reason.label}"
        if not np.isfinite(self.values[record]):
            return "not compared"
        return f"{self.values[record]:.2f}" + (", vanished" if reason == Reason.VANISHED else "")

    def _by(self, keys: np.ndarray) -> list[int]:
        known = np.flatnonzero(np.isfinite(self.values) & (self.codes == Reason.DEFINED))
        return [int(record) for record in known[np.argsort(keys[known], kind="stable")]]
