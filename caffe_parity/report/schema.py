"""Holds JSON data against a JSON Schema, and says by name where it is not what was expected.

It knows the keywords that results.schema.json has; a pattern stands for the whole string, and a
title says what is expected, in an error's words. Why not the library jsonschema: it would bring a
compiled extension (rpds) to wherever the tool runs, takes eight times as long (0.74 s for a full
run's report), and its messages are about the schema. The tests hold this one against it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

TYPES: Mapping[str, tuple[str, tuple[type, ...]]] = {
    "object": ("an object", (dict,)),
    "array": ("a list", (list,)),
    "string": ("a string", (str,)),
    "integer": ("a count", (int,)),
    "number": ("a number", (int, float)),
    "boolean": ("true or false", (bool,)),
    "null": ("null", (type(None),)),
}
"""The types of JSON Schema, in words and in Python: there True is no integer, and 1.0 is none."""

DEEPEST = 16
"""How many objects and lists may lie in one another; in a report there are eight."""


class Misfit(Exception):
    """A value is not what its schema wants: in words, and where it stands, the outermost first."""

    def __init__(self, words: str, *path: str | int) -> None:
        super().__init__(words)
        self.words = words
        self.path = path

    def inside(self, *path: str | int) -> Misfit:
        """The same, seen from further out."""
        return Misfit(self.words, *path, *self.path)

    def __str__(self) -> str:
        where = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in self.path)
        return f"{where.removeprefix('.') or 'the whole'}{self.words}"


def unexpected(expected: str, found: Any, *path: str | int) -> Misfit:
    """What to raise where something else was expected."""
    shown = json.dumps(found)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    return Misfit(f": expected {expected}, found {shown}", *path)


def check(value: Any, schema: Schema, root: Schema | None = None, depth: int = 0) -> None:
    """Holds a value against a schema; `root` is the schema that a `$ref` refers to.

    Raises:
        Misfit: it does not fit, or lies deeper than is sane; the first place where.
    """
    root = root or schema
    if depth > DEEPEST:
        raise Misfit(": nested too deeply")
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    types = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    if not any(type(value) in TYPES[each][1] for each in types) or not _fits(value, schema):
        words = " or ".join(TYPES[each][0] for each in types)
        if "enum" in schema:
            words = f"one of {', '.join(schema['enum'])}"
        raise unexpected(schema.get("title", words), value)
    parts: list[tuple[str | int, Any, Any]] = []
    if type(value) is dict:
        for name in schema.get("required", ()):
            if name not in value:
                raise Misfit(f" has no {name!r}")
        known, others = schema.get("properties", {}), schema.get("additionalProperties", True)
        parts += ((name, each, known.get(name, others)) for name, each in value.items())
    elif type(value) is list:
        parts += ((index, each, schema.get("items", True)) for index, each in enumerate(value))
    for step, each, inner in parts:
        if inner is False:
            raise Misfit(f" has {step!r}, which is not known")
        if inner is not True:
            try:
                check(each, inner, root, depth + 1)
            except Misfit as misfit:
                raise misfit.inside(step) from None


def _fits(value: Any, schema: Schema) -> bool:
    """Whether a value of the right type is right, apart from what stands in an object or list."""
    if type(value) is str:
        known = value in schema.get("enum", (value,))
        return known and re.fullmatch(schema.get("pattern", ".*"), value, re.DOTALL) is not None
    if type(value) is list:
        return len(value) >= int(schema.get("minItems", 0))
    if type(value) in (int, float):
        return bool(schema.get("minimum", value) <= value <= schema.get("maximum", value))
    return True
