"""Attribution drift between two exported checkpoints: evaluate, and what reads its results."""

from typing import TYPE_CHECKING

from harness.common.lazy import on_demand
from harness.common.privacy import switch_off_telemetry

if TYPE_CHECKING:
    from harness.api import (
        Result,
        Settings,
        dossier,
        evaluate,
        evaluate_again,
        evaluate_study,
        explain,
        judge,
        monitor,
        pack,
        register_method,
        register_metric,
        verify,
    )

switch_off_telemetry()

__all__ = [
    "Result", "Settings", "dossier", "evaluate", "evaluate_again", "evaluate_study", "explain", "judge", "monitor",
    "pack", "register_method", "register_metric", "verify",
]  # fmt: skip
__getattr__ = on_demand(__name__, dict.fromkeys(__all__, "api"))
