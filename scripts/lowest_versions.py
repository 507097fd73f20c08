"""Print the lowest versions that pyproject.toml allows, as constraints for pip, or the tests that they have to pass.

    python scripts/lowest_versions.py > lowest.txt && pip install --constraint lowest.txt -e . pytest hypothesis
    python -m pytest $(python scripts/lowest_versions.py --tests)

Only what the project itself names; what those packages need is chosen by pip. The tests are those that need none of
the optional dependencies.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

PROJECT = Path(__file__).parent.parent / "pyproject.toml"
TESTS = (
    "command_lines", "export_files", "export_heads", "export_layers", "export_onnx", "export_passes", "export_proof",
    "export_rules", "harness_bundle", "harness_dicom", "harness_evaluate", "harness_gate", "harness_images",
    "harness_manifest", "harness_parts", "harness_results", "harness_statistics", "kernels_cam", "kernels_catalogue",
    "kernels_chance", "kernels_machinery", "kernels_metrics", "kernels_properties", "kernels_resize", "kernels_sets",
    "kernels_undefined",
)  # fmt: skip


def lowest(requirement: str) -> str:
    """`name==version` of a requirement `name>=version`, with its marker.

    :raises ValueError: it has no lower bound.
    """
    match = re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?>=([0-9.]+)[^;]*(;.*)?", requirement)
    if match is None:
        raise ValueError(f"{requirement!r} has no lower bound of the form name>=version")
    return f"{match[1]}=={match[2]}{match[3] or ''}"


def main() -> None:
    """Print one line per requirement, or per file of tests."""
    if sys.argv[1:] == ["--tests"]:
        print("\n".join(f"tests/test_{name}.py" for name in TESTS))
        return
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    print("\n".join(map(lowest, project["dependencies"])))


if __name__ == "__main__":
    main()
