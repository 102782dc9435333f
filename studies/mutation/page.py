"""Writes docs/mutants.md: the bugs that the suite finds, in words, and what is left out and why."""

from __future__ import annotations

from collections.abc import Sequence

from studies.mutation import generated
from studies.mutation.catalogue import ROOT, Mutant
from studies.mutation.runner import KILLED, Verdict

PAGE = ROOT / "docs" / "mutants.md"

_HEAD = """\
# Bugs that the suite finds

`python -m studies.mutation` writes one wrong edit at a time into a copy of the project and runs
what must find it: `tox -e parity`'s own cases for whatever computes a loss or the truth; the
project's own tests for what the cases cannot see, such as a bound that is too wide, or a comparison
that lets something through. Each of these runs first without a mutant, and must pass. The mutants
are data, in [`catalogue.toml`](../studies/mutation/catalogue.toml), each with its edit and what
must find it.

This page is written by `python -m studies.mutation --write-docs`, which runs them all; a test says
when it is no longer the catalogue's.
"""

_GENERATED = """\
## Made by a tool

cosmic-ray changes every operator, comparison, constant, condition and loop of the files that
decide, and all these mutants must be found, too (`python -m studies.mutation --generated`). Left
out are those that change nothing that can be observed:

| file | the line | becomes | why nothing changes |
|---|---|---|---|
"""


def page(verdicts: Sequence[Verdict]) -> str:
    """The whole page.

    Args:
        verdicts: one for each mutant of the catalogue, in its order.
    """
    killed = sum(each.verdict == KILLED for each in verdicts)
    lines = [_HEAD, f"**{killed} of {len(verdicts)} are killed.**", ""]
    lines += [
        f"- {each.verdict}: `{each.mutant.name}`, {_plain(each.mutant.bug)}. {each.reason}".strip()
        for each in verdicts
        if each.verdict != KILLED
    ]
    for group in dict.fromkeys(each.mutant.group for each in verdicts):
        members = [each.mutant for each in verdicts if each.mutant.group == group]
        lines += [f"## {group[0].upper()}{group[1:]} ({len(members)})", ""]
        lines += ["| mutant | the bug |", "|---|---|", *map(_row, members), ""]
    left_out = generated.settings()["left_out"]
    lines.append(_GENERATED + "\n".join(map(_equivalent_row, left_out)))
    return "\n".join(lines) + "\n"


def _row(mutant: Mutant) -> str:
    return f"| `{mutant.name}` | {_plain(mutant.bug)} |"


def _equivalent_row(entry: dict[str, str]) -> str:
    name = entry["file"].rpartition("/")[2]
    before, after = (entry[key].replace("|", "\\|") for key in ("before", "after"))
    return f"| {name} | `{before}` | `{after}` | {_plain(entry['why'])} |"


def _plain(text: str) -> str:
    """A text that is no markup in a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("`", "")
