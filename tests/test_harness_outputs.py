"""Where output goes: devices, FIFOs, links, standard output and folders; readers that go; errors that name the file."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.common import storage
from harness.common.errors import InputError
from harness.common.storage import is_standard_output, write_bytes, write_whole

WRITE = "import sys; from pathlib import Path; from harness.common.storage import write_whole; print('before');"
ROOT = Path(__file__).parent.parent


def python(code: str, *arguments: object, **given: object) -> subprocess.CompletedProcess[str]:
    """The program in a process of its own, where standard output is a real file descriptor."""
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, cwd=ROOT, text=True, **{"capture_output": True, **given})  # type: ignore[call-overload]


def test_a_link_is_followed_and_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / "target.json", tmp_path / "link.json"
    target.write_text("old")
    link.symlink_to(Path("elsewhere") / "target.json")
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new\n"
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["target.json"]


def test_a_link_to_nothing_yet_makes_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_whole(tmp_path / "link", "text")
    assert (tmp_path / "target").read_text() == "text\n"


def test_a_fifo_is_written_through(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_text()))
    reader.start()
    write_whole(fifo, "verdict")
    reader.join(10)
    assert read == ["verdict\n"]
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_device_is_written_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real /dev/null, and so with `replace` forbidden: as root a fault would turn it into a file."""
    monkeypatch.setattr(storage, "_replace_file", lambda *_: pytest.fail("replaces a device"))
    write_whole(Path(os.devnull), "text")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
def test_standard_output_is_written_in_order_and_not_cut_off(tmp_path: Path, name: str) -> None:
    """Also where a shell has sent it into a regular file, which is neither replaced nor emptied."""
    (tmp_path / "link").symlink_to("/dev/stdout")
    where = tmp_path / "link" if name == "link" else name
    assert is_standard_output(Path(where))
    code = WRITE + "write_whole(Path(sys.argv[1]), 'text'); print('after')"
    assert python(code, where).stdout == "before\ntext\nafter\n"
    with (tmp_path / "log").open("w") as log:
        log.write("first\n")
        log.flush()
        python(code, where, stdout=log, capture_output=False)
    assert (tmp_path / "log").read_text() == "first\nbefore\ntext\nafter\n"


def test_another_open_descriptor_is_written_to(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        log.write("first\n")
        log.flush()
        write_whole(Path(f"/dev/fd/{log.fileno()}"), "second")
        assert not is_standard_output(Path(f"/dev/fd/{log.fileno()}"))
    assert (tmp_path / "log").read_text() == "first\nsecond\n"


@pytest.mark.parametrize("name", ["", ".", "/", "folder"])
def test_a_folder_or_an_empty_name_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"is a folder \(as an empty name is\); name the file to write"):
        write_bytes(Path(name), b"")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_an_error_names_the_file_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A full disk names no file, and a folder without permission names the partial one."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match=r"verdict\.xml") as caught:
        write_bytes(tmp_path / "verdict.xml", b"")
    assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / "verdict.xml"))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file_and_a_loop_of_links_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for where in (tmp_path / "file" / "verdict.json", tmp_path / "loop"):
        with pytest.raises(OSError, match=where.name) as caught:
            write_bytes(where, b"")
        assert caught.value.filename == str(where)


# Readers that go

COMMAND = """
import click, sys
from pathlib import Path
from harness.common.errors import run_command_line
from harness.common.storage import write_whole

@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def command(file):
    for number in range(20000):
        click.echo(f"line {number}")
        print("progress", file=sys.stderr)
    write_whole(Path("-"), 100000 * "x")
    write_whole(file, "whole")
    return CODE

run_command_line(command, "command")
"""


@pytest.mark.parametrize(
    ("gone", "code"),
    [("| true", 0), ("| true", 1), ("2>&1 | true", 3), (">&-", 0), ("2>&-", 1), (">&- 2>&-", 0), (">/dev/full", 0)],
)
def test_a_reader_that_goes_changes_neither_work_nor_exit_code(tmp_path: Path, gone: str, code: int) -> None:
    """/dev/full is no reader that goes: the output is not written, and that is an error."""
    (tmp_path / "command.py").write_text(COMMAND.replace("CODE", str(code)))
    line = f"{sys.executable} command.py out {gone}; echo ${{PIPESTATUS[0]}} > code"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-c", line], cwd=tmp_path, env=environment, capture_output=True)
    found = int((tmp_path / "code").read_text())
    if gone == ">/dev/full":
        assert found == 2
        assert not (tmp_path / "out").exists()
        return
    assert found == code
    assert (tmp_path / "out").read_text() == "whole\n"


BODY = """
import click
from harness.common.errors import run_command_line
@click.command()
def command():
    {}
run_command_line(command, "command")
"""


@pytest.mark.parametrize(
    ("raised", "sentence", "code"),
    [
        ("MemoryError('Unable to allocate 124. TiB')", "out of memory (Unable to allocate 124. TiB)", 3),
        ("'\\u00fc'.encode('ascii')", "the locale's encoding (ascii) cannot write this name; set PYTHONUTF8=1", 2),
    ],
)
def test_errors_of_the_surroundings_are_a_sentence(raised: str, sentence: str, code: int) -> None:
    statement = f"raise {raised}" if raised.startswith("Memory") else raised
    found = python(BODY.format(statement))
    assert found.returncode == code
    assert sentence in found.stderr
    assert "fault of this program" not in found.stderr


def test_output_in_another_encoding_is_escaped() -> None:
    environment = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    found = python(BODY.format("print('0.1\\u20130.2')"), env=environment)
    assert (found.returncode, found.stdout) == (0, "0.1\\u20130.2\n")
