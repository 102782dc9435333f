"""Compares again as soon as a file is saved: of the layer, the net, the reference or the port.

    parity watch NET --reference FILE.py:FUNCTION     with the options of `parity check`
    parity watch TESTS [--layer NAME] [--variant NAME] [--case NAME]     what `parity run` runs

Caffe, PyTorch and what is expected stay in memory; what failed before and small cases come first,
and the first failure is told at once. With --page the verdict is also a page in a browser, which
reloads itself. Ctrl-C ends it.
"""  # argparse shows it as it stands

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffe_parity.checkout import program
from caffe_parity.cli import check
from caffe_parity.cli.request import prepared
from caffe_parity.errors import BadRequest, ParityError
from caffe_parity.report.record import PAGE, must_be_writable, write_whole
from caffe_parity.report.table import chosen
from caffe_parity.terminal import say

if TYPE_CHECKING:
    from caffe_parity.contract import Case, Structure
    from caffe_parity.engine.judge import Planned
    from caffe_parity.layer import Layer
    from caffe_parity.report.record import Record

EXAMPLES = """\
  parity watch my_layer.py:MyLossLayer --bottom x1=4,3,5,6 --bottom x2=4,3,5,6 \\
      --reference my_formula.py:loss --page now.html
  parity watch test_my_layer.py --variant caffe-python
"""

EPILOG = "exit status: 0 after Ctrl-C, 2 if nothing could be compared"

EVERY = 0.1
"""Seconds from one look at the files to the next."""

KEPT = 1 << 20
"""Elements of a case up to which its truth and its bound stay in memory."""

IN_CAFFE = (".c", ".cc", ".cpp", ".cxx", ".cu", ".cuh", ".h", ".hpp")
SUFFIXES = (".py", ".prototxt", ".proto", ".npz", ".so", *IN_CAFFE)
"""Files that a comparison may depend on; those of a compiled layer among them."""

REFUSED = ("json", "summary")
"""Options of `parity check` that are refused here: a watch has no end to write them at."""

ENDED = ("crash", "hang")


Seen = dict[Path, tuple[int, int]]
"""When each file was changed, and its size."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity watch`, which are those of `parity check` and more."""
    check.add_arguments(parser)
    for action in parser._actions:
        if action.dest == "net":
            action.metavar = "NET or TESTS"
        if action.dest == "reference":
            action.required = False
        if action.dest in REFUSED:
            action.help = argparse.SUPPRESS
    group = parser.add_argument_group("of TESTS")
    group.add_argument("--layer", metavar="NAME", help="only this layer")
    group.add_argument("--variant", metavar="NAME", help="only this variant, as caffe-python")
    group.add_argument("--case", metavar="NAME", help="only this case, such as base")


@dataclass
class Job:
    """One variant on one case.

    Attributes:
        layer, variant, case, structure: what is compared.
        ready: what is asked of it, once that is known.
        failed: whether it did not agree the last time.
    """

    layer: Layer
    variant: str
    case: Case
    structure: Structure | None = None
    ready: Planned | Record | None = None
    failed: bool = False

    def record(self) -> Record:
        """What comes out now.

        Raises:
            ParityError: it cannot be carried out.
        """
        from caffe_parity.engine.judge import judged_anew, ready_or_not
        from caffe_parity.report.record import Record

        ready = self.ready or ready_or_not(self.layer, self.variant, self.case, self.structure)
        self.ready = ready if not isinstance(ready, Record) and self.elements <= KEPT else None
        return ready if isinstance(ready, Record) else judged_anew(ready)

    @property
    def key(self) -> tuple[str, str, str]:
        """As a record has it."""
        return self.layer.name, self.variant, self.case.name

    @property
    def elements(self) -> int:
        """Of its inputs."""
        import numpy as np

        return sum(int(np.prod(shape)) for shape in self.case.shapes.values())


def carried_out(options: argparse.Namespace) -> int:
    """Watches until it is interrupted; returns 0.

    Raises:
        ParityError, OSError: what is asked for cannot be compared at all.
    """
    for name in REFUSED:
        if getattr(options, name):
            raise BadRequest(
                f"--{name} belongs to `parity check`: a watch has no end to write it at"
            )
    must_be_writable("--page", options.page, PAGE)
    of_tests = [options.layer, options.variant, options.case]
    if options.reference is None and not _is_tests(options.net):
        raise BadRequest(
            f"{options.net} is no test file or folder; for a net name what it is compared "
            "with: --reference FILE.py:FUNCTION"
        )
    if options.reference is not None and any(of_tests):
        raise BadRequest("--layer, --variant and --case belong to TESTS, without --reference")
    from caffe_parity.caffe.session import SESSION

    SESSION.timeout = options.timeout
    SESSION.launch()
    watch = _Watch(options)
    try:
        while True:
            watch.compare()
            SESSION.launch_spare()
            watch.wait()
    except KeyboardInterrupt:
        print("\nended")
        watch.banner(f"the watch ended at {_now()}: this page is not renewed", ended=True)
        return 0
    finally:
        SESSION.close()


