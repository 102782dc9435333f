"""Runs the tests of a file or a folder that compare layers (`caffe_parity.parametrize`).

Further options are pytest's, such as -k EXPRESSION, -x, -n 2 and --collect-only.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from pathlib import Path

from caffe_parity.contract import BadRequest

FOLDER = "parity-report"
PLUGIN = "caffe_parity.pytest_plugin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity run`."""
    parser.add_argument("tests", metavar="TESTS", type=Path, help="a test file, or a folder")
    parser.add_argument("--layer", metavar="NAME", help="only this layer")
    parser.add_argument("--variant", metavar="NAME", help="only this variant, as caffe-python")
    parser.add_argument("--case", metavar="NAME", help="only this case, such as base")
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where Caffe and PyTorch compute (cpu); the reference stays on the CPU",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        default=Path(FOLDER),
        help=f"where results.json and junit.xml go ({FOLDER})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (60)",
    )
    # What its commands that reproduce something begin with, where it is called by another name.
    parser.add_argument("--called", help=argparse.SUPPRESS)


def carried_out(options: argparse.Namespace) -> int:
    """Runs pytest on what was asked for; returns the exit status.

    Raises:
        BadRequest: there are no such tests, or the report cannot be written.
    """
    if not options.tests.exists():
        raise BadRequest(f"there is no test file or folder {options.tests}")
    asks = {"-h", "--help", "--co", "--collect-only", "--collectonly"} & set(options.more)
    if not asks:
        _make_folder(options.report)
    if options.device == "cpu":
        from caffe_parity.caffe.session import SESSION

        SESSION.launch()  # it imports Caffe while this process imports PyTorch
    import pytest

    status = int(pytest.main([*_plugins(), *_pytest_options(options, not asks), *options.more]))
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        print(
            "parity run: no comparison has that name. --collect-only -q lists them all; "
            "--layer, --variant and --case take whole names.",
            file=sys.stderr,
        )
    return status if status in (0, 1) else 2


def _plugins() -> list[str]:
    """The options that load this project's plugin; where it is installed, pytest does so itself."""
    entries = importlib.metadata.entry_points(group="pytest11")
    known = any(each.value == PLUGIN for each in entries)
    return [] if known else ["-p", PLUGIN]


def _pytest_options(options: argparse.Namespace, writes: bool) -> list[str]:
    said = [str(options.tests), "-q", "--tb=no", "-r", "", "--parity-table"]
    for name in ("layer", "variant", "case", "device"):
        value = getattr(options, name)
        said += [f"--parity-{name}={value}"] if value else []
    called = options.called or f"parity run {options.tests}"
    said += [f"--parity-timeout={options.timeout}", f"--parity-command={called}"]
    if writes:
        said += [f"--parity-json={options.report / 'results.json'}"]
        if not any(each.startswith("--junit") for each in options.more):
            said += [f"--junitxml={options.report / 'junit.xml'}"]
    # A checkout that cannot be written to is no reason to fail, nor that this module was imported.
    ignored = ("PytestCacheWarning", "PytestAssertRewriteWarning")
    return [*said, *(f"-Wignore::pytest.{each}" for each in ignored)]


def _make_folder(folder: Path) -> None:
    """Makes the report's folder before the first test: a run must not be lost at its end.

    Raises:
        BadRequest: it cannot be made or written to.
    """
    import tempfile

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise BadRequest(
            f"the report cannot be written to {folder}: {error.strerror}; "
            "--report names another folder"
        ) from error
