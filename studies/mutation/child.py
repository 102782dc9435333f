"""Runs the tests of a mutated copy, in a fork of a process that has imported PyTorch once.

That process imports this file and forks for every copy (multiprocessing's forkserver), so nothing
of the project may be imported here: what a copy's tests import must be the copy.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import NoReturn

# One thread each: they run side by side, and the small cases gain nothing from more.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")

import pytest
import torch  # noqa: F401 - for the forks, which then have it already

gc.freeze()  # what was imported before the forks is never garbage; looking for it takes time


class _Outcomes:
    """Notes which tests ran, which failed, and why others did not run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failed: list[str] = []
        self.skipped: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.skipped and isinstance(report.longrepr, tuple):
            self.skipped.append(report.longrepr[2])  # file, line, why
        elif report.when == "call":
            self.ran.append(report.nodeid)
        if report.failed:
            self.failed.append(report.nodeid)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.failed.append(report.nodeid)


def run(copy: Path, work: Path, files: tuple[str, ...], options: tuple[str, ...]) -> NoReturn:
    """Runs tests of a copy up to the first failure; ends the process.

    What they came to goes to `work`/reply.json, which is not there where they came to no end:
    {"status": pytest's, "ran": [...], "failed": [...], "skipped": [why, ...]}. What was printed
    goes to `work`/said.txt.
    """
    os.setsid()  # so that whatever it starts can be ended with it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    said = os.open(work / "said.txt", os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(said, stream)
    try:
        reply = _reply(copy, work, files, options)
        (work / "reply.json").write_text(json.dumps(reply))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _reply(
    copy: Path, work: Path, files: tuple[str, ...], options: tuple[str, ...]
) -> dict[str, object]:
    _import_only(copy)
    os.chdir(work)
    _take_own_cache(work / "cache")
    outcomes = _Outcomes()
    status = pytest.main(
        [
            *(str(copy / file) for file in files),
            *options,
            *("--exitfirst", "-q", "--tb=line", "-r", "", "-p", "no:cacheprovider"),
            *("--assert=plain", "-p", "caffe_parity.pytest_plugin"),  # nothing to rewrite first
            *("--rootdir", str(copy), "-c", str(copy / "pyproject.toml")),
        ],
        plugins=[outcomes],
    )
    import reference

    if not Path(str(reference.__file__)).is_relative_to(copy):
        raise RuntimeError(f"imported {reference.__file__}, not the copy in {copy}")
    return {"status": int(status), **vars(outcomes)}


def _import_only(copy: Path) -> None:
    """Puts the copy where the working tree stands in the import path, for subprocesses too."""
    root = str(Path(__file__).resolve().parents[2])
    for name in [each for each in sys.modules if each.partition(".")[0] == "studies"]:
        del sys.modules[name]
    sys.path[:] = [str(copy), *(entry for entry in sys.path if entry not in (root, ""))]
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = [entry for entry in given if entry and os.path.abspath(entry) != root]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(copy), *kept])


def _take_own_cache(folder: Path) -> None:
    """Makes a cache with the installed Caffes in it: what is built of a mutant is not kept."""
    from caffe_parity.caffe import cache

    folder.mkdir()
    for each in cache.folder().glob("caffe-*"):
        (folder / each.name).symlink_to(each)
    os.environ["PARITY_CACHE"] = str(folder)
