"""Imports point one way: the table of folders, what each may import, enforced from the source text."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("training", "export", "harness", "kernels")
# The rooms of the harness that training and export may import from.
SHARED = {"harness.common", "harness.images"}
# Names and equations of the CAM methods, without what computes them.
CATALOGUE = {"kernels.catalogue"}

THIRD_PARTIES = {
    "kernels": {"numpy", "numba"},
    "training": {"tensorflow", "keras", "numpy", "scipy", "cv2", "matplotlib", "pydantic", "click", "tqdm", "tabulate"},
    "export": {"onnx", "onnx_ir", "numpy", "onnxruntime", "click", "tabulate"},
    "harness": {
        "onnxruntime", "numpy", "scipy", "cv2", "pydicom", "pyarrow", "pydantic", "tabulate", "jinja2",
        "click", "tqdm", "matplotlib", "junitparser", "PIL", "markupsafe",
    },
}  # fmt: skip
OUR_IMPORTS = {
    "kernels": {"kernels"},
    "training": {"training"} | SHARED,
    "export": {"export"} | SHARED | CATALOGUE,
    "harness": {"harness", "kernels"},
}
# One file each may know a heavy framework.
EXCEPTIONS = {
    "export/sources/keras/framework.py": {"tensorflow", "keras", "h5py", "tf2onnx"},
    "harness/change_control/signature.py": {"cryptography"},
    "harness/common/storage.py": {"fsspec"},
    "harness/evaluation/ray_executor.py": {"ray"},
    "harness/bundle/rounding.py": {"onnx"},
    "harness/models/metadata.py": {"onnx"},
    "harness/models/parts.py": {"onnx"},
    "harness/report/mlflow.py": {"mlflow"},
}


def imported_modules(source: str) -> list[tuple[int, str]]:
    """(line, dotted module) of every import in the text, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the full module name"
            found += _imported_from(node)
    return found


def _imported_from(node: ast.ImportFrom) -> list[tuple[int, str]]:
    if node.module == "harness":  # `from harness import images` names the module harness.images.loading
        return [(node.lineno, f"harness.{alias.name}") for alias in node.names]
    return [(node.lineno, node.module or "")]


def violations(relative: str, source: str) -> list[str]:
    """Every import of the file that the table does not allow, with line and allowed set."""
    folder = relative.split("/")[0]
    third_parties = THIRD_PARTIES[folder] | EXCEPTIONS.get(relative, set())
    return [
        f"{relative}:{line}: imports {module}; {folder} may import "
        f"{sorted(OUR_IMPORTS[folder])} and {sorted(third_parties)}"
        for line, module in imported_modules(source)
        if not _allowed(module, OUR_IMPORTS[folder], third_parties)
    ]


def _allowed(module: str, ours: set[str], third_parties: set[str]) -> bool:
    top = module.split(".")[0]
    if top in OURS or top in ("tests", "benchmarks", "scripts"):
        return top in ours or ".".join(module.split(".")[:2]) in ours
    return top in third_parties or top in sys.stdlib_module_names


def sources() -> list[str]:
    return sorted(str(path.relative_to(ROOT)) for folder in OURS for path in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("relative", sources())
def test_file_imports_only_what_its_folder_may(relative: str) -> None:
    found = violations(relative, (ROOT / relative).read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("relative", "line"),
    [
        ("kernels/x.py", "import harness.common.errors"),
        ("kernels/x.py", "import scipy.stats"),
        ("harness/x.py", "def f():\n    import tensorflow"),
        ("harness/x.py", "from export.autodiff import engine"),
        ("export/x.py", "from harness.evaluation.run import evaluate"),
        ("export/x.py", "from harness import evaluation"),
        ("export/x.py", "import tf2onnx"),
        ("export/x.py", "from kernels.cam import cam"),
        ("training/x.py", "import onnx"),
        ("harness/x.py", "import tests.helpers"),
    ],
)
def test_checker_catches(relative: str, line: str) -> None:
    assert violations(relative, line)


def test_checker_allows_the_shared_rooms() -> None:
    assert not violations("export/x.py", "from harness.common import errors\nfrom harness.images.loading import RULE")
    assert not violations("export/x.py", "from kernels.catalogue import METHODS")


# Scripts and benchmarks run by hand, so a name that moved away from under them is found here or by nobody.
BY_HAND = sorted(path for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def source_of(module: str) -> Path | None:
    """The file of one of our modules; None for a module of others."""
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file()), None)


def names_in(source: str) -> set[str]:
    """What a module binds at its top level, also below an `if` or `try`."""
    found: set[str] = set()
    waiting: list[ast.stmt] = list(ast.parse(source).body)
    for node in waiting:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        else:
            found.update(name.id for name in ast.walk(node) if isinstance(name, ast.Name))
            waiting += [inner for inner in ast.walk(node) if isinstance(inner, ast.stmt) and inner is not node]
    return found


def missing_names(path: Path) -> list[str]:
    """`module.name` of all that a file takes from our modules, by import or as an attribute, and that is not there."""
    tree, modules, taken = ast.parse(path.read_text(encoding="utf-8")), {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if source_of(inner):
                    modules[alias.asname or alias.name] = inner
                else:
                    taken.add((node.module, alias.name))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            taken.add((modules[node.value.id], node.attr))
    return sorted(f"{module}.{name}" for module, name in taken if not _is_there(module, name))


def _is_there(module: str, name: str) -> bool:
    path = source_of(module)
    found = names_in(path.read_text(encoding="utf-8")) if path else set()
    return path is None or name in found or "__getattr__" in found


@pytest.mark.parametrize("path", BY_HAND, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_what_scripts_and_benchmarks_take_from_our_modules_is_there(path: Path) -> None:
    assert not missing_names(path)


def test_a_name_that_moved_away_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(
        "from scripts.study import steps\nfrom scripts.study.steps import train, gone\nsteps.train\nsteps.away\n"
    )
    assert missing_names(tmp_path / "script.py") == ["scripts.study.steps.away", "scripts.study.steps.gone"]
