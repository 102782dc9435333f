"""Makes the parity plugin known to the project's own tests; what several of their files share."""

from __future__ import annotations

import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import find
from caffe_parity.caffe.session import SESSION

pytest_plugins = ["caffe_parity.pytest_plugin"]

ROOT = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """`-m 'not caffe'` leaves out what needs one."""
    config.addinivalue_line("markers", "caffe: the test starts a Caffe")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that ask for a Caffe."""
    for item in items:
        if "caffe" in getattr(item, "fixturenames", ()):
            item.add_marker("caffe")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """Signals reach what the tests start: a background job and nohup pass on to ignore them."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _path() -> Iterator[None]:
    """What a test imports from stays its own: sys.path becomes an argument of what is started."""
    before = [*sys.path]
    yield
    sys.path[:] = before


@pytest.fixture(scope="module")
def caffe() -> Iterator[Caffe]:
    """One Caffe for a file of tests: importing it is most of what a small check costs."""
    with Caffe(find()) as started:
        SESSION.use(started)
        yield started
        SESSION.use(None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a copy of the examples in it."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path
