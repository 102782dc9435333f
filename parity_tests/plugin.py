"""The pytest plugin: one test id for each layer, variant and case; the table at the end.

A test that asks for the fixture `comparison` is run for every layer-variant-case that the options
select. Outcomes travel on the test reports, so that they arrive also from other processes.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import shlex
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caffe_impl.variants import CaffeVariant
from caffe_parity.caffe import driver, gpu
from caffe_parity.caffe.client import Caffe, CaffeError
from caffe_parity.caffe.compile import PluginError
from caffe_parity.caffe.install import InstallError
from caffe_parity.caffe.interpreter import NoCaffe
from caffe_parity.contract import Case, Variant
from caffe_parity.engine.judge import Outcome, judge
from caffe_parity.report import table as report
from caffe_parity.report.environment import environment
from parity_tests.nets import UnusableNet, variant_of
from parity_tests.registry import registered
from reference.cases import CASES
from reference.layers import LAYERS

CAFFE = pytest.StashKey[Caffe]()
COLLECTOR = pytest.StashKey["Collector"]()
ENVIRONMENT = pytest.StashKey[dict[str, Any]]()
LOST = pytest.StashKey[list[str]]()
REQUESTS = pytest.StashKey[list["Request"]]()
FOLDER = "parity-report"


@dataclass(frozen=True)
class Request:
    """One comparison that a test can carry out."""

    variant: Variant
    case: Case

    def __str__(self) -> str:
        return f"{self.variant.layer}-{self.variant.name}-{self.case.name}"

    def judge(self) -> Outcome:
        """Runs it."""
        return judge(self.variant, self.case)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity")
    group.addoption("--layer", help=f"only this layer: {', '.join(LAYERS)}")
    group.addoption("--variant", help="only this variant, such as caffe-python")
    group.addoption("--case", help="only this case, such as base")
    group.addoption(
        "--device",
        choices=gpu.DEVICES,
        default="cpu",
        help="where Caffe and PyTorch compute (cpu); the reference stays on the CPU",
    )
    group.addoption(
        "--net",
        metavar="FILE",
        help="compare this net, with inputs x1 and x2, as the variant caffe-net of --layer",
    )
    group.addoption(
        "--path",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder with Python layers for --net (default: the net's own)",
    )
    group.addoption(
        "--parity-report", metavar="DIR", default=FOLDER, help=f"the report's folder ({FOLDER})"
    )
    group.addoption(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (60)",
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    config.stash[LOST] = []
    # A checkout that cannot be written to is no reason to fail.
    config.addinivalue_line("filterwarnings", "ignore::pytest.PytestCacheWarning")
    if config.option.xmlpath is None and _is_parity_run(config):
        config.option.xmlpath = str(_folder(config) / "junit.xml")


def _is_parity_run(config: pytest.Config) -> bool:
    """Whether this run writes a report of its own: not while another one drives it."""
    return not config.option.collectonly and not hasattr(config, "workerinput")


def _folder(config: pytest.Config) -> Path:
    return config.invocation_params.dir / str(config.getoption("--parity-report"))


def _make_folder(folder: Path) -> None:
    """Makes the report's folder before the first test: a run must not be lost at its end.

    Raises:
        UsageError: it cannot be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise pytest.UsageError(
            f"the report cannot be written to {folder}: {error.strerror}; "
            "--parity-report names another folder"
        ) from error


def _known(kind: str, name: str, names: list[str]) -> None:
    """Refuses a name that is not one of them.

    Raises:
        UsageError: it is none of these.
    """
    if name in names:
        return
    close = difflib.get_close_matches(name, names, 1)
    advice = f" Did you mean {close[0]!r}?" if close else ""
    raise pytest.UsageError(f"unknown {kind} {name!r}.{advice} Known: {', '.join(names)}")


def requests(config: pytest.Config) -> list[Request]:
    """What the options select, ordered so that the variants of a case follow one another.

    Raises:
        UsageError: an option names something that does not exist, or a net that cannot be run.
    """
    try:
        driver.devices()
    except driver.DriverError as error:  # there is a device, so this is no reason not to run
        if config.getoption("--device") == "cuda":
            raise pytest.UsageError(f"nothing can run on the GPU: {error}") from error
    layer, name, case_name = (config.getoption(f"--{key}") for key in ("layer", "variant", "case"))
    variants = _own_net(config) or registered(config.getoption("--device"))
    for kind, value, names in (
        ("layer", layer, list(LAYERS)),
        ("variant", name, list(dict.fromkeys(variant.name for variant in variants))),
        ("case", case_name, [case.name for case in CASES]),
    ):
        if value is not None:
            _known(kind, value, names)
    selected = []
    for each in LAYERS.values():
        for case in CASES:
            if each.refuses(case.x1_shape, case.x2_shape):
                continue
            selected += [
                Request(variant, case)
                for variant in variants
                if variant.layer == each.name
                and layer in (None, variant.layer)
                and name in (None, variant.name)
                and case_name in (None, case.name)
            ]
    if not selected:
        raise pytest.UsageError(
            f"nothing to compare: layer {layer}, variant {name} and case {case_name} do not meet"
        )
    return selected


