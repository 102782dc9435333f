"""`parity watch`: each save of a file is followed by the verdict on what it says now."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caffe_parity.caffe.client import Caffe

ROOT = Path(__file__).parent.parent
PATIENCE = 120  # seconds, on a machine that does much else

LAYER = """
import caffe

class Layer(caffe.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = FACTOR * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 3 * top[0].diff
"""
REFERENCE = "def top(x):\n    return 3 * x\n"
TESTS = """
import caffe_parity
from caffe_parity import Layer, python_layer
import mine_reference

@caffe_parity.parametrize(
    Layer(
        "triple",
        reference=mine_reference.top,
        inputs={"x": (2, 3)},
        cases=2,
        variants={"caffe": python_layer("layer.py:Layer"), "port": mine_reference.top},
    )
)
def test_triple(comparison):
    comparison.check()
"""


class Watch:
    """A watch that runs in a folder."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "caffe_parity", "watch", *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.put(line.rstrip())

    def until(self, words: str) -> list[str]:
        """The lines up to one that has these words."""
        seen: list[str] = []
        while not seen or words not in seen[-1]:
            try:
                seen.append(self.lines.get(timeout=PATIENCE))
            except queue.Empty:
                raise AssertionError(f"no line with {words!r} after:\n" + "\n".join(seen)) from None
        return seen

    def save(self, name: str, text: str) -> None:
        """Saves a file as an editor does: whole."""
        new = self.folder / "saved"
        new.write_text(text)
        new.replace(self.folder / name)

    def close(self) -> None:
        """Ends what still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.reader.join()

    def end(self) -> tuple[int, set[int]]:
        """Interrupts it; its exit status, and the processes that are left of it."""
        os.killpg(self.process.pid, signal.SIGINT)
        status = self.process.wait(PATIENCE)
        stats = [each.read_text() for each in Path("/proc").glob("[0-9]*/stat") if each.exists()]
        return status, {int(each.split()[0]) for each in stats if self._is_child(each)}

    def _is_child(self, stat: str) -> bool:
        *_, rest = stat.rpartition(")")
        state, parent, group, session, *_ = rest.split()
        return state != "Z" and str(self.process.pid) in (parent, group, session)


@pytest.fixture
def folder(tmp_path: Path, caffe: Caffe) -> Path:
    """A layer, its reference and its test."""
    (tmp_path / "layer.py").write_text(LAYER.replace("FACTOR", "3"))
    (tmp_path / "mine_reference.py").write_text(REFERENCE)
    (tmp_path / "test_mine.py").write_text(TESTS)
    return tmp_path


NET = ("layer.py:Layer", "--bottom", "x=2,3", "--reference", "mine_reference.py:top")


@pytest.fixture(params=[(*NET, "--cases", "2"), ("test_mine.py",)], ids=["net", "tests"])
def watch(folder: Path, request: pytest.FixtureRequest) -> Iterator[Watch]:
    """A watch of both kinds."""
    made = Watch(folder, *request.param)
    try:
        yield made
    finally:
        made.close()


def test_each_save_has_its_verdict(watch: Watch) -> None:
    """A layer that is broken, unreadable and mended; a reference that changes; then Ctrl-C."""
    watch.until(" agree, ")
    watch.save("layer.py", LAYER.replace("FACTOR", "4"))
    said = watch.until(" disagree")
    assert any("layer.py" in line for line in said)
    assert any("forward-value" in line for line in said)
    watch.save("layer.py", LAYER.replace("FACTOR", "(("))
    assert any("SyntaxError" in line for line in watch.until(" disagree"))
    watch.save("layer.py", LAYER.replace("FACTOR", "3"))
    watch.until(" agree, ")
    watch.save("mine_reference.py", REFERENCE.replace("3", "5"))
    assert any("gradient:x" in line for line in watch.until(" disagree"))
    watch.save("mine_reference.py", "def other(): pass\n")
    watch.until("top")
    watch.save("mine_reference.py", REFERENCE)
    watch.until(" agree, ")
    assert watch.end() == (0, set())


def test_page_is_written_at_each_verdict(folder: Path) -> None:
    """With the command that compares once; at the end it says that it is not renewed."""
    watch = Watch(folder, "test_mine.py", "--page", "now.html")
    page = folder / "now.html"
    watch.until(" agree, ")
    watch.save("layer.py", LAYER.replace("FACTOR", "2"))
    watch.until(" disagree, ")
    _wait_for(page, "do not agree")
    assert " run test_mine.py -k" in page.read_text()
    watch.save("layer.py", "import time\ntime.sleep(5)\n" + LAYER.replace("FACTOR", "3"))
    _wait_for(page, "out of date: layer.py was saved at")
    watch.until(" agree, ")
    _wait_for(page, "compared at")
    assert watch.end() == (0, set())
    assert "this page is not renewed" in page.read_text()


def _wait_for(file: Path, words: str) -> None:
    """Waits until a file has these words."""
    end = time.monotonic() + PATIENCE
    while words not in file.read_text() and time.monotonic() < end:
        time.sleep(0.05)
    assert words in file.read_text()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["absent.py"], "absent.py is no test file or folder"),
        (["net.prototxt"], "name what it is compared with: --reference"),
        ([*NET, "--layer", "mine"], "belong to TESTS"),
        ([*NET, "--data", "y=normal"], "NAME one of x"),
        (["test_mine.py", "--variant", "cafe"], "unknown variant 'cafe'"),
        ([*NET, "--json", "found.json"], "--json belongs to `parity check`"),
        ([*NET, "--summary", "found.md"], "--summary belongs to `parity check`"),
        ([*NET, "--page", "absent/found.html"], "there is no folder absent"),
    ],
)
def test_what_cannot_be_watched_is_said(folder: Path, arguments: list[str], words: str) -> None:
    """Exit 2, and what to do."""
    watch = Watch(folder, *arguments)
    watch.until(words)
    assert watch.process.wait(PATIENCE) == 2
    watch.close()
