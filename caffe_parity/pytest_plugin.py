"""The pytest plugin: options, one Caffe for all tests, the records, the table at the end.

pytest loads it wherever this project is installed, so it imports nothing that a repository which
does not use it would have to wait for. Only a test module that imports `caffe_parity` brings it to
life. Records travel on the test reports, so that they arrive also from pytest-xdist's processes.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import shlex
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

import pytest
from _pytest.junitxml import xml_key

if TYPE_CHECKING:
    from caffe_parity.contract import Finding
    from caffe_parity.report.record import Key, Record, Report
    from caffe_parity.testing import Comparison

COLLECTOR = pytest.StashKey["Collector"]()
CHOICES = ("layer", "variant", "case")
LARGE = 2**20
"""Elements of all inputs above which a case takes seconds in all variants together."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("caffe-parity")
    for name in CHOICES:
        group.addoption(f"--parity-{name}", metavar="NAME", help=f"only this {name}")
    group.addoption("--parity-shard", metavar="I/N", help="only the tests of this shard of N")
    group.addoption(
        "--parity-times",
        metavar="JUNIT",
        help="the junit.xml of an earlier run, by which the shards are made equally long",
    )
    group.addoption(
        "--parity-device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where Caffe and PyTorch compute (cpu); the reference stays on the CPU",
    )
    group.addoption("--parity-json", metavar="FILE", help="write what the comparisons found")
    group.addoption("--parity-page", metavar="FILE", help="the same as a page to look at, HTML")
    group.addoption("--parity-summary", metavar="FILE", help="append a summary, Markdown")
    group.addoption(
        "--parity-annotations",
        choices=("auto", "github", "none"),
        default="auto",
        help="failures at their lines, as GitHub Actions shows them (auto: there)",
    )
    group.addoption(
        "--parity-table", action="store_true", help="show the verdicts as a table at the end"
    )
    group.addoption(
        "--parity-allow-missing",
        action="store_true",
        help="--parity-device cuda without a GPU: say so, and do not fail",
    )
    group.addoption(
        "--parity-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (60)",
    )
    # What a command that reproduces one comparison begins with; for whoever runs pytest.
    group.addoption("--parity-command", default="", help=argparse.SUPPRESS)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    for name, value in vars(config.option).items():
        if name.startswith("parity_") and isinstance(value, list):  # argparse makes one of `--`
            raise pytest.UsageError(f"--{name.replace('_', '-')}=--: expected a value")
    if not 0 < config.getoption("--parity-timeout") < float("inf"):
        raise pytest.UsageError("--parity-timeout must be greater than 0, and finite")
    collector = config.stash[COLLECTOR] = Collector(config)
    config.pluginmanager.register(collector, "caffe-parity-collector")
    if _is_run(config):
        gc.disable()  # until all is imported: none of it is garbage
    if _is_run(config) and hasattr(config, "workerinput"):
        from caffe_parity.caffe.session import SESSION

        SESSION.device = config.getoption("--parity-device")
        SESSION.launch()  # it imports Caffe while this process imports PyTorch


def comparison_of(item: pytest.Item) -> Comparison | None:
    """The comparison of a test, or None; nothing has one unless `caffe_parity` was imported."""
    used = sys.modules.get("caffe_parity.testing")
    given = getattr(getattr(item, "callspec", None), "params", {}).get("comparison")
    return given if used and isinstance(given, used.Comparison) else None