def _own_net(config: pytest.Config) -> list[Variant]:
    net = config.getoption("--net")
    if net is None:
        return []
    layer = config.getoption("--layer")
    if layer is None:
        raise pytest.UsageError(f"--net needs --layer, what it should compute: {', '.join(LAYERS)}")
    _known("layer", layer, list(LAYERS))
    here = config.invocation_params.dir
    try:
        path = [str(here / folder) for folder in config.getoption("--path")]
        with _shown(config):
            options = (config.getoption("--timeout"), config.getoption("--device"))
            return [variant_of(here / net, layer, path, *options)]
    except UnusableNet as error:
        raise pytest.UsageError(str(error)) from error
    except (NoCaffe, InstallError) as error:
        raise pytest.UsageError(f"no Caffe to compare with.\n{error}") from error


class _shown:
    """Lets what is printed meanwhile, such as an install's progress, reach the terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self.capture = config.pluginmanager.getplugin("capturemanager")

    def __enter__(self) -> None:
        if self.capture:
            self.capture.suspend_global_capture(in_=True)

    def __exit__(self, *_: object) -> None:
        if self.capture:
            self.capture.resume_global_capture()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "comparison" in metafunc.fixturenames:
        selected = metafunc.config.stash[REQUESTS]
        metafunc.parametrize("comparison", list[object](selected), ids=str)


@pytest.hookimpl(tryfirst=True)  # before xdist tells its other side what there is to run
def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs and starts Caffe before the first test: without one there is nothing to prove."""
    config = session.config
    if config.option.collectonly:
        return
    params = [getattr(getattr(item, "callspec", None), "params", {}) for item in session.items]
    wanted = [each["comparison"].variant for each in params if "comparison" in each]
    config.stash[COLLECTOR].selected = len(wanted)
    for variant in wanted:
        if isinstance(variant, CaffeVariant) and not variant.cannot_run():
            break
    else:
        return
    try:
        with _shown(config):
            caffe = config.stash[CAFFE] = variant.caffe()
            caffe.timeout = config.getoption("--timeout")
            caffe.start()
            if isinstance(caffe, gpu.GpuCaffe):
                gpu.prove(caffe)
    except (NoCaffe, InstallError, CaffeError, PluginError) as error:
        words = f"no Caffe to compare with.\n{error}"
        if not hasattr(config, "workeroutput"):
            raise pytest.UsageError(words) from error
        config.workeroutput["parity_refusal"] = words  # for xdist's other side to show
        session.items.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    result = yield
    outcome = getattr(item, "parity_outcome", None)
    if call.when == "call" and outcome is not None:
        result.parity = report.record(outcome)  # type: ignore[attr-defined]
    return result


@pytest.fixture
def verdict(request: pytest.FixtureRequest, comparison: Request) -> Outcome:
    """The outcome of the comparison; it also goes into the report."""
    outcome = comparison.judge()
    request.node.parity_outcome = outcome
    return outcome


class Collector:
    """Gathers the records where the terminal is; with xdist that is not where the tests run."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.requests = {str(each): each for each in config.stash[REQUESTS]}
        self.selected = 0
        self._records: list[report.Record] = []

    @property
    def records(self) -> list[report.Record]:
        """The records in the order of the requests, whatever the order in which they came."""
        order = {name: index for index, name in enumerate(self.requests)}
        return sorted(self._records, key=lambda each: order.get(report.test_id(each), len(order)))

    def request(self, nodeid: str) -> Request | None:
        """What a test compares, by its id."""
        return self.requests.get(nodeid.rpartition("[")[2].rstrip("]"))

    def pytest_runtest_logreport(self, report: Any) -> None:
        if hasattr(report, "parity"):
            self._records.append(report.parity)
        elif report.failed and report.when != "teardown":
            request = self.request(report.nodeid)
            if request:
                self._records.append(_unjudged(request, report.longreprtext))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.selected = sum(self.request(each) is not None for each in ids)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        said = getattr(node, "workeroutput", None) or {}
        if "parity_environment" in said:
            self.config.stash[ENVIRONMENT] = json.loads(said["parity_environment"])
        if "parity_refusal" in said and said["parity_refusal"] not in self.config.stash[LOST]:
            self.config.stash[LOST].append(said["parity_refusal"])


def _unjudged(request: Request, text: str) -> report.Record:
    """The record of a comparison that ended in an error of the suite's own."""
    lines = text.strip().splitlines() or ["it ended without a word"]
    outcome = Outcome(
        request.variant.layer,
        request.variant.name,
        request.case.name,
        "crash",
        reason=f"it could not be judged: {lines[-1].removeprefix('E').strip()}",
        detail=text.strip(),
    )
    return report.record(outcome)


def pytest_sessionstart(session: pytest.Session) -> None:
    # Here, not while tests are collected, a usage error ends the run with its message.
    if _is_parity_run(session.config):
        _make_folder(_folder(session.config))
    session.config.stash[REQUESTS] = requests(session.config)
    collector = session.config.stash[COLLECTOR] = Collector(session.config)
    session.config.pluginmanager.register(collector, "parity-collector")


