"""A result folder: opening it for an evaluation, resuming one, and what may be replaced."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from harness.common.errors import InputError, InterruptedRunError
from harness.common.storage import PARTIAL, Address, Location, read_at_most, remove_folder, write_bytes, write_whole
from harness.results.file_names import ENDED, IMAGES, KEY, MARKDOWN, MOST_BYTES, PLAN, REPORT, RESULT, SHEET, STATISTICS
from harness.results.part_files import SCHEMAS, Store

OURS = (PLAN, STATISTICS, ENDED, RESULT, SHEET, MARKDOWN, REPORT, IMAGES, *SCHEMAS)


def begin(folder: Location, identity: Mapping[str, Any], details: Mapping[str, Any], resume: bool) -> Store:
    """Open a result folder for an evaluation; `plan.json` will hold its `identity` and `details`.

    A finished evaluation is replaced. An unfinished one is continued with `resume`, and else left alone.

    :raises InputError: foreign files, an unfinished evaluation without `resume`, or one of another identity with it.
    """
    _require_ours(folder)
    store, plan = Store(folder), folder / PLAN
    if resume:
        _require_same(_read_plan(plan), identity, folder)
        store.make(SCHEMAS)
        return store
    if plan.exists() and not (folder / RESULT).exists() and not (folder / ENDED).exists():
        raise InputError(
            f"{folder}: holds an unfinished evaluation; continue it with --resume (one from --from: run it again into "
            "another folder), or remove the folder"
        )
    discard(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(plan, json.dumps({**identity, **details}, indent=1))
    store.make(SCHEMAS)
    return store


def keep_data(folder: Location, changes: Mapping[str, Any]) -> None:
    """Change what `plan.json` says about where data are; it decides nothing that is stored."""
    content = _read_plan(folder / PLAN)
    content["data"] = {**content["data"], **changes}
    write_whole(folder / PLAN, json.dumps(content, indent=1))


def require_resumable(folder: Location, identity: Mapping[str, Any]) -> None:
    """Refuse what `begin` refuses to resume; raises InputError."""
    _require_ours(folder)
    _require_same(_read_plan(folder / PLAN), identity, folder)


def discard(folder: Location) -> None:
    """Remove what an evaluation wrote, where nothing in it is worth keeping.

    What says that the folder is ours, and that it may be replaced, goes last: this may be interrupted.
    """
    for name in sorted(OURS, key=_when_removed):
        _remove(folder / name)


def _when_removed(name: str) -> int:
    return (ENDED, RESULT, PLAN).index(name) if name in (ENDED, RESULT, PLAN) else -1


def end(folder: Location) -> None:
    """Mark an evaluation that cannot have a result."""
    write_bytes(folder / ENDED, b"")


@contextmanager
def kept(folder: Location) -> Iterator[None]:
    """Tell the user how to go on where work in `folder` is interrupted or the disk is full.

    :raises InputError, InterruptedRunError: with the sentence; what is finished is there.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRunError(
            f"interrupted; what is finished is kept in {folder}: run the same command with --resume to go on"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(
            f"{folder}: no space left on the disk; make room and run the same command with --resume"
        ) from error


def _require_ours(folder: Location) -> None:
    """Refuse a folder that holds anything but an evaluation, which is known by its plan."""
    above = [] if isinstance(folder, Address) else [parent for parent in folder.parents if parent.is_file()]
    if above:
        raise InputError(f"{folder}: {above[0]} is a file; give another folder with --out")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; give a folder with --out")
    names = sorted(path.name for path in folder.iterdir() if path.name[: len(KEY)] != KEY) if folder.is_dir() else []
    known = {*OURS, *(f"{name}{PARTIAL}" for name in OURS)} if PLAN in names else set()
    strange = [name for name in names if name not in known]
    if strange:
        raise InputError(f"{folder}: holds {strange[0]!r}, which no evaluation wrote; give an empty folder with --out")


def _read_plan(path: Location) -> dict[str, Any]:
    try:
        return json.loads(read_at_most(path, MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path.parent}: holds no evaluation to resume; run without --resume") from None


def _require_same(old: Mapping[str, Any], new: Mapping[str, Any], folder: Location) -> None:
    found = _first_difference(dict(old), json.loads(json.dumps(new)))
    if found:
        where, before, now = found
        raise InputError(
            f"{folder}: was begun with another {where} ({_brief(before)}, now {_brief(now)}); "
            "resume with the same, or evaluate into another folder"
        )


def _first_difference(old: dict[str, Any], new: dict[str, Any], of: str = "") -> tuple[str, Any, Any] | None:
    """(which entry, its old value, its new value) of the first entry of `new` that differs."""
    for key, value in new.items():
        name, before = f"{of}{key.replace('_', ' ')}", old.get(key)
        if isinstance(value, dict) and isinstance(before, dict):
            deeper = _first_difference(before, {**dict.fromkeys(before), **value}, f"{name}: ")
            if deeper:
                return deeper
        elif before != value:
            return name, before, value
    return None


def _brief(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 120 else shown[:117] + "..."


def _remove(path: Location) -> None:
    if path.is_dir():
        remove_folder(path)
    else:
        path.unlink(missing_ok=True)


def written(out: Location) -> list[str]:
    """What lies in a result folder, for people; folders end with a slash."""
    return [f"{name}/" if (out / name).is_dir() else name for name in (*OURS, KEY) if (out / name).exists()]
