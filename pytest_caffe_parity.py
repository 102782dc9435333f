"""The pytest plugin of `caffe_parity`: options, one Caffe per process, and the file of results.

pytest loads it wherever this project is installed, so it imports nothing that a repository which
does not use it would have to wait for. Only a test module that imports `caffe_parity` brings it to
life. Results travel on the test reports, so that they arrive also from pytest-xdist's processes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

SCHEMA = "parity-pytest-1"
RESULTS = pytest.StashKey["Results"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("caffe-parity")
    group.addoption(
        "--parity-json", metavar="FILE", help="write what caffe_parity's comparisons found"
    )
    group.addoption(
        "--parity-timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (60)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--parity-timeout") <= 0:
        raise pytest.UsageError("--parity-timeout must be greater than 0")
    file = config.getoption("--parity-json")
    if file and not config.option.collectonly and not hasattr(config, "workerinput"):
        results = config.stash[RESULTS] = Results(config.invocation_params.dir / file)
        config.pluginmanager.register(results, "caffe-parity-results")


def _used() -> Any:
    """The package's module with the comparisons, if some test module imported it; else None."""
    return sys.modules.get("caffe_parity.comparison")


def _comparison(item: pytest.Item) -> Any:
    """The comparison of a test, or None."""
    used = _used()
    params = getattr(getattr(item, "callspec", None), "params", {})
    given = params.get("comparison")
    return given if used and isinstance(given, used.Comparison) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Starts Caffe before the first test that needs it, so that an install can be watched."""
    config = session.config
    wanted = [each for each in map(_comparison, session.items) if each]
    if not wanted or config.option.collectonly:
        return
    shared = _used().SHARED
    shared.timeout = config.getoption("--parity-timeout")
    if any(each.needs_caffe for each in wanted) and not _is_controller(config):
        capture = config.pluginmanager.getplugin("capturemanager")
        if capture:
            with capture.global_and_fixture_disabled():
                shared.start()
        else:
            shared.start()


def _is_controller(config: pytest.Config) -> bool:
    """Whether pytest-xdist's other processes run the tests."""
    return bool(getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """A test that never looks at its comparison proves nothing, and fails."""
    yield
    comparison = _comparison(item)
    if comparison is not None and comparison.record is None:
        pytest.fail("the test did not call comparison.check()", pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    comparison = _comparison(item)
    if comparison is None:
        return report
    if call.when == "call" or (report.failed and comparison.record is None):
        record = comparison.record or comparison.not_run(report.longreprtext)
        report.caffe_parity = {"test": item.nodeid, **record}  # type: ignore[attr-defined]
    return report


@pytest.hookimpl(wrapper=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Ends Caffe, and says which one it was, here or to pytest-xdist's other side."""
    config = session.config
    used = _used()
    facts: dict[str, Any] | None = None
    if used and any(map(_comparison, session.items)):
        facts = used.environment()
        used.SHARED.close()
    if facts and hasattr(config, "workeroutput"):
        config.workeroutput["caffe_parity_environment"] = json.dumps(facts)
    elif RESULTS in config.stash:
        config.stash[RESULTS].environment = config.stash[RESULTS].environment or facts
        config.stash[RESULTS].write(session)
    yield


class Results:
    """Gathers the results where the terminal is, and writes them."""

    def __init__(self, file: Path) -> None:
        """Makes the file at once: a run must not be lost at its end.

        Raises:
            UsageError: it cannot be written.
        """
        self.file = file
        self.records: list[dict[str, Any]] = []
        self.environment: dict[str, Any] | None = None
        self.lost = ""
        try:
            file.touch()
        except OSError as error:
            raise pytest.UsageError(f"--parity-json {file}: {error.strerror}") from error

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        record = getattr(report, "caffe_parity", None)
        if record is not None:
            self.records.append(record)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        said = getattr(node, "workeroutput", None) or {}
        if "caffe_parity_environment" in said:
            facts = json.loads(said["caffe_parity_environment"])
            if self.environment is None or facts["caffe"]:
                self.environment = facts

    def write(self, session: pytest.Session) -> None:
        """Writes the file; a failure to do so fails the run."""
        content = {
            "schema": SCHEMA,
            "environment": self.environment,
            "agrees": all(each["agrees"] for each in self.records),
            "comparisons": sorted(self.records, key=_place),
        }
        try:
            self.file.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n")
        except OSError as error:
            self.lost = f"--parity-json {self.file}: {error.strerror}"
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.lost:
            terminalreporter.line(self.lost, red=True)


def _place(record: dict[str, Any]) -> tuple[str, int]:
    """The order of the results, whichever process had them first: by test, then by number."""
    return record["test"].rpartition("-")[0], record["case"]
