"""The command line: `python -m studies.mutation`."""

from __future__ import annotations

import argparse
import datetime
import difflib
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from studies.mutation import catalogue, generated, page
from studies.mutation.catalogue import CatalogueError, Mutant
from studies.mutation.generated import Drawn
from studies.mutation.runner import BROKEN, KILLED, NO_END, NOT_RUN, SURVIVED, Verdict, run, spread


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
        "--tool", action="store_true", help="some of a tool's mutants of each file of the project"
    )
    add("--only", action="append", metavar="NAME", help="only this mutant; may be given again")
    add("--budget", type=_seconds, default="inf", metavar="S", help="end after that many seconds")
    add("--seed", type=int, help="of their order (default: the date), and of --tool's draw")
    add(
        "--resume",
        type=Path,
        metavar="FILE",
        help="with --tool, note each verdict in FILE; what was killed there is not run again, and "
        "what this run does not come to is told as it stands there",
    )
    add("--jobs", type=_jobs, default=0, metavar="N", help="how many at a time (one a core)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", action="store_true", help="list the mutants and run none")
    instead.add_argument(
        "--check", action="store_true", help="say which do not fit their files, and run none"
    )
    instead.add_argument(
        "--write-docs",
        action="store_true",
        help="write docs/mutants.md, of which all must run, or mutants_tool.md",
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


def _carried_out(options: argparse.Namespace) -> int:
    if options.tool:
        return _tool(options)
    if options.resume:
        raise CatalogueError("--resume is for --tool")
    all_mutants = generated.mutants() if options.generated else catalogue.read()
    mutants = chosen(all_mutants, options.only)
    if options.list:
        print("\n".join(f"{each.group}  {each.name}: {each.bug}" for each in mutants))
        return 0
    if options.check:
        return _checked(mutants, [])
    if options.write_docs and (options.only or options.generated):
        raise CatalogueError("--write-docs is for all mutants of the catalogue")
    seed = datetime.date.today().toordinal() if options.seed is None else options.seed
    verdicts, seconds = _run(mutants, seed, options)
    print("\n".join(summary(verdicts, seconds)))
    if options.write_docs:
        verdicts.sort(key=lambda each: mutants.index(each.mutant))
        if missing := [v.mutant.name for v in verdicts if v.verdict in (NOT_RUN, BROKEN)]:
            raise CatalogueError(f"no page without {', '.join(missing)}")
        page.PAGE.write_text(page.page(verdicts))
    return status(verdicts)


def _checked(mutants: Sequence[Mutant], more: Sequence[str]) -> int:
    wrong = [*catalogue.misfits(mutants), *more]
    print("\n".join([*wrong, f"{len(mutants)} mutants, {len(wrong)} misfits"]))
    return 1 if wrong else 0


def _run(
    mutants: Sequence[Mutant], seed: int, options: argparse.Namespace
) -> tuple[list[Verdict], float]:
    """The verdicts, each printed as it comes, and the seconds that they took."""
    print(f"{len(mutants)} mutants, seed {seed}", flush=True)
    start = time.monotonic()

    def notice(verdict: Verdict) -> None:
        print(line(verdict), flush=True)
        if options.resume:
            with options.resume.open("a") as file:
                said = [verdict.mutant.name, verdict.mutant.bug, verdict.verdict, verdict.reason]
                file.write(json.dumps(said) + "\n")

    ordered = spread(mutants, seed)
    verdicts = run(
        ordered,
        budget=options.budget,
        jobs=options.jobs,
        whole=not options.tool,
        notice=notice,
    )
    return verdicts, time.monotonic() - start


def _tool(options: argparse.Namespace) -> int:
    """The study of the tool: some mutants of every file, and what became of each."""
    seed = generated.settings(generated.TOOL)["seed"] if options.seed is None else options.seed
    files = generated.drawn(seed, options.only)
    mutants = [each for drawn in files.values() for each in drawn.mutants]
    known = {name for drawn in files.values() for name in drawn.known}
    if options.list:
        print("\n".join(f"{each.name}: {each.bug}" for each in mutants))
        return 0
    if options.check:
        return _checked(mutants, generated.stale())
    if options.write_docs and options.only:
        raise CatalogueError("--write-docs is for all mutants of a draw")
    noted = _noted(options.resume, mutants)
    killed = {name for name, each in noted.items() if each.verdict == KILLED}
    left = [each for each in mutants if each.name not in known | killed]
    ran, seconds = _run(left, seed, options)
    verdicts = [noted.get(v.mutant.name, v) if v.verdict == NOT_RUN else v for v in ran]
    verdicts += [noted[name] for name in sorted(killed - known)]
    print("\n".join(["", *table(files, verdicts), *summary(verdicts, seconds)]))
    if options.write_docs:
        counts = Counter(each.verdict for each in verdicts)
        judged = counts[KILLED] + counts[SURVIVED]
        found = f"{counts[KILLED]} of {judged + len(known)} that were looked at ({len(known)} are "
        found += f"known to survive), of {len(mutants)} drawn"
        page.TOOL_PAGE.write_text(page.tool_page(table(files, verdicts), found, seed))
    return status(verdicts)


def _noted(file: Path | None, mutants: Sequence[Mutant]) -> dict[str, Verdict]:
    """What a file of --resume says last of each of these mutants, by name."""
    by_key = {(each.name, each.bug): each for each in mutants}
    found: dict[str, Verdict] = {}
    for text in file.read_text().splitlines() if file and file.exists() else ():
        name, bug, verdict, reason = json.loads(text)
        if (name, bug) in by_key:
            found[name] = Verdict(by_key[name, bug], verdict, reason)
    return found


COLUMNS = ("places", "drawn", "killed", "no end", "survived", "known", "not run")


def table(files: Mapping[str, Drawn], verdicts: Sequence[Verdict]) -> list[str]:
    """A line for each file, and one for all, as Markdown: how many mutants became what.

    "places" is where an operator fits, "no end" a mutant that made its tests endless, "known" one
    that survives and whose reason stands in tool.toml.
    """
    of: dict[str, list[Verdict]] = {name: [] for name in files}
    for each in verdicts:
        of[each.mutant.file].append(each)
    rows: list[tuple[str, list[int], str]] = []
    for name, drawn in files.items():
        counts = Counter("no end" if v.reason == NO_END else v.verdict for v in of[name])
        numbers = [drawn.places, len(drawn.mutants), counts[KILLED], counts["no end"]]
        numbers += [counts[SURVIVED], len(drawn.known), counts[NOT_RUN] + counts[BROKEN]]
        words = {v.reason.partition("\n")[0] for v in of[name] if v.verdict in (NOT_RUN, BROKEN)}
        why = "; ".join(sorted(words)) if drawn.mutants else "nothing in it can be changed"
        rows.append((name, numbers, why))
    rows.append(("all", [sum(column) for column in zip(*(r[1] for r in rows), strict=True)], ""))
    lines = [f"| file | {' | '.join(COLUMNS)} | |", "|---" * (len(COLUMNS) + 2) + "|"]
    lines += [
        f"| {name} | {' | '.join(map(str, numbers))} | {why} |" for name, numbers, why in rows
    ]
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