def _is_tests(name: str) -> bool:
    return Path(name).is_dir() or (name.endswith(".py") and Path(name).is_file())


class _Watch:
    """What is watched, and what was seen of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.jobs: list[Job] = []
        self.seen: Seen = {}
        self.compared = False
        self.page = self.page_banner = ""

    def compare(self) -> None:
        """Compares everything, those first that failed, then small cases; tells what comes out."""
        start = time.perf_counter()
        self.seen = self.seen or self._files()
        records: list[Record] = []
        with tempfile.TemporaryDirectory() as scratch:
            try:
                self.jobs = self.jobs or self._found(Path(scratch))
                self.seen = {**self._files(), **self.seen}
                for job in sorted(self.jobs, key=lambda job: (not job.failed, job.elements)):
                    if any(
                        each.verdict in ENDED and each.key[:2] == job.key[:2] for each in records
                    ):
                        continue  # the same would happen again, and take as long
                    records.append(record := job.record())
                    first = record.wrong and not any(each.wrong for each in records[:-1])
                    job.failed = record.wrong
                    self.compared = True
                    if first:
                        self._tell_first(record, time.perf_counter() - start)
                        self._write_page(records, "comparing the rest")
                    if self._changed():
                        return
            except (ParityError, OSError) as error:
                if not self.compared:  # nothing was right yet, so the request may be wrong
                    raise
                print(f"  {error}", flush=True)
                self.jobs = []
                return
        self._tell_all(records, time.perf_counter() - start)
        self._write_page(records, f"compared at {_now()}")

    def _tell_first(self, record: Record, seconds: float) -> None:
        """The first failure, as a failed test shows it."""
        from caffe_parity.report.one_layer import failure

        if self.options.quiet:
            return
        print(f"  {'-'.join(record.key)}, after {seconds:.2f} s")
        say(f"    {line}" for line in failure(record))

    def _tell_all(self, records: Sequence[Record], seconds: float) -> None:
        """Each finding once for a variant, with the number of its cases; then one line."""
        from caffe_parity.report.table import by_variant, findings, many, with_cases

        for (layer, variant), group in (
            by_variant(records).items() if not self.options.quiet else ()
        ):
            found = findings(each for each in group if each.wrong)
            for finding, cases in with_cases(found, lambda each: (each.code, each.tensor)):
                words = finding.words.splitlines()[0]
                of = f"[{len(cases)} of {many(len(group), 'case')}]"
                print(f"  {layer}-{variant}: {finding.code}: {words}  {of}")
        say([f"{_now()} {_verdict(records)}, {seconds:.1f} s"])

    def _write_page(self, records: Sequence[Record], banner: str) -> None:
        """Writes the page of --page; that it cannot be written ends no watch."""
        if not self.options.page:
            return
        from caffe_parity.report import page
        from caffe_parity.report.environment import environment
        from caffe_parity.report.record import Report

        report = Report("watch", environment(), {}, records, len(self.jobs))
        self.page_banner = page.banner_of(banner)
        self.page = page.html(report, self._reproduce, self.page_banner) + "\n"
        self._save(self.page)

    def banner(self, words: str, ended: bool = False) -> None:
        """Says on the page, if there is one, that it is not what the files now say."""
        if self.page:
            from caffe_parity.report.page import banner_of

            self._save(self.page.replace(self.page_banner, banner_of(words, True, ended), 1))

    def _save(self, text: str) -> None:
        try:
            write_whole(self.options.page, text)
        except OSError as error:
            print(f"  --page {self.options.page}: {error.strerror}", flush=True)

    def _reproduce(self, record: Record) -> str:
        """The command that compares a case once."""
        if self.options.reference is None:
            return f"{program()} run {shlex.quote(self.options.net)} {chosen(record, '--')}"
        given = self.options.given[1:]
        page = [i for i, each in enumerate(given) if each.partition("=")[0] == "--page"]
        page += [i + 1 for i in page if given[i : i + 2] == ["--page", str(self.options.page)]]
        kept = [each for i, each in enumerate(given) if i not in page]
        return f"{program()} check {shlex.join(kept)}"

    def wait(self) -> None:
        """Returns when a file has changed, and forgets what depends on it."""
        from caffe_parity.caffe.session import SESSION

        while not (changed := self._changed()):
            time.sleep(EVERY)
        names = ", ".join(sorted(each.name for each in changed))
        print(f"{_now()} {names}", flush=True)
        self.banner(f"out of date: {names} was saved at {_now()}, and is compared")
        self.seen = self._files()
        ours = {file for file, _ in _imported()}
        if changed & ours or not all(each.suffix in (".py", *IN_CAFFE) for each in changed):
            self._forget()
        if any(each.suffix in IN_CAFFE for each in changed):
            self.jobs = []
        SESSION.renew()

    def _forget(self) -> None:
        """Drops the modules that lie in the folders that are watched, and all that they made."""
        folders = tuple(f"{each}/" for each in self._folders())
        for file, name in list(_imported()):
            if str(file).startswith(folders):
                del sys.modules[name]
        importlib.invalidate_caches()
        self.jobs = []

    def _changed(self) -> set[Path]:
        now = self._files()
        return {
            file for file in now.keys() | self.seen.keys() if now.get(file) != self.seen.get(file)
        }

    def _files(self) -> Seen:
        """The files in the folders that are watched."""
        found: Seen = {}
        for folder in self._folders():
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.endswith(SUFFIXES):
                        with contextlib.suppress(OSError):
                            status = entry.stat()
                            found[Path(entry.path)] = (status.st_mtime_ns, status.st_size)
        return found

    def _folders(self) -> set[Path]:
        """Those of the files that are named, of the nets' layers, and of the modules in them."""
        options = self.options
        named = [options.net, options.reference, options.port, options.inputs, *options.load]
        files = [Path(each.rpartition(":")[0] or each) for each in named if each]
        folders = {each if each.is_dir() else each.parent for each in files}
        folders |= {Path(each) for each in options.path}
        for job in self.jobs:
            for variant in job.layer.variants.values():
                folders |= {Path(each) for each in getattr(variant, "path", ())}
                spec = getattr(variant, "spec", "")
                folders |= {Path(spec).parent} if spec and Path(spec).exists() else set()
        roots = tuple(f"{each.resolve()}/" for each in {Path.cwd(), *folders})
        folders |= {
            file.parent
            for file, _ in _imported()
            if str(file).startswith(roots) and "site-packages" not in file.parts
        }
        return {each.resolve() for each in folders if each.is_dir()}

    def _found(self, scratch: Path) -> list[Job]:
        """What is compared.

        Raises:
            ParityError: it cannot be.
        """
        if self.options.reference is not None:
            ready = prepared(check.requested(self.options), scratch)
            cases, layer = ready.layer.all_cases(), ready.layer
            return [
                Job(layer, name, case, ready.structure) for case in cases for name in layer.variants
            ]
        return [Job(each.layer, each.variant, each.case) for each in _collected(self.options)]


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _verdict(records: Sequence[Record]) -> str:
    """All of them in a line."""
    from caffe_parity.contract import spoken
    from caffe_parity.report.record import Report

    wrong = sum(each.wrong for each in records)
    not_run = sum(each.verdict == "not run" for each in records)
    agree = len(records) - wrong - not_run
    unproven = [
        f"{layer}-{variant}: {spoken(name)}"
        for layer, variant, name in Report("watch", {}, {}, records).unproven
    ]
    said = [f"{wrong} of {len(records)} disagree"] if wrong else []
    said += [f"unproven: {', '.join(unproven)}"] if unproven and not wrong else []
    said += [f"{agree} agree"] if agree and not wrong and not unproven else []
    said += [f"{not_run} not run"] if not_run else []
    return ", ".join(said) or "nothing was compared"


