"""The command line: `python -m studies.mutation`."""

from __future__ import annotations

import argparse
import datetime
import difflib
import sys
import time
from collections import Counter
from collections.abc import Sequence

from caffe_parity.progress import PROGRESS
from studies.mutation import catalogue, generated, page
from studies.mutation.catalogue import CatalogueError, Mutant
from studies.mutation.runner import BROKEN, KILLED, NOT_RUN, SURVIVED, Verdict, run, spread


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies.mutation",
        description="Writes one bug at a time into a copy of the project: each must be found.",
        epilog="exit status: 0 every mutant that ran was killed (with --check: every one fits), "
        "1 one was not, 2 what was asked could not be carried out",
    )
    add = parser.add_argument
    made = parser.add_mutually_exclusive_group()
    made.add_argument(
        "--generated", action="store_true", help="cosmic-ray's mutants, not the catalogue's"
    )
    made.add_argument(
        "--tool", action="store_true", help="a tool's mutants of the whole engine and its reports"
    )
    add("--only", action="append", metavar="NAME", help="only this mutant; may be given again")
    add("--budget", type=_seconds, default="inf", metavar="S", help="end after that many seconds")
    add("--seed", type=int, help="of the order in which they run (default: the date)")
    add("--jobs", type=_jobs, default=0, metavar="N", help="how many at a time (one a core)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the mutants and run none")
    instead.add_argument(
        "--check", action="store_true", help="say which do not fit their files, and run none"
    )
    instead.add_argument(
        "--write-docs", action="store_true", help="write docs/mutants.md; all must run"
    )
    return parser


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise ValueError
    return value


def _jobs(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def chosen(mutants: Sequence[Mutant], names: Sequence[str] | None) -> list[Mutant]:
    """The mutants of these names, or all.

    Raises:
        CatalogueError: there is no mutant of that name; the message says which there is.
    """
    by_name = {mutant.name: mutant for mutant in mutants}
    for name in names or ():
        if name not in by_name:
            close = difflib.get_close_matches(name, by_name, 1)
            advice = f"did you mean {close[0]!r}?" if close else "--list shows them all"
            raise CatalogueError(f"unknown mutant {name!r}; {advice}")
    return [by_name[name] for name in names] if names else list(mutants)


def line(verdict: Verdict) -> str:
    """One verdict as it is printed."""
    mutant = verdict.mutant
    text = f"{verdict.verdict:8}  {mutant.group}  {mutant.name}"
    if verdict.verdict == SURVIVED:
        return f"{text}\n    {mutant.bug}\n    {mutant.judge.text} did not find it"
    return f"{text}  {verdict.reason}"


def summary(verdicts: Sequence[Verdict], seconds: float) -> list[str]:
    """The last lines: how many were killed, what survived, and what did not run and why."""
    counts = Counter(verdict.verdict for verdict in verdicts)
    judged = counts[KILLED] + counts[SURVIVED]
    lines = ["", f"{counts[KILLED]} of {judged} mutants killed, {seconds:.0f} s"]
    reasons = Counter(each.reason for each in verdicts if each.verdict == NOT_RUN)
    lines += [f"not run: {reason} ({count} mutants)" for reason, count in reasons.items()]
    for kind in (SURVIVED, BROKEN):
        names = [each.mutant.name for each in verdicts if each.verdict == kind]
        lines += [f"{kind}: {', '.join(names)}"] if names else []
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
        return _carried_out(options)
    except (CatalogueError, OSError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _all(options: argparse.Namespace) -> Sequence[Mutant]:
    if options.tool:
        return generated.mutants(generated.TOOL)
    return generated.mutants() if options.generated else catalogue.read()


def _carried_out(options: argparse.Namespace) -> int:
    all_mutants = _all(options)
    mutants = chosen(all_mutants, options.only)
    if options.list:
        print("\n".join(f"{each.group}  {each.name}: {each.bug}" for each in mutants))
        return 0
    if options.check:
        wrong = list(catalogue.misfits(mutants))
        print("\n".join([*wrong, f"{len(mutants)} mutants, {len(wrong)} misfits"]))
        return 1 if wrong else 0
    if options.write_docs and (options.only or options.generated or options.tool):
        raise CatalogueError("--write-docs is for all mutants of the catalogue")
    seed = datetime.date.today().toordinal() if options.seed is None else options.seed
    print(f"{len(mutants)} mutants, seed {seed}", flush=True)
    start = time.monotonic()
    done = 0

    def notice(verdict: Verdict) -> None:
        nonlocal done
        done += 1
        PROGRESS.aside()
        print(line(verdict), flush=True)
        PROGRESS("mutants", f"{done} of {len(mutants)}", done / len(mutants))

    verdicts = run(spread(mutants, seed), budget=options.budget, jobs=options.jobs, notice=notice)
    PROGRESS.close()
    print("\n".join(summary(verdicts, time.monotonic() - start)))
    if options.write_docs:
        verdicts.sort(key=lambda each: mutants.index(each.mutant))
        if missing := [v.mutant.name for v in verdicts if v.verdict in (NOT_RUN, BROKEN)]:
            raise CatalogueError(f"no page without {', '.join(missing)}")
        page.PAGE.write_text(page.page(verdicts))
    return status(verdicts)


if __name__ == "__main__":
    raise SystemExit(main())
