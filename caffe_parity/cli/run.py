"""Runs the tests of a file or a folder that compare layers (`caffe_parity.parametrize`).

Further options are pytest's, such as -k EXPRESSION, -x, -n 2 (processes, with pytest-xdist) and
--collect-only.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import io
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from caffe_parity import shards
from caffe_parity.caffe import cache
from caffe_parity.checkout import program
from caffe_parity.cli import add_annotations, add_told, path
from caffe_parity.contract import BadRequest, ParityError
from caffe_parity.guest import WATCH
from caffe_parity.report import INDEX
from caffe_parity.terminal import say

EXAMPLES = """\
  parity run test_my_layer.py
  parity run test_my_layer.py --variant caffe-python --case base
  parity run tests/ -k 'loss and not torch' -x
  parity run test_my_layer.py --shard 1/2 --report shard-1
  parity run test_my_layer.py -q --summary "$GITHUB_STEP_SUMMARY"
"""

PLUGIN = "caffe_parity.pytest_plugin"
CONFIGURATION = Path(__file__).with_name("pytest.ini")
ROOT_HAS = ("pyproject.toml", "pytest.ini", "tox.ini", "setup.cfg", "setup.py", ".git")
"""What lies in the folder of a repository."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `parity run`."""
    parser.add_argument("tests", metavar="TESTS", type=path, help="a test file, or a folder")
    parser.add_argument("--layer", metavar="NAME", help="only this layer")
    parser.add_argument("--variant", metavar="NAME", help="only this variant, as caffe-python")
    parser.add_argument("--case", metavar="NAME", help="only this case, such as base")
    parser.add_argument(
        "--shard", metavar="I/N", help="only this part of N, each on a machine of its own: merge"
    )
    parser.add_argument(
        "--times",
        metavar="JUNIT",
        type=path,
        help="--shard: the junit.xml of an earlier run, or its folder; makes all equally long",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="where Caffe and PyTorch compute (cpu); the reference stays on the CPU",
    )
    parser.add_argument(
        "--allow-missing",
        action="store_true",
        help="--device cuda without a GPU: say so, and do not fail",
    )
    parser.add_argument(
        "--report",
        metavar="DIR",
        type=path,
        default=INDEX.parent,
        help=f"where index.html, results.json and junit.xml go ({INDEX.parent})",
    )
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        metavar="S",
        help="seconds after which a silent Caffe counts as a hang (60)",
    )
    add_told(parser, "each comparison, as pytest tells it")
    add_annotations(parser)
    # For many comparisons: all of them are shared among processes where there are several cores.
    parser.add_argument("--shared", action="store_true", help=argparse.SUPPRESS)
    # What its commands that reproduce something begin with, where it is called by another name.
    parser.add_argument("--called", help=argparse.SUPPRESS)


def carried_out(options: argparse.Namespace) -> int:
    """Runs pytest on what was asked for; returns the exit status.

    Raises:
        BadRequest: there are no such tests, or the report cannot be written.
    """
    _must_exist(options.tests)
    if options.shard:
        shards.parsed(options.shard)
    if options.times:
        shards.times_of(options.times)
        if not options.shard:
            raise BadRequest("--times makes shards equally long: give --shard I/N, too")
    if not 0 < options.timeout < float("inf"):
        raise BadRequest("--timeout must be greater than 0, and finite")
    asks = bool({"-h", "--help", "--co", "--collect-only", "--collectonly"} & set(options.more))
    if not asks:
        make_folder(options.report, options.quiet)
    cache_compiled()
    junit = options.report / "junit.xml"
    before = junit.read_bytes() if junit.is_file() else None
    with _defaults():
        status = _by_pytest(options, asks)
    import pytest

    if status == pytest.ExitCode.NO_TESTS_COLLECTED and options.shard and not asks:
        print(f"parity run: shard {options.shard} has no test; `parity merge` wants its report")
        return 0
    nothing = (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR)
    if status in nothing and not asks and before is not None:  # pytest writes it all the same
        junit.write_bytes(before)
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        print(
            f"parity run: nothing was compared: no comparison has that name, or {options.tests} "
            "has no test with @caffe_parity.parametrize. `parity list TESTS` has them all; "
            f"--layer, --variant and --case take whole names. What {options.report} held is as it "
            "was.",
            file=sys.stderr,
        )
    return status if status in (0, 1) else 2


def _by_pytest(options: argparse.Namespace, asks: bool) -> int:
    """What pytest says of the tests; it is imported, and Caffe started, no sooner than here."""
    processes = [] if asks else _processes(options)
    if options.device == "cpu" and not processes:
        from caffe_parity.caffe.session import SESSION

        SESSION.launch()  # it imports Caffe while this process imports PyTorch
    import pytest

    with tempfile.TemporaryDirectory() as scratch:
        WATCH.scratch(scratch)
        said = _pytest_options(options, not asks)
        if not any(each.startswith("--basetemp") for each in options.more):
            said.append(f"--basetemp={Path(scratch, 'pytest')}")
        arguments = [*said, *processes, *options.more]
        try:
            in_a_line = options.quiet and not asks
            return _in_a_line(arguments) if in_a_line else int(pytest.main(arguments))
        finally:  # of what the plugin does to it
            gc.unfreeze()
            gc.enable()


DEFAULTS = {
    # A thread of PyTorch's that has nothing to do sleeps: else it takes a core from who has.
    "OMP_WAIT_POLICY": "PASSIVE",
    # Caffe's process uses the memory of large arrays again, up to 512 MiB of it (glibc's malloc);
    # of this one, the plugin sees to that.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "MALLOC_TOP_PAD_": str(2**26),
    "PARITY_TRUTHS": "keep",
}
"""Variables of the environment of this run and of what it starts, where they are not set."""


