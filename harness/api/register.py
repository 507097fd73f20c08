"""Metrics and CAM methods of the user's own, registered for this process."""

from __future__ import annotations

from kernels.catalogue import register_method, register_metric

__all__ = ["register_method", "register_metric"]
