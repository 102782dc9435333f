"""The pytest plugin: one test id for each layer, variant and case; the table at the end.

A test that asks for the fixture `comparison` is run for every layer-variant-case that the options
select. Outcomes travel on the test reports, so that they arrive also from other processes.
"""

from __future__ import annotations

import difflib
import shlex
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caffe_impl.runtime.install import InstallError
from caffe_impl.runtime.interpreter import NoCaffe
from caffe_impl.variants import CaffeVariant, shared_caffe
from parity_tests import report
from parity_tests.environment import environment
from parity_tests.judge import Outcome, judge
from parity_tests.nets import UnusableNet, variant_of
from parity_tests.registry import registered
from reference.cases import CASES
from reference.contract import Case, Variant
from reference.layers import LAYERS

RECORDS = pytest.StashKey[list[report.Record]]()
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
    config.stash[RECORDS] = []
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
    layer, name, case_name = (config.getoption(f"--{key}") for key in ("layer", "variant", "case"))
    variants = _own_net(config) or registered()
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
            return [variant_of(here / net, layer, path, config.getoption("--timeout"))]
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


def pytest_collection_finish(session: pytest.Session) -> None:
    """Installs and starts Caffe before the first test: without one there is nothing to prove."""
    config = session.config
    if config.option.collectonly:
        return
    for item in session.items:
        wanted = getattr(getattr(item, "callspec", None), "params", {}).get("comparison")
        if wanted is not None and isinstance(wanted.variant, CaffeVariant):
            break
    else:
        return
    try:
        with _shown(config):
            caffe = shared_caffe()
            caffe.timeout = config.getoption("--timeout")
            caffe.start()
    except (NoCaffe, InstallError) as error:
        raise pytest.UsageError(f"no Caffe to compare with.\n{error}") from error


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

    def pytest_runtest_logreport(self, report: Any) -> None:
        if hasattr(report, "parity"):
            self.config.stash[RECORDS].append(report.parity)


def pytest_sessionstart(session: pytest.Session) -> None:
    # Here, not while tests are collected, a usage error ends the run with its message.
    if _is_parity_run(session.config):
        _make_folder(_folder(session.config))
    session.config.stash[REQUESTS] = requests(session.config)
    session.config.pluginmanager.register(Collector(session.config), "parity-collector")


def pytest_sessionfinish(session: pytest.Session) -> None:
    records = session.config.stash[RECORDS]
    if not records or not _is_parity_run(session.config):
        return
    path = _folder(session.config) / "results.json"
    report.write_json(path, environment(), records)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    records = config.stash[RECORDS]
    if not records:
        return
    writer = terminalreporter
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
    folder = _folder(config)
    writer.line("")
    writer.line(f"details: {_relative(folder / 'results.json')}, {_relative(folder / 'junit.xml')}")


def _net_options(config: pytest.Config) -> str:
    """The options that say which net was compared, as a command repeats them."""
    if config.getoption("--net") is None:
        return ""
    options = ["--net", config.getoption("--net"), "--layer", config.getoption("--layer")]
    for folder in config.getoption("--path"):
        options += ["--path", folder]
    return shlex.join(options) + " "


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
