"""The root of every error. Without NumPy, so that `parity doctor` can say that it is missing."""

from __future__ import annotations


class ParityError(Exception):
    """The root of every error of this library; the message says what is wrong and what to do."""


class BadRequest(ParityError):
    """What was asked cannot be carried out; the message says why and what to do."""
