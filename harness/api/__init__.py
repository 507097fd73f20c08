"""What notebooks, scripts and the command lines call: evaluate, explain, judge, pack, verify.

The library below computes and returns; here it is decided what is written, drawn and shown.
"""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.api.checks import judge, pack, verify
    from harness.api.evaluate import Settings, evaluate, evaluate_again, evaluate_study
    from harness.api.explain import explain
    from harness.api.result import Result

HOMES = {
    "Result": "result",
    "Settings": "evaluate",
    "evaluate": "evaluate",
    "evaluate_again": "evaluate",
    "evaluate_study": "evaluate",
    "explain": "explain",
    "judge": "checks",
    "pack": "checks",
    "verify": "checks",
}
__all__ = [
    "Result", "Settings", "evaluate", "evaluate_again", "evaluate_study", "explain", "judge", "pack", "verify",
]  # fmt: skip
__getattr__ = on_demand(__name__, HOMES)
