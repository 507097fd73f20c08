"""Tests; the packages are imported first, so that telemetry is off in this process and in those that it starts."""

import harness  # noqa: F401
