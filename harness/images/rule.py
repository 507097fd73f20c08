"""The name of the rule by which a file becomes an array; graphs and runs carry it, and a mismatch is refused."""

from __future__ import annotations

RULE = "grey-squash/1"
