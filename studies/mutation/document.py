"""Writes docs/mutants.md: every mutant, what found it, and which cases found nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from reference.cases import CASES
from studies.mutation.catalogue import LARGE, Mutant
from studies.mutation.runner import KILLED, ROOT, SURVIVED, Verdict

DOCUMENT = ROOT / "docs" / "mutants.md"

SHOWN = 3  # names in one line of a table

HEAD = """\
# Bugs that the suite finds

`tox -e mutants` writes one wrong edit at a time into a copy of the project and runs what must find
it: `tox -e parity`'s own cases for whatever computes a loss or the truth; the project's own tests
for what the cases cannot see, such as a bound that is too wide, or a comparison that lets something
through. Each of these runs first without a mutant, and must pass. The mutants are data, in
[`catalogue.py`](../studies/mutation/catalogue.py).

This page is written by `tox -e mutants -- --write-docs`; a test says when its mutants are no longer
the catalogue's.

The comparison and the bound are also mutated by a tool, cosmic-ray, wherever it can: `tox -e
mutants-generated`. All 288 mutants were killed; 14 more change nothing that can be observed, each
listed with the reason in [`equivalent.py`](../studies/mutation/equivalent.py).
"""


def first_cells(mutant: Mutant) -> str:
    """How the line of a mutant begins; a test looks for it."""
    return f"| `{mutant.name}` | {_plain(mutant.bug)} |"


def document(verdicts: Sequence[Verdict]) -> str:
    """The whole page.

    Args:
        verdicts: one for each mutant of the catalogue, each killed or survived.
    """
    killed = sum(each.verdict == KILLED for each in verdicts)
    lines = [
        HEAD,
        f"**{killed} of {len(verdicts)} are killed** ({killed / len(verdicts):.1%}).",
        "",
    ]
    for group, members in grouped(verdicts).items():
        lines += [f"## {group[0].upper()}{group[1:]}", ""]
        lines += ["| mutant | the bug | judged by | killed by |", "|---|---|---|---|"]
        lines += [
            f"{first_cells(each.mutant)} {_plain(each.mutant.judge.label)} | {killers(each)} |"
            for each in members
        ]
        lines.append("")
    return "\n".join([*lines, *_about_cases(verdicts)])


def _plain(text: str) -> str:
    """A text that is no markup in a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("`", "")


def grouped(verdicts: Iterable[Verdict]) -> dict[str, list[Verdict]]:
    """The verdicts by group, in the catalogue's order."""
    groups: dict[str, list[Verdict]] = {}
    for each in verdicts:
        groups.setdefault(each.mutant.group, []).append(each)
    return groups


def killers(verdict: Verdict) -> str:
    """How many cases or tests found it, and the names of the first."""
    if verdict.verdict == SURVIVED:
        return "**nothing: it survived**"
    if verdict.reason:
        return verdict.reason
    if verdict.mutant.judge.compares:
        names, count = verdict.killing_cases, len(set(verdict.cases.values()))
        return f"{len(names)} of {count} cases: {_some(names)}"
    names = [test.partition("::")[2] for test in verdict.failed]
    return f"{len(names)} of {len(verdict.ran)} tests: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:SHOWN])
    return shown + (", ..." if len(names) > SHOWN else "")


def kills_of_cases(verdicts: Iterable[Verdict]) -> dict[str, int]:
    """How many mutants each case found, of the cases that ran at all."""
    counts: Counter[str] = Counter()
    for each in verdicts:
        counts.update(dict.fromkeys(each.cases.values(), 0))
        counts.update(each.killing_cases)
    return dict(counts)


def only_killers(verdicts: Iterable[Verdict]) -> dict[str, list[str]]:
    """The mutants that a single case found, by that case."""
    alone: dict[str, list[str]] = {}
    for each in verdicts:
        if each.mutant.judge.compares and len(each.killing_cases) == 1:
            alone.setdefault(each.killing_cases[0], []).append(each.mutant.name)
    return alone


def useless_cases(verdicts: Iterable[Verdict]) -> list[str]:
    """The cases that ran and found no mutant."""
    return [case for case, count in kills_of_cases(verdicts).items() if count == 0]


def _about_cases(verdicts: Sequence[Verdict]) -> list[str]:
    useless = useless_cases(verdicts)
    alone = only_killers(verdicts)
    lines = ["## What each case finds", ""]
    lines.append(
        "How many of the mutants that are judged by cases each one kills, and those that no other "
        f"case kills. All but a few mutants run with `-k '{LARGE}'`, for speed."
    )
    lines += ["", f"Cases that kill nothing: {_some_or_none(useless)}."]
    unseen = [case.name for case in CASES if case.name not in kills_of_cases(verdicts)]
    lines += [f"Cases that no mutant was run with: {_some_or_none(unseen)}.", ""]
    lines += ["| case | kills | alone |", "|---|---|---|"]
    counts = kills_of_cases(verdicts)
    for case, count in sorted(counts.items(), key=lambda item: -item[1]):
        names = ", ".join(f"`{name}`" for name in alone.get(case, ()))
        lines.append(f"| `{case}` | {count} | {names} |")
    return [*lines, ""]


def _some_or_none(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def write(verdicts: Sequence[Verdict], path: Path = DOCUMENT) -> None:
    """Writes the page.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(exist_ok=True)
    path.write_text(document(verdicts))