def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keeps what the options choose; the tests that compare nothing are none of it.

    Raises:
        UsageError: an option names something that does not exist.
    """
    _keep_chosen(session, config, items)
    if config.getoption("--parity-shard") and not session.testsfailed:
        _keep_shard(config, items)
    if getattr(config.option, "loadgroup", False):
        items.sort(key=_turn)


def _turn(item: pytest.Item) -> int:
    """When its group is handed to one of xdist's processes: none must begin with much at the end.

    First what compiles, then large cases, the largest first; all others as they stand.
    """
    comparison = comparison_of(item)
    if comparison is None:
        return 0
    if comparison.together:
        return -(2**62)
    elements = comparison.case.elements
    return -elements if elements > LARGE else 0


def _keep_shard(config: pytest.Config, items: list[pytest.Item]) -> None:
    from caffe_parity import shards
    from caffe_parity.errors import BadRequest

    times = config.getoption("--parity-times")
    try:
        number, count = shards.parsed(config.getoption("--parity-shard"))
        known = shards.times_of(config.invocation_params.dir / times) if times else {}
    except BadRequest as error:
        raise pytest.UsageError(str(error)) from error
    found = shards.shards((item.nodeid for item in items), count, known)
    config.stash[COLLECTOR].shard = {
        "shard": f"{number}/{count}",
        "shards": shards.digest(found),
        "code": shards.code(config.rootpath.resolve()),
    }
    others = [item for item in items if found[item.nodeid] != number]
    config.hook.pytest_deselected(items=others)
    items[:] = [item for item in items if found[item.nodeid] == number]


def _keep_chosen(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--parity-table") and config.pluginmanager.hasplugin("timeout"):
        for item in filter(comparison_of, items):  # a Caffe within its own time-out is not ended
            item.add_marker(pytest.mark.timeout(0))
    chosen = {kind: config.getoption(f"--parity-{kind}") for kind in CHOICES}
    chosen = {kind: name for kind, name in chosen.items() if name is not None}
    if not chosen or session.testsfailed:  # what could not be collected is told
        return
    compared = [(item, names) for item in items if (names := _names(item))]
    for kind, name in chosen.items():
        known = list(dict.fromkeys(names[kind] for _, names in compared))
        if name not in known:
            from caffe_parity.cli import unknown

            config.stash[COLLECTOR].mistyped = True
            raise pytest.UsageError(unknown(kind, name, known))
    kept = [item for item, names in compared if chosen.items() <= names.items()]
    if not kept:
        config.stash[COLLECTOR].mistyped = True
        words = ", ".join(f"{kind} {name}" for kind, name in chosen.items())
        raise pytest.UsageError(f"nothing to compare: {words} do not meet")
    config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
    items[:] = kept


def _names(item: pytest.Item) -> dict[str, str]:
    each = comparison_of(item)
    return dict(zip(CHOICES, each.key, strict=True)) if each else {}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> Generator[None]:
    """Starts Caffe before the first test; xdist's other side is told what each test compares."""
    _start(session)
    if _is_run(session.config):
        gc.freeze()  # PyTorch's half a million objects, which are looked through in vain
        gc.enable()
        if sys.platform == "linux":
            keep_memory()
    with _named(session) if hasattr(session.config, "workerinput") else contextlib.nullcontext():
        yield


BEHIND = "@caffe-parity "
"""What stands behind a test's id on its way to xdist's other side: what it compares, its group."""


@contextlib.contextmanager
def _named(session: pytest.Session) -> Iterator[None]:
    """Lets xdist tell its other side what each test compares, and what should stay together.

    It tells the ids, and its `--dist loadgroup` keeps together what has the same words behind "@".
    """
    order = session.config.stash[COLLECTOR].order
    items = session.items
    told: list[Any] = [_Told(item, order.get(item.nodeid, 0)) for item in items]
    session.items = told
    try:
        yield
    finally:
        session.items = items


class _Told:
    """A test under another id."""

    def __init__(self, item: pytest.Item, place: int) -> None:
        self._item = item
        self.nodeid = item.nodeid
        comparison = comparison_of(item)
        if comparison is not None:
            said = json.dumps([place, *comparison.key])
            self.nodeid += f"{BEHIND}{quote(said)}@{quote(comparison.group)}"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._item, name)


