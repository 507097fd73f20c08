"""Errors that a user can act on, and the one place where they become exit codes.

========  ==================================================================
code      meaning
========  ==================================================================
0         done, or passed
1         a gate or a verification failed
2         usage or bad input: one sentence says what, where and how to fix it
3         could not evaluate (too few images, a provider that is absent, ...)
130       interrupted; what was finished is kept
========  ==================================================================

This module imports `harness.common.formatting` alone: `training` and `export` may import it, so that all three command
lines fail alike.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from harness.common.formatting import one_line

if TYPE_CHECKING:
    import click

# Allocations and passes between garbage collections. Importing what an evaluation needs makes so many objects that by
# Python's own (700, 10, 10) a quarter of a second goes into looking through them.
_GARBAGE = 20_000, 20, 20


class EvidenceDriftError(Exception):
    """Base of every error whose message is meant for the user: one sentence on one line, no traceback.

    What a sentence quotes of an input, the name of a column or of a format, may hold line breaks and controls; they are
    shown as blanks.
    """

    exit_code = 2

    def __str__(self) -> str:
        return one_line(super().__str__())


class InputError(EvidenceDriftError):
    """What was given cannot be used. The message names what, where and how to fix it."""

    exit_code = 2


class CannotEvaluateError(EvidenceDriftError):
    """The input is sound, but no honest answer can be computed from it here."""

    exit_code = 3


class EvaluationWarning(UserWarning):
    """What does not stop the work, but must be known to whoever reads its result."""


def warn(sentence: str) -> None:
    """Raise an `EvaluationWarning` where the caller's caller stands."""
    warnings.warn(one_line(sentence), EvaluationWarning, stacklevel=3)


class InterruptedRunError(EvidenceDriftError):
    """The user stopped the run. The message says what is kept and how to go on."""

    exit_code = 130


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line that fits into a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def warnings_shown() -> Iterator[None]:
    """Print our warnings as lines on stderr, each time they are raised; those of others are left to Python."""

    def show(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
        if issubclass(category, EvaluationWarning):
            print(f"warning: {message}", file=sys.stderr)
        else:
            before(message, category, *rest, **named)

    with warnings.catch_warnings():
        before = warnings.showwarning
        warnings.simplefilter("always", EvaluationWarning)
        warnings.showwarning = show
        yield


def run_command_line(command: click.Command, prog_name: str) -> None:
    """Run a click command and leave the process with an exit code of the table above.

    `--debug`, anywhere on the line, lets the traceback through. A reader of the output that has gone (`| head -1`)
    changes neither the work nor the exit code.
    """
    _outlive_readers()
    gc.set_threshold(*_GARBAGE)
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    code = _exit_code(command, prog_name, arguments, debug)
    gc.freeze()  # or a process that ends looks through all that it imported once more: 0.35 s of an evaluation
    sys.exit(code)


class _Output(io.FileIO):
    """A file descriptor for printing: what is written after its reader has gone, or after an error, is dropped."""

    failed = False

    def write(self, content: Any) -> int:
        if self.failed:
            return len(content)
        try:
            return super().write(content)
        except OSError as error:
            self.failed = True  # else Python would try again as it ends, and exit with 120
            if isinstance(error, BrokenPipeError):
                return len(content)
            raise OSError(error.errno, error.strerror, "output") from error


def _outlive_readers() -> None:
    """Let standard output and error drop what nobody reads, and escape what their encoding cannot write.

    Else click, and Python as it ends, would turn the broken pipe into an exit code of their own, 1 or 120. A closed
    one is replaced, since the next file to be opened would get its descriptor.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (until the process ends)
        elif stream is getattr(sys, f"__{name}__"):  # not one that a test put there
            setattr(sys, name, _outliving(stream))


def _outliving(stream: TextIO) -> TextIO:
    stream.flush()
    raw = io.BufferedWriter(_Output(stream.fileno(), "wb", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", line_buffering=bool(stream.line_buffering))


def _exit_code(command: click.Command, prog_name: str, arguments: list[str], debug: bool) -> int:
    import click

    try:
        result = command.main(arguments, prog_name=prog_name, standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except Exception as error:
        if debug:
            raise
        return _complain(*_told(error))


def _told(error: Exception) -> tuple[str, int]:
    """What a user is told of an error that ends a command, and the exit code."""
    if isinstance(error, EvidenceDriftError):
        return str(error), error.exit_code
    if isinstance(error, MemoryError):
        return f"out of memory ({first_line(error)}); ask for less, or use a larger machine", 3
    if isinstance(error, UnicodeEncodeError):
        name = ascii(error.object[:80])
        return f"{name}: the locale's encoding ({error.encoding}) cannot write this name; set PYTHONUTF8=1", 2
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}", 2
    what = f"{type(error).__name__}: {first_line(error)}"  # not 1, which would say that a gate failed
    return f"a fault of this program, or something it did not expect ({what}); see it with --debug", 3


def _complain(sentence: str, exit_code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return exit_code
