"""The root of every error. Without NumPy, so that `parity doctor` can say that it is missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParityError(Exception):
    """The root of every error of this library; the message says what is wrong and what to do."""


def meant(name: str, known: Iterable[str]) -> str:
    """What is added to a message of a name that nothing has: ". Did you mean 'conv1'?", or ""."""
    close = difflib.get_close_matches(name, [*known], 1)
    return f". Did you mean {close[0]!r}?" if close else ""


class BadRequest(ParityError):
    """What was asked cannot be carried out; the message says why and what to do."""
