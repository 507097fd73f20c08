"""Inside `export/` and `harness/` imports go down a ladder of rooms, and never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Highest first. A file imports from its own room and from rooms on lower rungs; rooms on one rung import nothing of
# each other. A module that stands alone is a room of its own.
LADDERS: dict[str, tuple[tuple[str, ...], ...]] = {
    "export": (
        ("export.__main__",),
        ("export.cli",),
        ("export.randomise",),
        ("export.compress", "export.sources.keras", "export.sources.onnx"),
        ("export.write",),
        ("export.metadata", "export.proof"),
        ("export.graph",),
        ("export.passes",),
        ("export.autodiff",),
        ("export.catalogue", "export.captured_logs"),
    ),
    "harness": (
        ("harness.__main__",),
        ("harness.cli", "harness.testing"),
        ("harness.cli_options",),
        ("harness.api",),
        ("harness.monitoring", "harness.change_control"),
        ("harness.evaluation", "harness.report", "harness.gate", "harness.bundle"),
        ("harness.results",),
        ("harness.model",),
        ("harness.models",),
        ("harness.images", "harness.statistics"),
        ("harness.errors",),
        ("harness.common",),
    ),
}
RUNG = {room: number for rungs in LADDERS.values() for number, rung in enumerate(rungs) for room in rung}
OUTSIDE = {"export", "export.sources", "harness"}  # import nothing on loading but what hands out their names
FACES = {
    "export": {"harness.common.privacy"},
    "harness": {"harness.common.lazy", "harness.common.privacy"},
}


def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the two packages."""
    files = [path for package in LADDERS for path in (ROOT / package).rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imported(source: str, known: Iterable[str], typing: bool = True) -> Iterator[tuple[int, str]]:
    """(line, module of ours) of every import in the text, those inside functions included.

    :param typing: with those that only a type checker carries out.
    """
    known = set(known)
    tree = ast.parse(source)
    left_out = set() if typing else {id(node) for branch in ast.walk(tree) for node in _for_typing(branch)}
    for node in (node for node in ast.walk(tree) if id(node) not in left_out):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in inside]
        yield from ((node.lineno, name) for name in names if name.split(".")[0] in LADDERS)


def _for_typing(branch: ast.AST) -> Iterator[ast.AST]:
    """What stands below `if TYPE_CHECKING:`."""
    if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING":
        yield from (node for statement in branch.body for node in ast.walk(statement))


def room_of(module: str) -> str:
    """The room that holds a module, the module itself where it stands on the ladder alone."""
    found = [room for room in RUNG if module == room or module.startswith(f"{room}.")]
    assert len(found) == 1, f"{module} stands in {found or 'no room'}; put it on the ladder of its package"
    return found[0]


def upward(module: str, source: str, known: Iterable[str]) -> list[str]:
    """Every import that does not go down."""
    home = room_of(module)
    return [
        f"{module}:{line}: imports {name}, which is not below {home}"
        for line, name in imported(source, known)
        if name.split(".")[0] == home.split(".")[0] and room_of(name) != home and RUNG[room_of(name)] <= RUNG[home]
    ]


def circle(edges: dict[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, in order; empty where there is none."""
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> list[str]:
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in done:
            return []
        found = next(filter(None, (visit(other, [*trail, module]) for other in sorted(edges.get(module, ())))), [])
        done.add(module)
        return found

    return next(filter(None, (visit(module, []) for module in sorted(edges))), [])


def texts() -> dict[str, str]:
    return {name: path.read_text(encoding="utf-8") for name, path in modules().items()}


def test_imports_go_down_the_ladder() -> None:
    found = [line for name, text in texts().items() if name not in OUTSIDE for line in upward(name, text, modules())]
    assert not found, "\n".join(found)


def test_what_stands_outside_imports_nothing() -> None:
    for name in OUTSIDE:
        found = {other for _, other in imported(texts()[name], modules(), typing=False)}
        assert found <= FACES.get(name, set()), name


def test_no_circle() -> None:
    edges = {name: {other for _, other in imported(text, modules(), typing=False)} for name, text in texts().items()}
    assert not circle(edges), " -> ".join(circle(edges))


def test_every_rung_exists() -> None:
    assert set(RUNG) <= set(modules())


def test_every_room_says_what_it_is_for() -> None:
    for name, text in texts().items():
        documented = ast.get_docstring(ast.parse(text))
        assert documented or name.endswith(".__main__"), f"{name} has no docstring"


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("export.sources.onnx.read", "from export.sources.keras.export import export_checkpoint"),
        ("export.graph.layers", "def f():\n    from export.write import Request"),
        ("export.passes.transposes", "from export.graph import layers"),
        ("export.proof.parity", "import export.metadata"),
        ("export.autodiff.emit", "import export.cli"),
        ("harness.common.errors", "from harness.images.loading import load_grey"),
        ("harness.report.html", "from harness.evaluation.score import Scorer"),
        ("harness.results.schema", "def f():\n    from harness.gate.judge import judge"),
        ("harness.evaluation.run", "from harness.api.evaluation import evaluate"),
    ],
)
def test_checker_catches(module: str, line: str) -> None:
    assert upward(module, line, modules())


# What only the command line and the progress that the API shows by default may use.
SPEAKING = ("harness.cli", "harness.api.progress", "harness.common.errors")
SPOKEN = re.compile(r"\bsys\.argv\b|\bsys\.std(?:out|err)\.write\b|(?<![\w.])print\(|\bclick\.echo\b|\btqdm\b")
WORKER = "harness.images.crash_isolation"  # a process of its own: its arguments and streams are its interface


def test_the_library_neither_prints_nor_reads_the_command_line() -> None:
    found = {
        name: SPOKEN.findall(text)
        for name, text in texts().items()
        if name.startswith("harness.") and name not in (*SPEAKING, WORKER) and SPOKEN.search(text)
    }
    assert not found


def test_circles_are_found() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_a_module_without_a_room_is_refused() -> None:
    with pytest.raises(AssertionError, match="put it on the ladder"):
        room_of("export.elsewhere")
