"""A digest of what a function does, to notice that a user has changed it."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType
from typing import Any


def fingerprint(function: Callable[..., Any]) -> str:
    """sha256 of the byte code, its names and constants, and of the defaults; of an object, of its type's name.

    What the function calls and its globals are not part of it, nor where it was written down.
    """
    import hashlib  # OpenSSL, which a command line does without

    code = getattr(function, "__code__", None)
    defaults = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
    content = (_content(code), defaults) if isinstance(code, CodeType) else type(function).__qualname__
    return hashlib.sha256(repr(content).encode()).hexdigest()


def _content(code: CodeType) -> tuple[Any, ...]:
    return code.co_code, code.co_names, [_constant(value) for value in code.co_consts]


def _constant(value: Any) -> Any:
    """A constant in a form that is the same in every process: functions without their places, sets in order."""
    if isinstance(value, CodeType):
        return _content(value)
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value
