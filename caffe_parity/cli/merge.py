"""Puts the reports of all shards of a run together, as if one machine had run it all.

A shard is `parity run TESTS --shard I/N` (or `pytest --parity-shard I/N --parity-json FILE`).
Refused are shards that are missing or there twice, and those of other code, versions or tests.
"""

from __future__ import annotations

import argparse
import shlex
import xml.etree.ElementTree as ElementTree  # reports of one's own
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from caffe_parity import shards
from caffe_parity.checkout import program
from caffe_parity.cli import add_told, path
from caffe_parity.cli.run import make_folder
from caffe_parity.contract import BadRequest
from caffe_parity.report.changes import differing
from caffe_parity.report.record import Key, Record, Report, read, write_whole
from caffe_parity.terminal import say

EXAMPLES = """\
  parity merge shard-1 shard-2 -o parity-report
  parity merge shard-1 shard-2 -o parity-report -q --summary "$GITHUB_STEP_SUMMARY"
"""

OF_THE_MACHINE = ("platform", "processor")
"""What may differ from shard to shard."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity merge`."""
    words = "the folder, or the results.json, of each shard"
    parser.add_argument("reports", metavar="REPORT", nargs="+", type=path, help=words)
    parser.add_argument(
        *("-o", "--report"),
        metavar="DIR",
        type=path,
        required=True,
        help="where index.html, results.json and junit.xml go",
    )
    add_told(parser, "each shard: how many results it has, and its file")


def carried_out(options: argparse.Namespace) -> int:
    """Writes the whole report and shows its table; returns the exit status.

    Raises:
        BadRequest, Unreadable: the shards do not belong together, or are no reports.
    """
    from caffe_parity.report import page, record, summary
    from caffe_parity.report.table import headline, sections

    merged = whole([read(each) for each in options.reports])
    failed, suites = _junit([each if each.is_dir() else each.parent for each in options.reports])
    make_folder(options.report, options.quiet)
    for name, mark in (("results.json", record.RESULTS), ("index.html", record.PAGE)):
        record.must_be_writable("--report", options.report / name, mark)
    summary.must_be_appendable("--summary", options.summary)

    def reproduce(each: Record) -> str:
        return f"{program()} run TESTS -k {shlex.quote(f'[{each.id}]')}"

    merged.write(options.report / "results.json")
    if suites is not None:
        text = ElementTree.tostring(suites, encoding="unicode")
        write_whole(options.report / "junit.xml", text)
    page.write(merged, reproduce, options.report / "index.html")
    if options.summary:
        try:
            summary.append(options.summary, summary.markdown(merged, reproduce))
        except OSError as error:
            raise BadRequest(f"--summary {options.summary}: {error.strerror}") from error
    for section in sections(merged, reproduce) if not options.quiet else ():
        say([section.title, *section.lines])
    for each in options.reports if options.verbose else ():
        print(f"{len(read(each).results)} results: {each}")
    words = headline(merged)[1]
    words += "; a test that compares nothing failed" if failed and not merged.status else ""
    count = f"{len(options.reports)} shards, {len(merged.results)} results"
    print(f"{words}: {count}: {options.report}")
    return merged.status or int(failed)


def whole(reports: Sequence[Report]) -> Report:
    """One report of those of all shards.

    Raises:
        BadRequest: they do not belong together; the message names what does not.
    """
    _must_be_all(reports)
    reports = sorted(reports, key=lambda each: shards.parsed(str(each.selection["shard"])))
    first = reports[0]
    caffe = next((each.environment["caffe"] for each in reports if _caffe(each)), None)
    environments = [{**each.environment, "caffe": _caffe(each) or caffe} for each in reports]
    selections = [
        {name: each for name, each in report.selection.items() if name not in ("shard", "places")}
        for report in reports
    ]
    for report, environment, selection in zip(reports, environments, selections, strict=True):
        facts = [_facts(each) for each in (environments[0], environment) if len(each) > 1]
        other = differing(*facts) if len(facts) == 2 else {}
        for name, (one, another) in {**other, **differing(selections[0], selection)}.items():
            raise BadRequest(
                f"{first.file} and {report.file} are not of one run: {name} is {one} in the one "
                f"and {another} in the other"
            )
    if not any(each.results or each.missing for each in reports):
        raise BadRequest("nothing was compared: no shard has a comparison")
    records: dict[Key, str] = {}
    for report in reports:
        for each in report.results:
            if each.key in records:
                raise BadRequest(f"{each.id} is in {records[each.key]} and in {report.file}")
            records[each.key] = report.file
    known = [each for each in environments if len(each) > 1]
    environment = known[0] if known else {}
    for name in OF_THE_MACHINE if known else ():
        environment[name] = "; ".join(dict.fromkeys(each[name] for each in known))
    return replace(
        first,
        environment=environment,
        selection={
            name: each for name, each in selections[0].items() if name not in ("shards", "code")
        },
        results=_in_order(reports),
        selected=sum(len(each.results) + each.missing for each in reports),
        file="",
    )


def _in_order(reports: Sequence[Report]) -> list[Record]:
    """All results, as they stand in a run of one machine."""
    found: list[tuple[int, Record]] = []
    for report in reports:
        places = [
            int(each) for each in str(report.selection.get("places")).split() if each.isdecimal()
        ]
        found += zip([*places, *[len(found)] * len(report.results)], report.results, strict=False)
    return [record for _, record in sorted(found, key=lambda each: each[0])]


def _caffe(report: Report) -> Any:
    return report.environment.get("caffe")


def _facts(environment: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in environment.items() if name not in OF_THE_MACHINE}


def _must_be_all(reports: Sequence[Report]) -> None:
    """Looks whether each shard is there once.

    Raises:
        BadRequest: it is not, or a report is of no shard.
    """
    found: dict[int, str] = {}
    counts: dict[int, str] = {}
    for each in reports:
        said = each.selection.get("shard")
        if not isinstance(said, str):
            raise BadRequest(f"{each.file} is the report of no shard: it was run without --shard")
        number, count = shards.parsed(said)
        if number in found:
            raise BadRequest(f"shard {said} is there twice: {found[number]} and {each.file}")
        found[number] = each.file
        counts[count] = each.file
    if len(counts) > 1:
        said = " and ".join(f"{file} of {count}" for count, file in counts.items())
        raise BadRequest(f"the shards are not of one run: {said}")
    [count] = counts
    missing = [f"{number}/{count}" for number in range(1, count + 1) if number not in found]
    if missing:
        many = f"shard {missing[0]} is" if len(missing) == 1 else f"shards {', '.join(missing)} are"
        raise BadRequest(f"{many} missing: give the reports of all {count}")


def _junit(folders: Sequence[Path]) -> tuple[bool, ElementTree.Element | None]:
    """Whether a test failed, also one that compares nothing; and all test suites in one.

    None where a shard has no junit.xml.

    Raises:
        BadRequest: a file is no JUnit XML.
    """
    files = [each / "junit.xml" for each in folders]
    if not all(each.is_file() for each in files):
        return False, None
    suites = ElementTree.Element("testsuites")
    for each in files:
        try:
            suites.extend(ElementTree.parse(each).getroot().iter("testsuite"))  # noqa: S314
        except (ElementTree.ParseError, OSError) as error:
            raise BadRequest(f"{each} is no JUnit XML file: {error}") from error
    wrong = [each for name in ("failure", "error") for each in suites.iter(name)]
    return bool(wrong), suites
