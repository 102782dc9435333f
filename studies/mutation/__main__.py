"""The command line: `python -m studies.mutation`, which is `tox -e mutants`."""

from __future__ import annotations

import argparse
import datetime
import difflib
import sys
import time
from collections import Counter
from collections.abc import Sequence

from studies.mutation import document
from studies.mutation.catalogue import CATALOGUE, Mutant
from studies.mutation.runner import (
    BROKEN,
    KILLED,
    NOT_RUN,
    SURVIVED,
    CatalogueError,
    Verdict,
    run,
    spread,
)

OUT_OF_BUDGET = "budget"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies.mutation",
        description="Writes one bug at a time into a copy of the project: each must be found.",
        epilog="exit status: 0 every mutant that ran was killed, 1 one survived, "
        "2 what was asked could not be carried out",
    )
    add_run_options(parser)
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="only this mutant; may be given again"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/mutants.md; every mutant must run"
    )
    parser.add_argument("--list", action="store_true", help="list the mutants and run none")
    return parser


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that say how long, in which order and how many at a time."""
    parser.add_argument("--budget", type=_seconds, metavar="S", help="end after that many seconds")
    parser.add_argument(
        "--seed", type=int, help="of the order in which they run (default: the date)"
    )
    parser.add_argument(
        "--jobs",
        type=_jobs,
        default=0,
        metavar="N",
        help="how many at a time (default: one a core)",
    )


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError
    return value


def _jobs(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def chosen(names: Sequence[str] | None) -> list[Mutant]:
    """The mutants of these names, or all.

    Raises:
        ValueError: there is no mutant of that name; the message says which there is.
    """
    by_name = {mutant.name: mutant for mutant in CATALOGUE}
    for name in names or ():
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, 1)
            advice = f"did you mean {close[0]!r}?" if close else "--list shows them all"
            raise ValueError(f"unknown mutant {name!r}; {advice}")
    return [by_name[name] for name in names] if names else list(CATALOGUE)


def line(verdict: Verdict) -> str:
    """One verdict as it is printed."""
    text = f"{verdict.verdict:8}  {verdict.mutant.group}  {verdict.mutant.name}"
    if verdict.verdict == KILLED:
        text += f"  {document.killers(verdict).replace('`', '')}"
    elif verdict.verdict == SURVIVED:
        text += f"\n    {verdict.mutant.bug}\n    {verdict.mutant.judge.label} did not find it"
    elif verdict.reason:
        text += f": {verdict.reason}"
    return text


def summary(verdicts: Sequence[Verdict], seconds: float) -> list[str]:
    """The last lines: the kill rate, what survived, what did not run, the cases that found none."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    judged = counts[KILLED] + counts[SURVIVED]
    rate = f"{counts[KILLED] / judged:.1%}" if judged else "nothing ran"
    lines = [
        "",
        f"{counts[KILLED]} of {judged} mutants killed ({rate}), {seconds:.0f} s;"
        f" {len(verdicts)} in all",
    ]
    reasons = Counter(each.reason for each in verdicts if each.verdict == NOT_RUN)
    lines += [f"not run: {reason} ({count} mutants)" for reason, count in reasons.items()]
    for kind in (SURVIVED, BROKEN):
        names = [each.mutant.name for each in verdicts if each.verdict == kind]
        lines += [f"{kind}: {', '.join(names)}"] if names else []
    if judged == len(CATALOGUE):
        lines.append(
            f"cases that kill nothing: {', '.join(document.useless_cases(verdicts)) or 'none'}"
        )
    return lines


def status(verdicts: Sequence[Verdict]) -> int:
    """The exit status: a survivor weighs more than a mutant that could not be judged."""
    seen = {verdict.verdict for verdict in verdicts}
    if SURVIVED in seen:
        return 1
    return 0 if KILLED in seen and BROKEN not in seen else 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the arguments ask for; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        mutants = chosen(options.only)
    except ValueError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    if options.list:
        for mutant in mutants:
            print(f"{mutant.group}  {mutant.name}: {mutant.bug}")
        return 0
    if options.write_docs and options.only:
        print("mutants: --write-docs needs every mutant, so no --only", file=sys.stderr)
        return 2
    seed = datetime.date.today().toordinal() if options.seed is None else options.seed
    print(f"{len(mutants)} mutants, seed {seed}", flush=True)
    start = time.monotonic()
    try:
        verdicts = run(
            spread(mutants, seed),
            budget=options.budget,
            jobs=options.jobs,
            notice=lambda verdict: print(line(verdict), flush=True),
        )
    except (CatalogueError, OSError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    verdicts.sort(key=lambda verdict: CATALOGUE.index(verdict.mutant))
    print("\n".join(summary(verdicts, time.monotonic() - start)))
    if options.write_docs:
        missing = [v.mutant.name for v in verdicts if v.verdict in (NOT_RUN, BROKEN)]
        if missing:
            print(f"mutants: no page without {', '.join(missing)}", file=sys.stderr)
            return 2
        document.write(verdicts)
    return status(verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