@pytest.hookimpl(wrapper=True, trylast=True)  # the terminal's own wrapper then shows what was lost
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Writes the report, junit.xml included: that one is written by pytest at the yield."""
    config = session.config
    lost = config.stash[LOST]
    collector = config.stash[COLLECTOR]
    if collector.records and ENVIRONMENT not in config.stash:
        config.stash[ENVIRONMENT] = _environment(config)
    if collector.records and hasattr(config, "workeroutput"):
        config.workeroutput["parity_environment"] = json.dumps(config.stash[ENVIRONMENT])
    with contextlib.ExitStack() as stack:
        if _is_parity_run(config):
            with contextlib.suppress(OSError):  # whoever writes finds the same error
                stack.enter_context(report.alone_in(_folder(config)))
        try:
            yield
        except OSError as error:
            lost.append(_not_written(config, error))
        if collector.records and _is_parity_run(config):
            path = _folder(config) / "results.json"
            used = config.stash[ENVIRONMENT]
            try:
                report.write_json(
                    path, used, collector.records, collector.selected, _selection(config)
                )
            except OSError as error:
                lost.append(_not_written(config, error))
            if _launched_nothing(collector.records, used):
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    if lost and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        session.exitstatus = pytest.ExitCode.INTERNAL_ERROR


def _environment(config: pytest.Config) -> dict[str, Any]:
    """What the results depend on; Caffe itself tells its part, so it is started if it ended."""
    device = config.getoption("--device")
    caffe = config.stash.get(CAFFE, None)
    if caffe is None:
        return environment(device)
    try:
        caffe.start()
        return environment(device)
    except (NoCaffe, CaffeError):
        caffe.close()
        return environment(device)


def _selection(config: pytest.Config) -> dict[str, Any]:
    """The options that chose what was compared, those that were given."""
    names = ("layer", "variant", "case", "keyword", "net", "path")
    given = {name: config.getoption(name) for name in names}
    return {name: value for name, value in given.items() if value}


def _not_written(config: pytest.Config, error: OSError) -> str:
    return f"the report could not be written to {_folder(config)}: {error}"


def _launched_nothing(records: list[report.Record], used: dict[str, Any]) -> bool:
    """Whether Caffe computed results in GPU mode, and no kernel was seen: then it was no GPU."""
    computed = ("pass", "fail")
    ran = any(each["verdict"] in computed and "caffe" in each["variant"] for each in records)
    return ran and used["gpu"] is not None and not used["gpu"]["kernels"]


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    writer = terminalreporter
    if COLLECTOR in config.stash and config.stash[COLLECTOR].records:
        _write_summary(writer, config, config.stash[COLLECTOR])
    for words in config.stash[LOST]:
        writer.line(words, red=True)


def _write_summary(writer: Any, config: pytest.Config, collector: Collector) -> None:
    records = collector.records
    writer.section("parity with the float64 reference")
    for line in report.table(records):
        writer.line(line)
    for title, lines in (
        ("refused, as expected", report.refusals(records)),
        (
            "suspicious: no error that rounding could not make, but far above the typical one",
            report.suspicious(records),
        ),
    ):
        if lines:
            writer.line("")
            writer.line(f"{title}:")
            for line in lines:
                writer.line(f"  {line}")
    failed = report.failures(records, _net_options(config))
    if failed:
        writer.section("what disagrees, and what that means")
        for line in failed:
            writer.line(line)
    for line in _gpu_lines(config, records):
        writer.line(line)
    missing = collector.selected - len(records)
    if missing > 0:
        writer.line("")
        writer.line(f"incomplete: {missing} of {collector.selected} comparisons did not run")
    if config.stash[LOST]:
        return
    folder = _folder(config)
    writer.line("")
    writer.line(f"details: {_relative(folder / 'results.json')}, {_relative(folder / 'junit.xml')}")


def _gpu_lines(config: pytest.Config, records: list[report.Record]) -> list[str]:
    """Which GPU computed, and the proof that it did."""
    used = config.stash[ENVIRONMENT]
    if used["gpu"] is None:
        return []
    facts = used["gpu"]
    lines = ["", f"GPU: {facts['name']}, driver {facts['driver']}, TF32 {_on_off(facts['tf32'])}"]
    if facts["kernels"] is not None:
        lines.append(
            f"     Caffe launched {facts['kernels']} kernels of its own; "
            f"a net of 128 MiB took {facts['memory_mb']} MiB of its memory"
        )
    if _launched_nothing(records, used):
        lines.append("     ERROR: Caffe launched no kernel, so these are no results of a GPU")
    return lines


def _on_off(value: bool) -> str:
    return "on" if value else "off"


def _net_options(config: pytest.Config) -> str:
    """The options that say on what and which net was compared, as a command repeats them."""
    device = config.getoption("--device")
    chosen = "" if device == "cpu" else f"--device {device} "
    if config.getoption("--net") is None:
        return chosen
    options = ["--net", config.getoption("--net"), "--layer", config.getoption("--layer")]
    for folder in config.getoption("--path"):
        options += ["--path", folder]
    return f"{chosen}{shlex.join(options)} "


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
