"""Two-phase Keras training (frozen backbone, then full fine-tuning) that writes one checkpoint per phase."""

from harness.common.privacy import switch_off_telemetry

switch_off_telemetry()