def _imported() -> Iterator[tuple[Path, str]]:
    """The files of modules that are imported here and are not this tool's own, and their names."""
    own = Path(__file__).parents[1]
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and name != "__main__" and own not in Path(file).parents:
            yield Path(file).resolve(), name


def _collected(options: argparse.Namespace) -> Sequence[Any]:
    """The comparisons of a test file, as pytest collects them.

    Raises:
        BadRequest: there are none.
    """
    import pytest

    from caffe_parity.cli.run import collecting
    from caffe_parity.testing import Comparison

    class Collector:
        found: list[Comparison]

        def pytest_collection_finish(self, session: pytest.Session) -> None:
            given = [getattr(each, "callspec", None) for each in session.items]
            each = [one.params.get("comparison") for one in given if one is not None]
            self.found = [one for one in each if isinstance(one, Comparison)]

    collector = Collector()
    collector.found = []
    said = io.StringIO()
    chosen = [
        f"--parity-{name}={getattr(options, name)}"
        for name in ("layer", "variant", "case")
        if getattr(options, name)
    ]
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = pytest.main([*collecting(Path(options.net)), *chosen], plugins=[collector])
    if status != pytest.ExitCode.OK or not collector.found:
        raise BadRequest(f"{options.net}: nothing to compare\n{said.getvalue().strip()}")
    return collector.found
