"""When a policy was fixed: the git commit that holds it as it stands."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from harness.common.errors import InputError

_TIMEOUT = 30  # seconds


@dataclass(frozen=True)
class Commit:
    """A commit's hash and the time that its committer's clock showed."""

    digest: str
    time: datetime


def commit_of(path: Path, content: bytes) -> Commit:
    """The last commit that changed a file, which has to have given it this very content.

    :raises InputError: no git, no repository, a file that is not committed, or one that was changed since.
    """
    found = _git(path, "log", "-1", "--format=%H %ct", "--", path.name).decode().split()
    if len(found) != 2:
        raise InputError(
            f"{path}: is in no commit, so when it was fixed is not known; commit the policy, then evaluate, then ask "
            "for the dossier"
        )
    committed = _git(path, "show", f"{found[0]}:./{path.name}")
    if committed != content:
        raise InputError(
            f"{path}: was changed after its last commit ({found[0][:12]}); restore it, or commit it and evaluate anew"
        )
    return Commit(found[0], datetime.fromtimestamp(int(found[1]), UTC))


def _git(path: Path, *arguments: str) -> bytes:
    folder = str(path.absolute().parent)
    try:
        done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        raise InputError(f"{path}: git cannot be asked when it was committed ({error}); install git") from None
    if done.returncode:
        said = (done.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"{path}: git does not say when it was committed ({said}); keep policies in a git repository")
    return done.stdout
