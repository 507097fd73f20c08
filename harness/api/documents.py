"""The dossier of a change: judged, rendered, written and, where asked for, signed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.common.storage import Location, as_location, require_no_folder, write_whole

if TYPE_CHECKING:
    from harness.gate.verdict import Verdict


def dossier(result: Any, policy: Any, out: Any = "dossier.html", *, baseline: Any = None, sign: Any = None) -> Verdict:
    """Write the dossier of a result under a committed policy; returns the verdict in it.

    :param result, baseline: result folders or files; policy: a policy TOML in a git repository.
    :param sign: a private Ed25519 key (PEM); the signature is written beside `out`, with the suffix `.sig`.
    :raises InputError: a policy that is not committed, is younger than the result, or was derived from it; bad input.
    """
    accepted, key = (None if value is None else Path(value) for value in (baseline, sign))
    return write_dossier(as_location(result), Path(policy), accepted, Path(out), key)[0]


def write_dossier(
    result: Location,
    policy: Path,
    baseline: Location | None,
    out: Path,
    sign: Path | None,
    command: Sequence[str] = (),
) -> tuple[Verdict, list[Path]]:
    """`dossier` for paths; returns the files that were written, too."""
    from harness.change_control import signature
    from harness.change_control.dossier import make_dossier

    require_no_folder(out)
    key = None if sign is None else signature.private_key(sign)  # refused before anything is written
    made = make_dossier(result, policy, baseline, command)
    out.parent.mkdir(parents=True, exist_ok=True)
    signature.signature_file(out).unlink(missing_ok=True)  # of an earlier document
    write_whole(out, made.html)
    return made.verdict, [out] if key is None else [out, signature.sign(out, key)]
