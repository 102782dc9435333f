"""Reads a JSON file as data, and says by name where it is not what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn


class Unreadable(Exception):
    """A file is not what was expected; the message names it, the place in it, and what to do."""


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")


def load(path: Path) -> Field:
    """What a JSON file holds.

    Raises:
        Unreadable: it cannot be read, or is no JSON.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return Field(json.loads(text, parse_constant=_no_number), str(path), "")
    except OSError as error:
        raise Unreadable(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # also what is not UTF-8
        raise Unreadable(f"{path} is no JSON file: {error}") from error


@dataclass(frozen=True)
class Field:
    """A value in a JSON file, and where it stands.

    Each method returns the value as one type.

    Raises:
        Unreadable: it is of another type.
    """

    value: Any
    file: str
    where: str

    def wrong(self, expected: str) -> Unreadable:
        """What to raise where something else was expected."""
        found = json.dumps(self.value)
        found = found if len(found) <= 60 else f"{found[:57]}..."
        return Unreadable(
            f"{self.file}: {self.where or 'the whole'}: expected {expected}, found {found}"
        )

    def __getitem__(self, name: str) -> Field:
        if name not in self.object():
            raise Unreadable(f"{self.file}: {self.where or 'the whole'} has no {name!r}")
        return self._inner(name)

    def _inner(self, name: str) -> Field:
        return Field(self.value[name], self.file, f"{self.where}.{name}" if self.where else name)

    def object(self) -> dict[str, Any]:
        if not isinstance(self.value, dict):
            raise self.wrong("an object")
        return self.value

    def entries(self) -> Iterator[tuple[str, Field]]:
        """The members of an object."""
        for name in self.object():
            yield name, self._inner(name)

    def items(self) -> list[Field]:
        if not isinstance(self.value, list):
            raise self.wrong("a list")
        return [
            Field(each, self.file, f"{self.where}[{index}]")
            for index, each in enumerate(self.value)
        ]

    def text(self, pattern: str = "", expected: str = "a string") -> str:
        """A string that matches a pattern from its beginning to its end."""
        if not isinstance(self.value, str) or (pattern and not re.fullmatch(pattern, self.value)):
            raise self.wrong(expected)
        return self.value

    def count(self) -> int:
        """An integer that is not negative."""
        if type(self.value) is not int or self.value < 0:
            raise self.wrong("a count")
        return self.value

    def number(self) -> float:
        """A number; "inf", "-inf" and "nan" are those that JSON lacks."""
        if self.value in ("inf", "-inf", "nan"):
            return float(self.value)
        if type(self.value) not in (int, float) or abs(self.value) > 1e300:
            raise self.wrong('a number, "inf", "-inf" or "nan"')
        return float(self.value)

    def truth(self) -> bool:
        if type(self.value) is not bool:
            raise self.wrong("true or false")
        return self.value
