"""No command connects by itself, nor leaves a file outside its results and the caches that SECURITY.md names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.common.privacy import SWITCHES
from harness.evaluation.demonstration import FOLDER
from tests.tiny_graphs import process_environment

pytestmark = pytest.mark.slow
# One line per command, carried out in this order in one folder.
COMMANDS = (
    "harness evaluate --jitter 0 --chance 0 --method layercam --out drift --quiet",
    "harness gate drift --init --policy policy.toml",
    "harness gate drift --policy policy.toml --json verdict.json --junit verdict.xml --markdown verdict.md",
    "harness report drift",
    f"harness explain {FOLDER}/finetune.onnx {FOLDER}/images/phantom-00.jpg --out map.png",
    f"harness pack {FOLDER}/finetune.onnx --data {FOLDER}/manifest.csv --out bundle --cases 1 --quiet",
    "harness verify bundle",
    f"harness monitor {FOLDER}/finetune.onnx --reference drift --data {FOLDER}/manifest.csv",
    "harness env",
    "export operators",
    "training phantoms drawn --images 2 --patients 2",
)
CACHES = {".cache/matplotlib", ".config/matplotlib", ".cache/fontconfig"}  # in the home folder
# Internet addresses; a look-up of a name is a connection to port 53 of one.
CONNECTION = re.compile(r"(?:connect|sendto|sendmsg)\(.*sa_family=AF_INET6?")


def traced(strace: str, arguments: list[str], folder: Path, home: Path) -> tuple[int, list[str], str]:
    """(exit code, connections that were tried, what was printed) of a Python process without our test settings."""
    left_out = {"CI", *SWITCHES}  # ONNX Runtime sends nothing where CI is set
    kept = {name: value for name, value in process_environment(HOME=str(home)).items() if name not in left_out}
    log = folder / "trace.log"
    line = [strace, "-f", "-qq", "--seccomp-bpf", "-e", "trace=connect,sendto,sendmsg", "-o", log, sys.executable]
    done = subprocess.run([*map(str, line), *arguments], cwd=folder, env=kept, capture_output=True, text=True)
    found = [text for text in log.read_text(errors="replace").splitlines() if CONNECTION.search(text)]
    return done.returncode, found, done.stdout + done.stderr


def files_below(home: Path) -> list[str]:
    """The files that lie in a home folder, but for the known caches."""
    found = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    return [name for name in found if not any(name.startswith(cache) for cache in CACHES)]


def test_no_command_connects_or_leaves_files_at_home(strace: str, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    for command in COMMANDS:
        code, connections, printed = traced(strace, ["-m", *command.split()], folder, home)
        assert code in (0, 1), f"{command}: {printed[-1000:]}"
        assert not connections, f"{command}: {connections[:3]}"
        assert not files_below(home), command


def test_a_connection_is_noticed(strace: str, tmp_path: Path) -> None:
    """The same check fails where a process asks for a name or an address."""
    code = "import socket; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.connect(('127.0.0.1', 53))"
    assert traced(strace, ["-c", code], tmp_path, tmp_path)[1]
