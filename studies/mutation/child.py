"""Runs pytest on mutated copies, each in a fork of a process that has imported PyTorch once.

Started by `runner.py` as a script, so that nothing of the project is imported before the fork: what
a copy's tests import is the copy. A line of JSON on standard input is a request:
{"copy", "work", "arguments", "plugin", "cache", "seconds"}; a line on standard output is the reply:
{"status", "ran", "failed", "cases", "said"}, where status is pytest's exit status, or "broken" or
"time-out".
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import pytest
import torch  # noqa: F401 - for the forks, which then have it already

SAID = 2000  # characters of what was printed that a reply carries


class Collector:
    """Notes which tests ran, which failed, and the case that each compared."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []
        self.cases: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            comparison = getattr(getattr(item, "callspec", None), "params", {}).get("comparison")
            if comparison is not None:
                self.cases[_short(item.nodeid)] = comparison.case.name

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        name = _short(report.nodeid)
        if report.skipped:
            self.skipped.append(str(report.longrepr))
        elif report.when == "call":
            self.ran.append(name)
        if report.failed and name not in self.failed:
            self.failed.append(name)


def _short(node: str) -> str:
    """A test's id without its folder."""
    return node.rpartition("/")[2]


def run(request: dict[str, Any]) -> dict[str, Any]:
    """One copy, in this very process.

    Raises:
        RuntimeError: another copy's modules were imported.
    """
    copy, work = Path(request["copy"]), Path(request["work"])
    _only_import(copy)
    os.chdir(work)
    if request["cache"]:
        os.environ["PARITY_CACHE"] = str(work / "cache")
    if request["plugin"]:
        from caffe_parity.caffe.interpreter import find

        if find().source != "installed":
            why = "the compiled layer's mutants need the Caffe that the project installs"
            return {"status": 0, "ran": [], "failed": [], "skipped": [why], "cases": {}}
        os.environ["PARITY_PLUGIN"] = str(_built(copy, work))
    file, *options = request["arguments"]
    files = [file, *(option for option in options if option.endswith(".py"))]
    collector = Collector()
    status = pytest.main(
        [
            *(str(copy / "parity_tests" / name) for name in files),
            *(option for option in options if option not in files),
            *("-q", "--tb=line", "-r", "", "--assert=plain"),  # plain: nothing to rewrite first
            *("-p", "parity_tests.plugin", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"),
            *("--rootdir", str(copy), "-c", str(copy / "pyproject.toml")),
            *("--parity-report", str(work / "parity-report")),
        ],
        plugins=[collector],
    )
    import reference

    if not Path(str(reference.__file__)).is_relative_to(copy):
        raise RuntimeError(f"imported {reference.__file__}, not the copy in {copy}")
    return {
        "status": int(status),
        "ran": collector.ran,
        "failed": collector.failed,
        "skipped": collector.skipped,
        "cases": {
            test: case
            for test, case in collector.cases.items()
            if test in collector.ran or test in collector.failed
        },
    }


def _only_import(copy: Path) -> None:
    """Puts the copy where the working tree stands in the import path, for subprocesses too."""
    root = str(Path(__file__).resolve().parents[2])
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(copy), *(entry for entry in sys.path if entry not in (root, here, ""))]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in given if entry and os.path.abspath(entry) != root]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *kept])


def _built(copy: Path, work: Path) -> Path:
    """The compiled layer of the copy, built beside it, so that nothing of it stays in the cache."""
    import shutil

    from caffe_parity.caffe import compile as plugin
    from caffe_parity.caffe import install

    sources = copy / "caffe_impl/cuda"
    layers = work / "include/caffe/layers"
    layers.mkdir(parents=True)
    for header in sources.glob("*.hpp"):
        shutil.copy(header, layers)
    library = work / "mutant.so"
    flags = ("-O0", "-DCPU_ONLY", "-shared", "-fPIC")
    source = sources / f"{plugin.NAME}_layer.cpp"
    plugin.compile_with(install.ensure(), library, [source], [work / "include"], flags)
    return library


def _in_fork(request: dict[str, Any], file: Path, log: Path) -> NoReturn:
    os.setsid()  # so that whatever it starts can be ended with it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(output, stream)
    status = 0
    try:
        file.write_text(json.dumps(run(request)))
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def judged(request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request."""
    work = Path(request["work"])
    file, log = work / "reply.json", work / "log.txt"
    child = os.fork()
    if not child:
        _in_fork(request, file, log)

    def stop(number: int, frame: FrameType | None) -> None:
        _end(child)
        os._exit(1)

    signal.signal(signal.SIGTERM, stop)
    deadline = time.monotonic() + request["seconds"]
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            _end(child)
            os.waitpid(child, 0)
            return {"status": "time-out", "said": _end_of(log)}
        time.sleep(0.01)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # what it left running
    if not file.exists():
        return {"status": "broken", "said": _end_of(log)}
    reply: dict[str, Any] = json.loads(file.read_text())
    return {**reply, "said": _end_of(log)}


def _end(child: int) -> None:
    """Kills a fork and what it started; right after the fork it may not lead a group yet."""
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(ProcessLookupError):
            kill(child, signal.SIGKILL)


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-SAID:] if log.exists() else ""


def main() -> None:
    """Answers requests until standard input ends."""
    gc.freeze()  # what was imported before the forks is never garbage; looking for it takes time
    for line in sys.stdin:
        print(json.dumps(judged(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
