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

This module is a leaf: `training` and `export` may import it, so that all three command lines fail alike.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import click


class EvidenceDriftError(Exception):
    """Base of every error whose message is meant for the user: one sentence, no traceback."""

    exit_code = 2


class InputError(EvidenceDriftError):
    """What was given cannot be used. The message names what, where and how to fix it."""

    exit_code = 2


class CannotEvaluateError(EvidenceDriftError):
    """The input is sound, but no honest answer can be computed from it here."""

    exit_code = 3


class InterruptedRunError(EvidenceDriftError):
    """The user stopped the run. The message says what is kept and how to go on."""

    exit_code = 130


class EvidenceDriftWarning(UserWarning):
    """Base of every warning whose message is meant for the user: one sentence."""


def first_line(error: Exception) -> str:
    """What another library's error says, cut to one line that fits into a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def run_command_line(command: click.Command, prog_name: str) -> None:
    """Run a click command and leave the process with an exit code of the table above.

    `--debug`, anywhere on the line, lets the traceback through.
    """
    warnings.showwarning = _show_warning
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    sys.exit(_exit_code(command, prog_name, arguments, debug))


def _exit_code(command: click.Command, prog_name: str, arguments: list[str], debug: bool) -> int:
    import click

    try:
        result = command.main(arguments, prog_name=prog_name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", 130)
    except EvidenceDriftError as error:
        if debug:
            raise
        return _complain(str(error), error.exit_code)
    except OSError as error:
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{error.strerror or error}", 2)
    except Exception as error:  # 1 would say that a gate failed
        if debug:
            raise
        what = f"{type(error).__name__}: {first_line(error)}"
        return _complain(f"a fault of this program, or something it did not expect ({what}); see it with --debug", 3)


_show_others = warnings.showwarning


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **how: Any) -> None:
    """Our warnings as a line like an error's, others as Python shows them."""
    if issubclass(category, EvidenceDriftWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        _show_others(message, category, *where, **how)


def _complain(sentence: str, exit_code: int) -> int:
    print(f"error: {sentence}", file=sys.stderr)
    return exit_code
