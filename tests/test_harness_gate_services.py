"""The files for CI services: their shell steps are executed as the service would; what cannot run here is checked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.documents import ROOT, options
from tests.test_harness_gate_recipes import POLICY, prepared

__all__ = ["prepared"]  # a fixture: a part of the demonstration under the names of the recipes
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
HERE = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


ACTION = read("action.yml")
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
GITLAB = read("scripts/gitlab.yml")[".evidence-drift"]
HOOKS = read(".pre-commit-hooks.yaml")
DOCKERFILE = (ROOT / "scripts" / "Dockerfile").read_text(encoding="utf-8")


# ---- The composite action, executed


class Runner:
    """Runs the shell steps of the action in a folder, with the files that GitHub gives to a step."""

    def __init__(self, folder: Path, **inputs: str) -> None:
        self.folder = folder
        self.temporary = folder.with_name(f"{folder.name}-runner")
        self.temporary.mkdir(exist_ok=True)
        defaults = {name: str(given.get("default", "")) for name, given in ACTION["inputs"].items()}
        self.values = {f"inputs.{name}": value for name, value in {**defaults, **inputs}.items()}
        self.values |= {"github.action_path": str(ROOT), "runner.temp": str(self.temporary)}
        self.files = {name: self.temporary / name for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_PATH")}
        self.files["GITHUB_STEP_SUMMARY"] = self.temporary / "summary.md"
        for file in self.files.values():
            file.touch()

    def run(self, step: dict[str, Any]) -> subprocess.CompletedProcess[str]:
        """One step by GitHub's `bash --noprofile --norc -eo pipefail {0}`."""
        script = self.temporary / "step.sh"
        script.write_text(step["run"], encoding="utf-8")
        given = {name: EXPRESSION.sub(self.value_of, str(text)) for name, text in step["env"].items()}
        kept = dict(self.lines("GITHUB_ENV"))
        path = os.pathsep.join([*self.files["GITHUB_PATH"].read_text(encoding="utf-8").split(), HERE])
        files = {name: str(file) for name, file in self.files.items()}
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "RUNNER_TEMP": str(self.temporary),
            **files,
            **kept,
            **given,
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.folder, env={**environment, "PATH": path}, text=True, capture_output=True, check=False,
        )  # fmt: skip

    def value_of(self, expression: re.Match[str]) -> str:
        """The value of an expression between the braces."""
        return self.values[expression[1]]

    def lines(self, name: str) -> Iterator[tuple[str, str]]:
        """What steps wrote into a file of NAME=VALUE lines."""
        for line in self.files[name].read_text(encoding="utf-8").splitlines():
            key, _, value = line.partition("=")
            yield key, value


SHELL = [step for step in STEPS if "run" in step]
PLACE, INSTALL, EVALUATE, GATE = SHELL


INPUTS = {"before": "deployed.onnx", "after": "candidate.onnx", "data": "test.csv", "package": "none"}


@pytest.fixture(scope="module")
def evaluated(prepared: Path) -> Path:
    """A working folder in which the action has evaluated."""
    runner = Runner(prepared, **INPUTS, options="--jitter 1\n--chance 2 --method layercam")
    for step in (PLACE, EVALUATE):
        done = runner.run(step)
        assert done.returncode == 0, done.stderr
    assert (prepared / "drift" / "report.html").is_file()
    return prepared


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "work"))


@pytest.mark.slow
def test_the_action_passes_and_fails(folder: Path) -> None:
    runner = Runner(folder, **INPUTS)
    (folder / "policy.toml").write_text(POLICY.format(bound=0.5), encoding="utf-8")
    passed = runner.run(GATE)
    assert passed.returncode == 0, passed.stderr
    (folder / "policy.toml").write_text(POLICY.format(bound=0.95), encoding="utf-8")
    failed = runner.run(GATE)
    assert failed.returncode == 1
    assert "::error" in failed.stdout
    assert [value for name, value in runner.lines("GITHUB_OUTPUT") if name == "exit-code"] == ["0", "1"]
    summary = (runner.files["GITHUB_STEP_SUMMARY"]).read_text(encoding="utf-8")
    assert "Evidence drift: pass" in summary
    assert "Evidence drift: fail" in summary
    assert {path.name for path in folder.glob("drift-gate.*")} == {"drift-gate.xml", "drift-gate.json", "drift-gate.md"}
    (folder / "policy.toml").write_text("no policy", encoding="utf-8")
    assert runner.run(GATE).returncode == 2
    shutil.copy(folder / "drift" / "evaluation.json", folder / "accepted.json")
    (folder / "policy.toml").write_text(POLICY.format(bound=0.5), encoding="utf-8")
    runner.values["inputs.baseline"] = "accepted.json"
    assert runner.run(GATE).returncode == 0


