"""Writes docs/mutants.md and mutants_tool.md: the bugs that are found, and what is not and why."""

from __future__ import annotations

from collections.abc import Sequence

from studies.mutation import generated
from studies.mutation.catalogue import ROOT, Mutant
from studies.mutation.runner import KILLED, Verdict

PAGE = ROOT / "docs" / "mutants.md"
TOOL_PAGE = ROOT / "docs" / "mutants_tool.md"

KINDS = {
    "equivalent": "nothing that can be observed changes",
    "words": "only the words of a message change, and they stay true",
    "speed": "only what a run costs changes",
    "elsewhere": "a test finds it that is not among those that the study runs",
    "host": "it shows only on another machine: a GPU, another system, no network",
    "open": "nothing finds it yet",
}
"""Why a mutant of tool.toml may survive."""

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


_TOOL = """\
# What a tool finds, and what nobody here had seen

Three figures, which do not say the same:

| whose mutants | found |
|---|---|
| the catalogue's, which this project wrote: [mutants.md](mutants.md) | all |
| a tool's, drawn from every file of the tool and of the suite (below) | {tool} |
| unseen ones, written by somebody else and tried once, as the suite landed | 102 of 149: 42 by \
the main job, 55 by the tool's tests, 5 by a search; 47 survived all (3 more change nothing) |

The first says how well the suite knows its own list. The last one is history: these mutants were
kept back, and tests of their kinds have been written since.

{fresh}
## The tool's

    python -m studies.mutation --tool --budget 3600 --resume tool.jsonl

cosmic-ray changes every operator, comparison, constant, condition and loop of `caffe_parity/`,
`reference/`, `caffe_impl/`, `torch_impl/` and `parity_tests/` (without the tests themselves), and a
statement that only does something is dropped, one at a time. Of each file some are drawn, in
proportion to its length and at least {least}, the same for everybody (`--seed`, here {seed}); what
must find them, by file, stands in [`tool.toml`](../studies/mutation/tool.toml): tests that take
seconds, so a sample judged by a part of the tests, and no proof. `--budget` ends a run after that
many seconds; `--resume` notes each verdict in a file, and goes on from there. `--only NAME` runs
one, and `--list` names them.

This page is written by `--write-docs`: of each file how many places there are, how many mutants
were drawn, and what became of them. "no end" is one that made its tests endless, which finds it.

{table}

{history}

## Known survivors

Each is a mutant that a run found, with its reason; a draw that meets it counts it as known, and
does not run it again.

| file | the line | becomes | why |
|---|---|---|---|
"""

_FRESH = """\
Twelve fresh ones asked for *words* (`tests/test_fresh_words.py`): what must be said of each was
written down from the mistake alone, before any was run. {figure}
"""


def tool_page(table: Sequence[str], found: str, seed: int) -> str:
    """docs/mutants_tool.md.

    Args:
        table: a row for each file, and one for all, with their head.
        found: how many of how many that ran were killed.
        seed: of the draw.
    """
    given = generated.settings(generated.TOOL)
    head = _TOOL.format(
        tool=found,
        fresh=_FRESH.format(figure=given["fresh"]),
        history=given["history"],
        least=given["at_least"],
        seed=seed,
        table="\n".join(table),
    )
    return head + "\n".join(map(_survivor_row, given["left_out"])) + "\n"


def _survivor_row(entry: dict[str, str]) -> str:
    reason = {**entry, "why": f"{entry['kind']}: {entry['why']}"}
    return _equivalent_row(reason)


def _row(mutant: Mutant) -> str:
    return f"| `{mutant.name}` | {_plain(mutant.bug)} |"


def _equivalent_row(entry: dict[str, str]) -> str:
    name = entry["file"].rpartition("/")[2]
    before, after = (entry[key].replace("|", "\\|") for key in ("before", "after"))
    return f"| {name} | `{before}` | `{after}` | {_plain(entry['why'])} |"


def _plain(text: str) -> str:
    """A text that is no markup in a cell of a table."""
    return text.replace("|", "\\|").replace("*", "\\*").replace("`", "")
