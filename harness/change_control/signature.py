"""A plain Ed25519 signature (RFC 8032) over the bytes of a file, in a file beside it; `openssl` checks it, too.

openssl genpkey -algorithm ed25519 -out private.pem
openssl pkey -in private.pem -pubout -out public.pem
openssl pkeyutl -verify -pubin -inkey public.pem -rawin -in dossier.html -sigfile dossier.html.sig
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.common.errors import InputError
from harness.common.storage import read_at_most, write_bytes

SUFFIX = ".sig"
_MOST_BYTES = 2**16  # of a key or signature
_MOST_FILE = 2**28


def signature_file(file: Path) -> Path:
    """Where the signature of a file lies."""
    return file.with_name(file.name + SUFFIX)


def private_key(path: Path) -> Any:
    """The key in a PEM file.

    :raises InputError: no such file, no Ed25519 key without a passphrase, or `cryptography` is not installed.
    """
    return _loaded(path, private=True)


def sign(file: Path, key: Any) -> Path:
    """Write the signature of a file beside it; returns where."""
    write_bytes(signature_file(file), key.sign(read_at_most(file, _MOST_FILE)))
    return signature_file(file)


def is_signed_by(file: Path, public: Path) -> bool:
    """Whether the signature beside a file is one of its bytes by the key in a PEM file.

    :raises InputError: a file that cannot be read, or no public Ed25519 key.
    """
    key = _loaded(public, private=False)
    from cryptography.exceptions import InvalidSignature

    content, signature = _read(file, _MOST_FILE), _read(signature_file(file), _MOST_BYTES)
    try:
        key.verify(signature, content)
    except InvalidSignature:
        return False
    return True


def _loaded(path: Path, private: bool) -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise InputError("signatures need `cryptography`; pip install 'evidence-drift[sign]'") from None
    content, kind = _read(path, _MOST_BYTES), "private" if private else "public"
    wanted = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    try:
        key: Any = (
            serialization.load_pem_private_key(content, None) if private else serialization.load_pem_public_key(content)
        )
    except (ValueError, TypeError):  # no PEM, another kind of key, or one with a passphrase
        key = None
    if not isinstance(key, wanted):
        raise InputError(
            f"{path}: not a {kind} Ed25519 key in PEM without a passphrase; make one with "
            "`openssl genpkey -algorithm ed25519`"
        )
    return key


def _read(path: Path, most: int) -> bytes:
    try:
        return read_at_most(path, most)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