@contextlib.contextmanager
def _defaults() -> Iterator[None]:
    """Sets them, and takes them away again."""
    ours = {name: value for name, value in DEFAULTS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _in_a_line(arguments: Sequence[str]) -> int:
    """Runs pytest, and prints what it comes to; all that pytest says where it comes to nothing."""
    import pytest

    last = _Last()
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = int(pytest.main([*arguments], plugins=[last]))
    say([last.line or said.getvalue().strip()])
    return status


class _Last:
    """A plugin of pytest that keeps what a run comes to, in a line."""

    line = ""

    def pytest_unconfigure(self, config: Any) -> None:
        from caffe_parity.pytest_plugin import COLLECTOR

        if COLLECTOR in config.stash:
            self.line = config.stash[COLLECTOR].line


def cache_compiled() -> None:
    """Lets torch.compile keep its kernels in the cache folder, unless it is told another one.

    It names them by what they are made from: the graph, PyTorch, the compiler and the processor.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache.folder() / "torch-compile"))


MOST = 4
"""Processes by default. Each imports PyTorch and a Caffe, and holds the largest case (2 GB)."""

GROUPED = "--dist=loadgroup"
"""What keeps the variants of a case in one process."""


def _processes(options: argparse.Namespace) -> list[str]:
    """The options of pytest that share the comparisons among processes, or none.

    By default all of the main job are, where there are cores; a selection, or an option of pytest's
    own, is carried out by this one.
    """
    asked = [each for each in options.more if each.startswith(("-n", "--numprocesses"))]
    if asked or not importlib.util.find_spec("xdist"):
        elsewise = any(each.startswith(("--dist", "-d")) for each in options.more)
        return [GROUPED] if asked and not elsewise else []
    cores = min(len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1, MOST)
    selected = options.layer or options.variant or options.case or options.more
    if not options.shared or cores == 1 or selected or options.device != "cpu":
        return []
    from caffe_parity.caffe.interpreter import find

    try:
        find()  # once, and where its progress is seen
    except (ParityError, OSError):
        return []  # it is told where Caffe is needed
    return [f"--numprocesses={cores}", GROUPED]


def collecting(tests: Path) -> list[str]:
    """The options of pytest that collect what `parity run` would run.

    Raises:
        BadRequest: there are no such tests.
    """
    _must_exist(tests)
    return [*_alone(tests), str(tests), "--collect-only", "-q", "-p", "no:cacheprovider"]


def _must_exist(tests: Path) -> None:
    if not tests.exists():
        raise BadRequest(f"there is no test file or folder {tests}")


def _alone(tests: Path) -> list[str]:
    """The options by which pytest is deaf to how the user's own tests are run.

    Its configuration is the file beside this one, PYTEST_ADDOPTS says nothing, and no other plugin
    chooses an order. The conftest.py files count, as they may make what the tests need.
    """
    os.environ.pop("PYTEST_ADDOPTS", None)
    root = _root_of(tests.resolve())
    said = ["-c", str(CONFIGURATION), f"--rootdir={root}", f"--confcutdir={root}"]
    return [*said, "-p", "no:randomly", *_plugins()]


def _root_of(tests: Path) -> Path:
    """The folder of the repository that has the tests, as pytest finds it."""
    folder = tests if tests.is_dir() else tests.parent
    for each in (folder, *folder.parents):
        if any((each / name).exists() for name in ROOT_HAS):
            return each
    return folder


def _plugins() -> list[str]:
    """The options that load this project's plugin; where it is installed, pytest does so itself."""
    entries = importlib.metadata.entry_points(group="pytest11")
    known = any(each.value == PLUGIN for each in entries)
    return [] if known else ["-p", PLUGIN]


def _pytest_options(options: argparse.Namespace, writes: bool) -> list[str]:
    said = [*_alone(options.tests), str(options.tests), "-q", "--tb=no", "-r", "", "--parity-table"]
    for name in ("layer", "variant", "case", "device", "shard", "times"):
        value = getattr(options, name)
        said += [f"--parity-{name}={value}"] if value else []
    said += ["--parity-allow-missing"] if options.allow_missing else []
    said += ["-p", "no:logging"] if options.shared else []  # a millisecond for each of many tests
    said += ["-vv"] if options.verbose else []
    color = {"always": "yes", "never": "no"}.get(options.color)
    said += [f"--color={color}"] if color else []
    called = options.called or f"{program()} run {shlex.quote(str(options.tests))}"
    called += f" --device {options.device}" if options.device != "cpu" else ""
    said += [f"--parity-annotations={options.annotations}"]
    said += [f"--parity-timeout={options.timeout}", f"--parity-command={called}"]
    if not writes:
        return [*said, "-p", "no:cacheprovider"]
    said += [f"--parity-json={options.report / 'results.json'}"]
    said += [f"--parity-page={options.report / 'index.html'}"]
    said += [f"--parity-summary={options.summary}"] if options.summary else []
    if not any(each.startswith("--junit") for each in options.more):
        said += [f"--junitxml={options.report / 'junit.xml'}"]
    return said


def make_folder(folder: Path, quiet: bool) -> None:
    """Makes the report's folder, not those above it, and says so, before the first test.

    Raises:
        BadRequest: it cannot be made or written to.
    """
    try:
        if not folder.exists():
            folder.mkdir()
            if not quiet:
                print(f"made the folder {folder}", flush=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or error
        raise BadRequest(
            f"the report cannot be written to {folder}: {words}; --report names another folder"
        ) from error