def _unnamed(told: str) -> tuple[str, int, Key | None]:
    """A test's id, its place in the table, and what it compares, from what xdist was told."""
    name, marked, said = told.partition(BEHIND)
    if not marked:
        return told, 0, None
    place, layer, variant, case = json.loads(unquote(said.partition("@")[0]))
    return name, place, (layer, variant, case)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    if not _is_run(config) or config.getoption("dist") != "loadgroup":
        return None
    from caffe_parity.grouped import Grouped

    return Grouped(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_handlecrashitem(crashitem: str, report: pytest.TestReport) -> None:
    """A test whose process has ended is told by its own name."""
    report.nodeid, *_ = _unnamed(crashitem)
    report.longrepr = str(report.longrepr).replace(crashitem, report.nodeid)


_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # <malloc.h>


def keep_memory() -> None:
    """Lets this process use the memory of large arrays again, where the C library can.

    Else each of them is made of fresh pages, and to make these is a third of what it costs to
    compare a large case.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "gnu_get_libc_version"):  # another library gives the numbers no meaning
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        library.mallopt(_M_TOP_PAD, 2**26)


def _start(session: pytest.Session) -> None:
    """Installs and starts Caffe: without one there is nothing to prove."""
    config = session.config
    collector = config.stash[COLLECTOR]
    tests = [(item.nodeid, comparison_of(item)) for item in session.items]
    tests.sort(key=lambda each: collector.order.get(each[0], 0))
    wanted = {name: each for name, each in tests if each}
    collector.keys = {name: each.key for name, each in wanted.items()}
    if not wanted or config.option.collectonly or collector.mistyped:
        return
    for file in filter(None, (collector.file, collector.page)):
        with contextlib.suppress(OSError):  # an exit past Python must not leave an earlier verdict
            file.unlink()
    from caffe_parity.caffe.driver import DriverError, devices
    from caffe_parity.caffe.session import SESSION
    from caffe_parity.contract import ParityError

    SESSION.timeout = config.getoption("--parity-timeout")
    SESSION.device = config.getoption("--parity-device")
    if SESSION.device == "cuda":
        try:
            found = devices()
            if not found and not config.getoption("--parity-allow-missing"):
                option = "--allow-missing" if _is_run(config) else "--parity-allow-missing"
                raise pytest.UsageError(
                    f"nothing can run on the GPU: no CUDA device. With {option} each comparison "
                    "says so, and the run does not fail"
                )
        except DriverError as error:  # there is a device, so this is no reason not to run
            raise pytest.UsageError(f"nothing can run on the GPU: {error}") from error
    if _is_controller(config) or not any(each.needs_caffe for each in wanted.values()):
        return
    try:
        with _shown(config):
            SESSION.start()
            for each in wanted.values():  # a Caffe that is built with a layer takes minutes
                each.compile()
    except ParityError as error:
        if config.getoption("--parity-table"):  # the run as a whole is about Caffe
            config.stash[COLLECTOR].refuse(session, f"no Caffe to compare with.\n{error}")


def _is_run(config: pytest.Config) -> bool:
    """Whether `parity run` has called pytest."""
    return bool(config.getoption("--parity-command"))


def _is_controller(config: pytest.Config) -> bool:
    """Whether pytest-xdist's other processes run the tests."""
    return bool(getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"))


@contextlib.contextmanager
def _shown(config: pytest.Config) -> Iterator[None]:
    """Lets what is printed meanwhile, such as an install's progress, reach the terminal."""
    capture = config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """What is wrong with a layer is told in its own words, without a traceback."""
    report = yield
    call = getattr(report, "call", None)
    used = sys.modules.get("caffe_parity.layer")
    wrong = call.excinfo.value if call is not None and call.excinfo is not None else None
    full = collector.config.getoption("fulltrace", False)
    if used and isinstance(wrong, used.BadLayer) and not full:
        report.longrepr = str(wrong)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A test that never looks at its comparison proves nothing, and fails."""
    yield
    comparison = comparison_of(item)
    if comparison is not None and comparison.record is None:
        pytest.fail("the test did not call comparison.check()", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    comparison = comparison_of(item)
    if comparison is not None and (
        call.when == "call" or (report.failed and comparison.record is None)
    ):
        from caffe_parity.report.record import not_compared

        reason = _last_line(report.longreprtext)
        record = comparison.record or not_compared(comparison.key, reason)
        report.caffe_parity = record.as_json()  # type: ignore[attr-defined]
        if record.wrong and item.config.stash[COLLECTOR].annotates:
            report.caffe_parity_places = _places(item, comparison, record)  # type: ignore[attr-defined]
        if report.passed and record.wrong:  # whatever became of what check() raised
            from caffe_parity.report.one_layer import failure

            words = f"{comparison} disagrees, and its test passed:"
            report.outcome, report.longrepr = "failed", "\n".join([words, *failure(record)])
    return report


def _places(item: pytest.Item, comparison: Comparison, record: Record) -> list[Any]:
    """Where each finding of a comparison belongs: a file and a line, or None."""
    from caffe_parity.engine.judge import variant_of
    from caffe_parity.report.place import place
    from caffe_parity.report.table import findings

    variant = variant_of(comparison.layer, comparison.variant)
    folder = item.path.parent
    found = [each for each, _ in findings([record])]
    return [place(variant, each, record.detail, folder) for each in found]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines() or ["it ended without a word"]
    return lines[-1].removeprefix("E").strip()


class Collector:
    """Gathers the records where the terminal is; with xdist that is not where the tests run."""

    def __init__(self, config: pytest.Config) -> None:
        """Looks at once whether the file can be written: a run must not be lost at its end.

        Raises:
            UsageError: it cannot.
        """
        self.config = config
        self.keys: dict[str, Key] = {}  # what each test compares, by its id
        self.order: dict[str, int] = {}  # by id: where a test stands in its file
        self.died: dict[str, str] = {}  # what is said of a test whose process has ended, by id
        self.lost: list[str] = []
        self.shard: dict[str, str] = {}  # which this is, and what all of them have in common
        self.refused = False  # whether there was nothing to run with
        self.mistyped = False  # whether an option names what does not exist
        self.environment: dict[str, Any] = {}
        self._records: dict[Key, Record] = {}
        self._places: dict[Key, list[Any]] = {}
        self._in_junit: dict[Any, str] = {}  # the test of each of junit.xml's entries
        self._began = time.monotonic()
        self._progress: Any = None
        self._has_bar = False
        self._total = self._disagree = 0
        self.file = self._to_write("--parity-json", "RESULTS")
        self.page = self._to_write("--parity-page", "PAGE")
        self.summary = self._to_write("--parity-summary", "")

    def _to_write(self, option: str, mark: str) -> Path | None:
        """The file that an option names, where it is this process that writes it.

        Raises:
            UsageError: it cannot be written.
        """
        config = self.config
        name = config.getoption(option)
        if not name or config.option.collectonly or hasattr(config, "workerinput"):
            return None
        from caffe_parity.errors import BadRequest
        from caffe_parity.report import record
        from caffe_parity.report.summary import must_be_appendable

        file: Path = config.invocation_params.dir / name
        try:
            if mark:
                record.must_be_writable(option, file, getattr(record, mark))
            else:
                must_be_appendable(option, file)
        except BadRequest as error:
            raise pytest.UsageError(str(error)) from error
        return file

    @property
    def annotates(self) -> bool:
        """Whether failures are told to a CI service, at their lines."""
        choice = self.config.getoption("--parity-annotations")
        if choice == "none":
            return False
        from caffe_parity.report.annotations import wanted

        return wanted(choice)

    @property
    def report(self) -> Report:
        """The records in the order of the tests in their file, whatever the order of the run."""
        from caffe_parity.report.record import Report, not_compared

        died = {self.keys[each]: words for each, words in self.died.items() if each in self.keys}
        found = {key: not_compared(key, words) for key, words in died.items()} | self._records
        order = {key: index for index, key in enumerate(dict.fromkeys(self.keys.values()))}
        records = sorted(found.values(), key=lambda each: order.get(each.key, len(order)))
        shard = self.shard
        if shard:  # so that `parity merge` has the order of the whole
            at = {key: self.order.get(test, 0) for test, key in self.keys.items()}
            shard = {**shard, "places": " ".join(str(at.get(each.key, 0)) for each in records)}
        table = self.config.getoption("--parity-table")
        given = {kind: self.config.getoption(f"--parity-{kind}") for kind in CHOICES}
        given["keyword"] = self.config.option.keyword
        return Report(
            "run" if table else "pytest",
            self.environment,
            {name: value for name, value in given.items() if value} | shard,
            tuple(records),
            len(order),
        )

    @pytest.hookimpl(wrapper=True, tryfirst=True)  # before any other plugin shuffles them
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> Generator[None]:
        """Remembers the order in which the tests stand: that of the table."""
        self.order = {item.nodeid: index for index, item in enumerate(items)}
        yield

    def refuse(self, session: pytest.Session, words: str) -> None:
        """Ends a run that has nothing to run with; with xdist, tells its other side."""
        self.refused = True
        if not hasattr(self.config, "workeroutput"):
            raise pytest.UsageError(words)
        self.config.workeroutput["parity_refusal"] = words
        session.items.clear()

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, Any, Any]:
        """Where a bar shows how far it is, pytest's dots would stand in it."""
        category, letter, word = yield
        return (category, "", "") if self._has_bar else (category, letter, word)

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Begins to tell how far a run is: by a bar on a terminal, else by a line now and then."""
        option = self.config.option
        beside = (
            option.verbose >= 0 or option.capture == "no" or option.usepdb or option.collectonly
        )
        if _is_run(self.config) and not beside and not hasattr(self.config, "workerinput"):
            from caffe_parity.progress import Progress
            from caffe_parity.terminal import is_terminal

            self._has_bar = is_terminal(sys.stderr)
            self._progress = Progress()
            self._progress.place = "comparing"
            self._progress.begin()

    def _tell(self) -> None:
        if self._progress and not self._total:  # known before the first test, and not counted again
            self._total = len(set(self.keys.values()))
        if self._total:
            done, wrong = len(self._records), self._disagree
            self._progress.part = done / self._total
            words = f", {wrong} disagree" if wrong else ""
            self._progress.tell(f"{done} of {self._total}{words}")

    @pytest.hookimpl(tryfirst=True)  # before junit.xml has it
    def pytest_runtest_logreport(self, report: Any) -> None:
        """Of two tests of one comparison, the one that does not agree counts."""
        if hasattr(report, "caffe_parity"):
            from caffe_parity.report.record import Record

            record = Record.from_json(report.caffe_parity)
            self._group(report, record)
            known = self._records.get(record.key)
            if known is None or not known.wrong:
                self._disagree += record.wrong
                self._records[record.key] = record
                self._places[record.key] = getattr(report, "caffe_parity_places", [])
            self._tell()
        elif report.when == "???":  # so xdist says that a process has ended
            self.died[report.nodeid] = _last_line(report.longreprtext)

    def _group(self, report: Any, record: Record) -> None:
        """In junit.xml, a class is one variant of a layer: by that, viewers fold what they show."""
        if xml := self.config.stash.get(xml_key, None):
            module = report.nodeid.partition("::")[0].removesuffix(".py").replace("/", ".")
            name = f"{module}.{record.layer}.{record.variant}"
            reporter = xml.node_reporter(report)
            reporter.add_attribute("classname", name)
            self._in_junit[reporter] = report.nodeid

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        named = sorted(map(_unnamed, ids), key=lambda each: each[1])
        self.keys = {test: key for test, _, key in named if key}
        self.order = {test: place for test, place, _ in named}

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        said = getattr(node, "workeroutput", None) or {}
        self.shard = said.get("parity_shard", self.shard)
        if not self.keys:  # as it had nothing to run with, it has told no ids
            known = json.loads(said.get("parity_keys", "{}"))
            self.keys = {test: tuple(key) for test, key in known.items()}
        if "parity_environment" in said:
            facts = json.loads(said["parity_environment"])
            if not self.environment or facts["caffe"]:
                self.environment = facts
        self.refused |= "parity_refusal" in said
        if said.get("parity_refusal", "") not in ["", *self.lost]:
            self.lost.append(said["parity_refusal"])

    @pytest.hookimpl(wrapper=True, trylast=True)  # the terminal's own wrapper shows what was lost
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        """Ends Caffe, says which one it was, and writes the file."""
        if self._progress:
            self._progress.close()
        if any(map(comparison_of, session.items)) and not self.config.option.collectonly:
            from caffe_parity.caffe.session import SESSION
            from caffe_parity.report.environment import environment

            self.environment = self.environment or environment()
            SESSION.close()
            if hasattr(self.config, "workeroutput"):
                self.config.workeroutput["parity_environment"] = json.dumps(self.environment)
                self.config.workeroutput["parity_keys"] = json.dumps(self.keys)
                self.config.workeroutput["parity_shard"] = self.shard
        if (xml := self.config.stash.get(xml_key, None)) and _is_controller(self.config):
            places = {test: index for index, test in enumerate(self.keys)}
            tests = {each: places.get(test, len(places)) for each, test in self._in_junit.items()}
            xml.node_reporters_ordered.sort(key=lambda each: tests.get(each, len(places)))
        with self._alone():
            try:
                yield
            except OSError as error:  # pytest's own file, junit.xml
                self.lost.append(f"a report could not be written: {error}")
            # A slip of the keyboard must not cost the report of the run before.
            some = bool(self.report.selected or self.shard) and not self.mistyped
            replaces = some or self.refused or not self.config.getoption("--parity-table")
            if self.file and replaces:
                self._write("--parity-json", self.file, self.report.write)
            if self.page and replaces:
                self._write("--parity-page", self.page, self._write_page)
            if self.summary:
                self._write("--parity-summary", self.summary, self._write_summary)
        self.lost += _unproven(self.report) if self._records else []
        if self._records and launched_nothing(self.report):
            self.lost.append("Caffe launched no kernel, so these are no results of a GPU")
        ok = (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
        if session.exitstatus not in ok or self.config.option.collectonly:
            return
        if self.lost:
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
        elif not replaces and not hasattr(self.config, "workeroutput"):
            session.exitstatus = pytest.ExitCode.NO_TESTS_COLLECTED
        elif self.keys and not hasattr(self.config, "workeroutput") and self.report.status == 1:
            self.lost.append(_left_open(self.report))
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _write(self, option: str, file: Path, write: Callable[[Path], None]) -> None:
        try:
            write(file)
        except OSError as error:
            self.lost.append(f"{option} {file}: {error.strerror}")
            if file == self.summary:  # it is not this run's alone
                return
            with contextlib.suppress(OSError):  # one of an earlier run is not this one's
                file.unlink()

    def _write_page(self, file: Path) -> None:
        from caffe_parity.report import page

        page.write(self.report, self._reproduce, file)

    def _write_summary(self, file: Path) -> None:
        from caffe_parity.report import summary

        summary.append(file, summary.markdown(self.report, self._reproduce))

    def _reproduce(self, record: Record) -> str:
        """The command that runs a comparison again, and can be pasted."""
        from caffe_parity.report.table import chosen

        command = self.config.getoption("--parity-command")
        prefix = "--" if command else "--parity-"
        return f"{command or self._called()} {chosen(record, prefix)}"

    def _called(self) -> str:
        """How pytest was called, with the files that were named."""
        from caffe_parity.checkout import program

        config = self.config
        named = config.args if config.args_source == config.ArgsSource.ARGS else []
        return " ".join([program("pytest", "pytest"), *map(shlex.quote, named)])

    @property
    def line(self) -> str:
        """What a run comes to, in a line; "" where nothing was compared."""
        if not self._records:
            return ""
        from caffe_parity.report.table import headline, many

        report = self.report
        of = many(len(report.results), "comparison")
        lost = "".join(f"; {each}" for each in self.lost if not report.unproven)
        seconds = time.monotonic() - self._began
        words = headline(report)[1]
        words = words if "comparison" in words else f"{words}, {of}"
        return f"{words}, {seconds:.1f} s{lost}"

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Keeps another run from writing its report to the same folder meanwhile."""
        if not self.file or not self.file.parent.is_dir():  # whoever writes finds the error
            return contextlib.nullcontext()
        from caffe_parity.report.record import alone_in

        return alone_in(self.file.parent)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.config.getoption("--parity-table"):
            for report in terminalreporter.stats.get("error", ()):
                if report.when == "collect":
                    terminalreporter.line(report.longreprtext, red=True)
            if self._records:
                self._write_table(terminalreporter)
        for words in self.lost:
            terminalreporter.line(words, red=True)
        if self._records and self.annotates and not hasattr(self.config, "workerinput"):
            from caffe_parity.report import annotations

            terminalreporter.flush()
            annotations.write(self.report, self._reproduce, self._place)

    def _place(self, record: Record, finding: Finding) -> Any:
        from caffe_parity.report.table import findings

        found = [each for each, _ in findings([record])]
        places = dict(zip(found, self._places.get(record.key, []), strict=False))
        known = {(each.code, each.tensor): place for each, place in places.items()}
        place = known.get((finding.code, finding.tensor))
        return tuple(place) if place else None

    def _write_table(self, writer: Any) -> None:
        from caffe_parity.report.annotations import harmless, in_github
        from caffe_parity.report.table import sections
        from caffe_parity.terminal import rendered

        for section in sections(self.report, self._reproduce):
            writer.section(section.title)
            for line in rendered(section.lines, writer.hasmarkup):
                writer.line(harmless(line) if in_github() else line)
        for line in _gpu_lines(self.environment):
            writer.line(line)
        files = [self.page, self.file, self.config.option.xmlpath]
        shown = ", ".join(str(_relative(Path(each))) for each in files if each)
        if shown and not self.lost:
            writer.line("")
            writer.line(f"details: {shown}")


def _unproven(report: Report) -> list[str]:
    """What no comparison proves anything of: a run that leaves something open has not passed."""
    from caffe_parity.report.table import unproven

    return [f"unproven: {line}" for line in unproven(report)]


def _left_open(report: Report) -> str:
    """What no test failed for: a comparison that was skipped, or is expected to disagree."""
    wrong = [each.id for each in report.results if each.wrong]
    words = f"{len(wrong)} comparisons disagree ({', '.join(wrong[:4])})" if wrong else ""
    open_ = f"{report.missing} comparisons did not run" if report.missing else ""
    return f"no test failed, and yet {' and '.join(filter(None, (words, open_)))}"


def launched_nothing(report: Report) -> bool:
    """Whether Caffe computed results in GPU mode, and no kernel was seen: then it was no GPU."""
    gpu = report.environment.get("gpu")
    computed = any(each.computed and each.variant.startswith("caffe") for each in report.results)
    return bool(computed and gpu and gpu["kernels"] is not None and not gpu["kernels"])


def _gpu_lines(environment: dict[str, Any]) -> list[str]:
    """Which GPU computed, and the proof that it did."""
    facts = environment.get("gpu")
    if not facts:
        return []
    tf32 = "on" if facts["tf32"] else "off"
    lines = ["", f"GPU: {facts['name']}, driver {facts['driver']}, TF32 {tf32}"]
    if facts["kernels"] is not None:
        lines.append(
            f"     Caffe launched {facts['kernels']} kernels of its own; "
            f"a net of 128 MiB took {facts['memory_mb']} MiB of its memory"
        )
    return lines


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
