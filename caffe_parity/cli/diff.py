"""Says what an edit changed: which results have the same bits, by how many ulps the others differ,
whose verdict changed, and what got slower. BEFORE and AFTER are two files of results, of parity run
(parity-report/results.json), parity check --json, parity recorded --json or pytest --parity-json.

From the best verdict to the worst: pass; a suspicious pass; refused, as expected; not run;
unproven; fail; crash and hang. A case that is gone counts as one that did not run, if AFTER was
asked for the same as BEFORE or is incomplete.
"""  # noqa: D205  # argparse shows it as it stands

from __future__ import annotations

import argparse
import json

from caffe_parity.cli import add_page, add_told, path
from caffe_parity.contract import BadRequest
from caffe_parity.report import show, summary
from caffe_parity.report.changes import Diff
from caffe_parity.report.record import PAGE, must_be_writable, read, write_whole
from caffe_parity.terminal import say

EXAMPLES = """\
  parity diff before.json parity-report/results.json
  parity diff before.json after.json --all --page what-changed.html
"""

EPILOG = "exit status: 0 no verdict got worse, 1 one did, 2 could not be carried out"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity diff`."""
    parser.add_argument("before", metavar="BEFORE.json", type=path, help="results before the edit")
    parser.add_argument("after", metavar="AFTER.json", type=path, help="results after it")
    parser.add_argument("--json", metavar="FILE", type=path, help="write it all to a file, too")
    add_page(parser)
    add_told(parser, "list each case", "--all")


def carried_out(options: argparse.Namespace) -> int:
    """Compares, and prints what changed; returns the exit status.

    Raises:
        BadRequest, Unreadable: the files are no reports, or have no case in common.
    """
    if options.json is not None and options.json == options.page:
        raise BadRequest(f"--json and --page name the same file, {options.page}: name two")
    must_be_writable("--json", options.json, b'"schema": "parity-diff')
    must_be_writable("--page", options.page, PAGE)
    summary.must_be_appendable("--summary", options.summary)
    diff = Diff(read(options.before), read(options.after))
    if not diff.both:
        raise BadRequest(
            f"no case of {options.before} is in {options.after}: "
            "run the same variants before and after"
        )
    for file, made in ((options.json, _as_json), (options.page, _as_page)):
        if file:
            try:
                write_whole(file, made(diff) + "\n")
            except OSError as error:
                raise BadRequest(f"cannot write {file}: {error.strerror}") from error
    say([show.summary(diff)] if options.quiet else show.lines(diff, bool(options.verbose)))
    worse = any(each.judged == "worse" for each in diff.changes)
    if options.summary:
        told = [f"### {summary.SHAPES['fail' if worse else 'pass']} parity diff", ""]
        told += summary.tables(list(show.lines(diff, False)))
        summary.append(options.summary, "\n".join(told))
    return int(worse)


def _as_json(diff: Diff) -> str:
    return json.dumps(show.as_json(diff), indent=1, allow_nan=False)


def _as_page(diff: Diff) -> str:
    from caffe_parity.report import diff_page

    return diff_page.html(diff)
