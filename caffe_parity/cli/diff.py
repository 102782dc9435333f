"""`parity diff`: the arguments, what is printed, the exit status."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from caffe_parity.report import show
from caffe_parity.report.changes import Change, compare, paces
from caffe_parity.report.fields import Unreadable
from caffe_parity.report.files import Report, read

DESCRIPTION = """\
Says what an edit changed: which results have the same bits, by how many ulps the others differ,
whose verdict changed, and what got slower. BEFORE and AFTER are two files of `parity run`
(parity-report/results.json) or two of `parity check --json FILE`.

From the best verdict to the worst: pass; a suspicious pass; refused, as expected; not run; fail;
crash and hang. A case that is gone counts as one that did not run, if AFTER was asked for the same
as BEFORE or is incomplete.
"""
EPILOG = "exit status: 0 no verdict got worse, 1 one did, 2 could not be carried out"


def parser() -> argparse.ArgumentParser:
    """The command line of `parity diff`."""
    made = argparse.ArgumentParser(
        prog="parity diff",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("before", metavar="BEFORE.json", type=Path)
    made.add_argument("after", metavar="AFTER.json", type=Path)
    made.add_argument("--all", action="store_true", help="list each case")
    made.add_argument("--json", metavar="FILE", type=Path, help="write it all to a file, too")
    return made


def main(arguments: list[str]) -> int:
    """Runs `parity diff`; returns the exit status."""
    try:
        options = parser().parse_args(arguments)
    except SystemExit as ended:
        return int(ended.code or 0)
    try:
        before, after = read(options.before), read(options.after)
        changes = _compared(before, after)
        if options.json:
            content = show.as_json(before, after, changes, paces(changes))
            options.json.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
    except Unreadable as error:
        print(f"parity diff: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"parity diff: cannot write {options.json}: {error.strerror}", file=sys.stderr)
        return 2
    print("\n".join(_lines(before, after, changes, options.all)))
    return int(any(each.judged == "worse" for each in changes))


def _compared(before: Report, after: Report) -> list[Change]:
    """What became of every case.

    Raises:
        Unreadable: the reports have nothing to compare.
    """
    if before.command != after.command:
        raise Unreadable(
            f"{before.file} is of {before.command}, {after.file} of {after.command}: "
            "compare two reports of the same command"
        )
    changes = compare(before, after)
    if not any(each.in_both for each in changes):
        raise Unreadable(
            f"no case of {before.file} is in {after.file}: run the same variants before and after"
        )
    return changes


def _lines(before: Report, after: Report, changes: list[Change], every: bool) -> Iterator[str]:
    times = paces(changes)
    yield from show.header(before, after)
    yield ""
    yield from show.table(changes, times)
    yield from show.legend(changes)
    yield from show.verdicts(changes, every)
    yield from show.slower(times)
    if every:
        yield ""
        yield from show.every_case(changes)
    yield ""
    yield show.summary(changes)
