"""Reads the mutants of catalogue.toml, and says which no longer fit the project as it is."""

from __future__ import annotations

import ast
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("catalogue.toml")

FEW = "not million"
"""Leaves out the cases of a million values and more, which take longer than all the others."""

_JUDGE = re.compile(r"(parity|tests|fast) ([^-\s]\S*(?: [^-\s]\S*)*)(?: -k '([^']+)')?")
_FORMS = "parity VARIANT [LAYER] [-k 'EXPRESSION'] or tests|fast FILE... [-k 'EXPRESSION']"


class CatalogueError(Exception):
    """A mutant or its judge is not what it should be; the message says which, and how."""


@dataclass(frozen=True)
class Judge:
    """What must find a mutant.

    Attributes:
        text: as it stands in the catalogue.
        files: the test files, from the project's root.
        options: further ones of pytest's.
    """

    text: str
    files: tuple[str, ...]
    options: tuple[str, ...] = ()


def judge(text: str) -> Judge:
    """The judge that a text in the catalogue stands for.

    Raises:
        CatalogueError: it has neither form.
    """
    match = _JUDGE.fullmatch(text)
    if match is None:
        raise CatalogueError(f"the judge is {text!r}, and must be {_FORMS}")
    words, selection = match[2].split(), match[3]
    if match[1] != "parity":
        options = ["-m", "not caffe"] if match[1] == "fast" else []
        return Judge(text, tuple(words), (*options, *(("-k", selection) if selection else ())))
    if len(words) > 2:
        raise CatalogueError(f"the judge {text!r} names more than one layer")
    kinds = ("variant", "layer")
    chosen = [f"--parity-{kind}={name}" for kind, name in zip(kinds, words, strict=False)]
    return Judge(text, ("parity_tests/test_parity.py",), (*chosen, "-k", selection or FEW))


@dataclass(frozen=True)
class Mutant:
    """One wrong edit; what the fields are stands in catalogue.toml."""

    name: str
    group: str
    file: str
    bug: str
    judge: Judge
    old: str
    new: str


_FIELDS = {"name", "group", "file", "bug", "judge", "old", "new"}


def read(file: Path = FILE) -> tuple[Mutant, ...]:
    """The mutants, in the order in which they are reported.

    Raises:
        CatalogueError: the file is not TOML, or an entry in it is not whole, is there twice, or has
            a judge of no known form.
    """
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CatalogueError(f"{file.name}: {error}") from error
    entries = content.get("mutant")
    if set(content) != {"mutant"} or not isinstance(entries, list):
        raise CatalogueError(f"{file.name} must hold [[mutant]] entries and nothing else")
    found: dict[str, Mutant] = {}
    for number, entry in enumerate(entries, 1):
        name = entry.get("name", f"number {number}")
        texts = {key for key, value in entry.items() if isinstance(value, str)}
        if wrong := (set(entry) | _FIELDS) - (texts & _FIELDS):
            words = f"each of {', '.join(sorted(wrong))} must be there, be a text and be known"
            raise CatalogueError(f"{file.name}: mutant {name}: {words}")
        if name in found:
            raise CatalogueError(f"{file.name}: two mutants are called {name}")
        if entry["old"] == entry["new"]:
            raise CatalogueError(f"{file.name}: mutant {name} changes nothing")
        try:
            found[name] = Mutant(**entry | {"judge": judge(entry["judge"])})
        except CatalogueError as error:
            raise CatalogueError(f"{file.name}: mutant {name}: {error}") from error
    return tuple(found.values())


def mutated(text: str, mutant: Mutant) -> str:
    """The text of a file with the mutant in it.

    Raises:
        CatalogueError: its old text does not stand there exactly once, or what it makes of Python
            is none any more.
    """
    count = text.count(mutant.old)
    if count != 1:
        raise CatalogueError(f"{mutant.name}: its old text stands {count} times in {mutant.file}")
    edited = text.replace(mutant.old, mutant.new)
    if mutant.file.endswith(".py"):
        try:
            ast.parse(edited)
        except SyntaxError as error:
            raise CatalogueError(f"{mutant.name} makes no Python: {error}") from error
    return edited


def misfits(mutants: Iterable[Mutant], root: Path = ROOT) -> Iterator[str]:
    """What is wrong with each mutant that cannot be applied or judged, and where to look."""
    for mutant in mutants:
        file = root / mutant.file
        text = file.read_text() if file.is_file() else ""
        try:
            mutated(text, mutant)
        except CatalogueError as error:
            yield str(error) if mutant.old in text else f"{error}{_advice(mutant, text, root)}"
        for name in mutant.judge.files:
            if not (root / name).is_file():
                yield f"{mutant.name}: there is no {name}, which must find it"


def _advice(mutant: Mutant, text: str, root: Path) -> str:
    """Where the old text stands now, else the line of its file that is most like its first one."""
    files = sorted(root.glob(f"[!.]*/**/*{Path(mutant.file).suffix}"))
    elsewhere = [
        str(each.relative_to(root))
        for each in files
        if mutant.old in each.read_text("utf-8", "replace")
    ]
    if elsewhere:
        return f"\n  it stands in {', '.join(elsewhere)}"
    first = mutant.old.strip().splitlines()[0]
    lines = text.splitlines()
    near = difflib.get_close_matches(first, lines, 1)
    found = f"line {lines.index(near[0]) + 1}: {near[0].strip()}" if near else "nothing like it"
    return f"\n  its first line: {first}\n  there now: {found}"
