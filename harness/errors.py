"""The errors of `harness.common.errors` under the name by which scripts know them."""

from harness.common.errors import CannotEvaluateError, EvidenceDriftError, InputError, InterruptedRunError

__all__ = ["CannotEvaluateError", "EvidenceDriftError", "InputError", "InterruptedRunError"]
