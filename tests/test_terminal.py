"""Colours and tables on a terminal alone; progress with the time that is left, and no more often
than it is looked at."""  # noqa: D205, D209

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_parity import terminal
from caffe_parity.progress import Progress
from caffe_parity.report import table
from caffe_parity.terminal import Grid, rendered
from tests.pages import REPORTS, command

pytest.importorskip("rich")

ROOT = Path(__file__).parent.parent
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setenv("TERM", "xterm")
    return now


@pytest.mark.parametrize(
    ("color", "variables", "is_terminal", "colours"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"NO_COLOR": ""}, True, True),
        ("auto", {"TERM": "dumb"}, True, False),
        ("never", {}, True, False),
        ("always", {"NO_COLOR": "1"}, False, True),
    ],
)
def test_who_decides_about_colours(
    monkeypatch: pytest.MonkeyPatch,
    color: str,
    variables: dict[str, str],
    is_terminal: bool,
    colours: bool,
) -> None:
    """--color before NO_COLOR, which is to be set and not empty, before the terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in {"TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(terminal.CHOICE, "color", color)
    assert terminal.coloured(Terminal() if is_terminal else io.StringIO()) == colours


@pytest.mark.parametrize("name", REPORTS)
def test_colours_change_no_word(name: str) -> None:
    """Without the colours a terminal has the words of a log; only a table is drawn otherwise."""
    for section in table.sections(REPORTS[name](), command):
        plain, drawn = (
            list(rendered(section.lines, False)),
            list(rendered(section.lines, True, 200)),
        )
        bare = [
            ESCAPE.sub("", line).rstrip() for each in drawn for line in each.splitlines() or [""]
        ]
        assert not any("\x1b" in line for line in plain)
        for before, after in zip(plain, bare, strict=True):
            if set(before) != {"-"}:
                assert " ".join(before.split()) == " ".join(after.split())


def test_verdicts_are_coloured_by_what_they_say() -> None:
    """Agreeing green, disagreeing red, each as a whole word."""
    green, red, none = rendered(
        ["agrees, 8 cases", "24 of 70 cases do not agree", "disagreement, a failure"], True
    )
    assert green.startswith("\x1b[32magrees\x1b[0m,")
    assert "\x1b[1;31mdo not" in red
    assert none == "disagreement, a failure"


@given(st.lists(st.text(max_size=30), min_size=3, max_size=3), st.integers(1, 200))
def test_any_name_can_be_in_a_table(names: list[str], width: int) -> None:
    """Brackets are no markup."""
    grid = Grid([("layer", "variant", "verdict"), ("[red]x[/red]", *names[:2])], (1,))
    said = ESCAPE.sub("", "\n".join(rendered([grid, *names, "[bold]"], True, width)))
    assert "[red]x[/red]" in said and "[bold]" in said


def test_table_that_fits_no_terminal_keeps_its_columns() -> None:
    """Its names stay whole on a narrow terminal: only the last column is folded."""
    row = ("channel_sum", "caffe-eltwise-reduction", "12,920,548 of 12,924,963", "agrees " * 9)
    (said,) = rendered([Grid([("layer", "variant", "compared", "verdict"), row], (2,))], True, 40)
    assert all(each in ESCAPE.sub("", said) for each in row[:3])


def test_log_has_a_line_every_ten_seconds(clock: list[float]) -> None:
    """With the time that is left, once that is known; the last one not at the end."""
    stream = io.StringIO()
    shown = Progress(stream)
    shown.place = "comparing"
    with shown.shown():
        for done in range(61):
            shown.part = done / 60
            shown.tell(f"{done} of 60")
            clock[0] += 1
    assert stream.getvalue().splitlines() == [
        f"  comparing: {done} of 60, {done} s"
        + (f", about {60 - done} s left" if done < 60 else "")
        for done in range(10, 61, 10)
    ]


def test_time_left_does_not_grow_while_a_part_takes_its_time(clock: list[float]) -> None:
    """It is reckoned from the parts that are done."""
    stream = io.StringIO()
    shown = Progress(stream)
    with shown.shown():
        clock[0] += 10
        shown.part = 0.25
        shown.tell("a")
        clock[0] += 10
        shown.tell("b")
        clock[0] += 30
        shown.tell("c")
    assert [line.rpartition("s, ")[2] for line in stream.getvalue().splitlines()] == [
        "about 30 s left", "about 20 s left", "  : c, 50 s"
    ]  # fmt: skip


def test_terminal_has_a_bar_from_the_third_second_on(clock: list[float]) -> None:
    """Nothing before; the line is written over, and gone at the end; names are no markup."""
    stream = Terminal()
    shown = Progress(stream)
    shown.place = "[red]case 1[/red]"
    with shown.shown():
        shown.part = 0.5
        clock[0] += 1.9
        shown.tell("running")
        assert stream.getvalue() == ""
        clock[0] += 1
        shown.tell("running")
        assert "[red]case 1[/red]: running" in stream.getvalue()
        assert "3 s, about 3 s left" in stream.getvalue()
        assert "\n" not in stream.getvalue()
    assert stream.getvalue().endswith("\x1b[2K")
    assert stream.getvalue().count("\x1b[?25l") == stream.getvalue().count("\x1b[?25h") == 1


def on_a_terminal(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit status of a command, and all that it wrote to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    try:
        while piece := os.read(ours, 1 << 16):
            said += piece
    except OSError:  # so Linux ends it
        pass
    os.close(ours)
    return process.wait(60), said.decode()


SLOW = """
import time
import caffe_parity

def right(x):
    return (x * x).sum()

def slow(x):
    time.sleep(0.1)
    return (x * x).sum()

LAYER = caffe_parity.Layer(
    "square", reference=right, inputs={"x": (2, 3)}, cases=8,
    variants={"torch-slow": slow, "torch-wrong": lambda x: 2 * right(x)},
)

@caffe_parity.parametrize(LAYER)
def test_parity(comparison):
    comparison.check()
"""


def test_run_on_a_terminal(tmp_path: Path) -> None:
    """A bar in place of pytest's dots, and the table in colours; with NO_COLOR, none."""
    (tmp_path / "test_slow.py").write_text(SLOW)
    status, said = on_a_terminal(tmp_path, "caffe_parity", "run", "test_slow.py")
    assert status == 1
    assert re.search(r"comparing: \d+ of 16, \d+ disagree", said)
    assert " left" in said and "\x1b[32magrees" in said
    assert "F" * 8 not in said and "[100%]" not in said
    _, said = on_a_terminal(tmp_path, "caffe_parity", "run", "test_slow.py", NO_COLOR="1")
    drawn = re.findall(r"\x1b\[[0-9;]+m", said)
    assert not [each for each in drawn if each not in ("\x1b[0m", "\x1b[m")]


def test_end_of_a_process_gives_the_cursor_back(tmp_path: Path) -> None:
    """A bar hides it, and a reference may end the process without a word."""
    (tmp_path / "truth.py").write_text(
        "import os, time\ndef loss(x):\n    time.sleep(0.3)\n"
        "    os.kill(os.getpid(), 9) if time.monotonic() - BEGAN > 6 else None\n"
        "    return (x * x).sum()\nBEGAN = time.monotonic()\n"
    )
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 } } }\n'
        'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 1\n'
        "  reduction_param { operation: SUMSQ } }\n"
    )
    status, said = on_a_terminal(
        tmp_path, "caffe_parity", "check", "net.prototxt", "--reference", "truth.py:loss"
    )
    assert status == 2
    assert "\x1b[?25l" in said
    assert said.rindex("\x1b[?25h") > said.rindex("\x1b[?25l")
