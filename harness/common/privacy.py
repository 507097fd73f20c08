"""No dependency sends anything by itself: telemetry is off before the libraries that have it are imported.

A variable that is set already keeps its value, so that a user can ask for it.
"""

from __future__ import annotations

import os

# Read once, when the library is loaded or starts: ONNX Runtime from 1.29 on (a device id, processor, memory, names and
# hashes of models), Ray (usage statistics), MLflow, and what reads the common switch.
SWITCHES = {
    "ORT_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
}


def switch_off_telemetry() -> None:
    """Set every switch that the environment leaves open; processes that are started from here inherit them."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
