"""What notebooks, scripts and the command lines call: evaluate, explain, judge, pack, verify, monitor, dossier.

The library below computes and returns; here it is decided what is written, drawn and shown.
"""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand

if TYPE_CHECKING:
    from harness.api.checks import judge, pack, verify
    from harness.api.documents import dossier
    from harness.api.evaluation import Settings, evaluate, evaluate_again, evaluate_study
    from harness.api.explanation import explain
    from harness.api.monitoring import monitor
    from harness.api.register import register_method, register_metric
    from harness.api.result import Result

HOMES = {
    "Result": "result",
    "Settings": "evaluation",
    "dossier": "documents",
    "evaluate": "evaluation",
    "evaluate_again": "evaluation",
    "evaluate_study": "evaluation",
    "explain": "explanation",
    "judge": "checks",
    "monitor": "monitoring",
    "pack": "checks",
    "register_method": "register",
    "register_metric": "register",
    "verify": "checks",
}
__all__ = [
    "Result", "Settings", "dossier", "evaluate", "evaluate_again", "evaluate_study", "explain", "judge", "monitor",
    "pack", "register_method", "register_metric", "verify",
]  # fmt: skip
__getattr__ = on_demand(__name__, HOMES)