@pytest.mark.slow
def test_the_action_installs_its_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The dependencies are those of this environment, which would take a gigabyte more."""
    monkeypatch.setenv("PIP_NO_DEPS", "1")
    (tmp_path / "work").mkdir()
    runner = Runner(tmp_path / "work")
    for step in (PLACE, INSTALL):
        done = runner.run(step)
        assert done.returncode == 0, done.stderr
    (folder,) = runner.files["GITHUB_PATH"].read_text(encoding="utf-8").split()
    assert (Path(folder) / "evidence-drift").is_file()
    version = "import importlib.metadata as m; print(m.version('evidence-drift'))"
    found = subprocess.run([f"{folder}/python", "-c", version], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "0.1.0"


def test_the_key_of_the_cache_follows_python_and_the_package(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    runner = Runner(tmp_path / "work")
    first, second = runner.run(PLACE), runner.run(PLACE)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    keys = [value for name, value in runner.lines("GITHUB_OUTPUT") if name == "key"]
    assert keys[0] == keys[1]
    assert re.fullmatch("[0-9a-f]{16}", keys[0])
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    with (tmp_path / "pyproject.toml").open("a", encoding="utf-8") as stream:
        stream.write("# other dependencies\n")
    runner.values["github.action_path"] = str(tmp_path)
    runner.run(PLACE)
    assert [value for name, value in runner.lines("GITHUB_OUTPUT") if name == "key"][2] != keys[0]
    assert dict(runner.lines("GITHUB_ENV"))["NUMBA_CACHE_DIR"] == str(runner.temporary / "evidence-drift" / "numba")


def test_inputs_reach_the_shell_as_variables_only() -> None:
    """An expression inside of a script would execute what somebody writes into a branch name or an input."""
    for step in SHELL:
        assert not EXPRESSION.search(step["run"])
        assert step["shell"] == "bash"
    used = {name for step in STEPS for name in re.findall(r"inputs\.([\w-]+)", yaml.safe_dump(step))}
    assert used == set(ACTION["inputs"])


def test_the_action_caches_and_keeps_its_report() -> None:
    cache, upload = (next(step for step in STEPS if name in step.get("uses", "")) for name in ("cache", "upload"))
    assert STEPS.index(cache) < STEPS.index(INSTALL)
    assert "steps.place.outputs.key" in cache["with"]["key"]
    assert upload["if"].startswith("always()")
    assert "report.html" in upload["with"]["path"]
    assert not re.search("names.key|scores|maps|predictions|plan.json", upload["with"]["path"])  # they hold names


# ---- GitLab


@pytest.mark.slow
def test_the_gitlab_file_passes_and_fails(prepared: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(prepared, tmp_path / "work"))
    (folder / "policy.toml").write_text(POLICY.format(bound=0.5), encoding="utf-8")
    given = {**GITLAB["variables"], "DRIFT_PACKAGE": "none", "DRIFT_OPTIONS": "--jitter 1 --chance 2 --method layercam"}
    given = {name: value.replace("$CI_PROJECT_DIR", str(folder)) for name, value in given.items()}

    def run(lines: list[str]) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **given, "PATH": HERE, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            ["bash", "-eo", "pipefail", "-c", "\n".join(lines)],
            cwd=folder, env=environment, text=True, capture_output=True, check=False,
        )  # fmt: skip

    assert (done := run(GITLAB["script"])).returncode == 0, done.stderr
    kept = [*GITLAB["artifacts"]["paths"], GITLAB["artifacts"]["reports"]["junit"]]
    assert all((folder / path).is_file() for path in kept)
    (folder / "policy.toml").write_text(POLICY.format(bound=0.95), encoding="utf-8")
    assert run(GITLAB["script"][-1:]).returncode == 1


# ---- pre-commit


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: hook["id"])
def test_hooks_run_commands_that_there_are(hook: dict[str, Any]) -> None:
    program, command = hook["entry"].split()
    assert (program, hook["language"], hook["pass_filenames"]) == ("evidence-drift", "python", False)
    named = {word for word in hook["args"] if word.startswith("--")}
    assert named <= options("harness", command)
    assert re.search(hook["files"], {"gate": "drift/evaluation.json", "verify": "bundle/manifest.json"}[command])


@pytest.mark.slow
def test_the_gate_hook_passes_and_fails(folder: Path) -> None:
    (hook,) = [hook for hook in HOOKS if hook["id"] == "evidence-drift-gate"]
    environment = {**os.environ, "PATH": HERE, "PYTHONPATH": str(ROOT)}
    for bound, code in ((0.5, 0), (0.95, 1)):
        (folder / "policy.toml").write_text(POLICY.format(bound=bound), encoding="utf-8")
        words = [*shlex.split(hook["entry"]), *hook["args"]]
        assert subprocess.run(words, cwd=folder, env=environment, check=False).returncode == code


# ---- The container


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the recipe, continued lines joined."""
    joined = DOCKERFILE.replace("\\\n", " ")
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_container_runs_as_no_root_and_fetches_nothing_at_run_time() -> None:
    found = instructions()
    assert [value for name, value in found if name == "USER"][-1] == "10001"
    after = found[max(number for number, (name, _) in enumerate(found) if name == "USER") :]
    assert all(name != "RUN" for name, _ in after)
    entry = [value for name, value in found if name == "ENTRYPOINT"]
    assert entry == ['["evidence-drift"]']
    assert not re.search("curl|wget|ADD http|torch|tensorflow", DOCKERFILE)


def test_the_container_holds_what_the_package_needs() -> None:
    sources = [value.split()[:-1] for name, value in instructions() if name == "COPY" and "--from" not in value]
    copied = [word for words in sources for word in words]
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / "scripts" / "Dockerfile.dockerignore").read_text(encoding="utf-8").split()
    assert {name.removeprefix("!") for name in ignored if name.startswith("!")} == set(copied)
