"""Completion in the shells themselves: bash, zsh and fish, as far as they are here."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from caffe_parity.cli.main import COMMANDS, main

pytest.importorskip("shtab")

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
PATIENCE = 30.0  # seconds

WORDS = {
    "parity che": "parity check ",
    "parity install": "parity install-caffe ",
    "parity check my.prototxt --refe": "--reference ",
    "parity run tests.py --device cu": "--device cuda ",
    "parity check my.prototxt --color al": "--color always ",
    "parity completion zs": "parity completion zsh ",
    "parity diff be": "parity diff before.json ",
    "parity check x --load my_la": "--load my_layer.cpp ",
}
"""What is typed before the Tab key, and what stands there then."""


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """What the command prints."""
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


class Interactive:
    """A shell at a terminal."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.ours, theirs = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "PS1": "$ ", "HOME": str(folder)}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs,
            start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self.said = ""

    def types(self, text: str, expected: str) -> None:
        """Types something, and waits until something stands there."""
        self.said = ""
        os.write(self.ours, text.encode())
        end = time.monotonic() + PATIENCE
        while expected not in ESCAPE.sub("", self.said) and time.monotonic() < end:
            if select.select([self.ours], [], [], 0.1)[0]:
                self.said += os.read(self.ours, 1 << 16).decode(errors="replace")
        assert expected in ESCAPE.sub("", self.said)

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        os.close(self.ours)


def folder_with(shell: str, text: str, tmp_path: Path) -> Path:
    """A folder with the script, and files that can be named."""
    (tmp_path / ("_parity" if shell == "zsh" else f"parity.{shell}")).write_text(text)
    for name in ("before.json", "my_layer.cpp"):
        (tmp_path / name).touch()
    return tmp_path


BEGIN = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source ./parity.bash; echo rea''dy\n"),
    "zsh": (
        ["zsh", "-f", "-i"],
        "fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D; PROMPT='$ '; echo rea''dy\n",
    ),
}


@pytest.mark.parametrize("shell", BEGIN)
def test_tab_completes(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Commands, options, what they may be, and files."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell}")
    folder = folder_with(shell, script(shell, capsys), tmp_path)
    command, begin = BEGIN[shell]
    interactive = Interactive(command, folder)
    try:
        interactive.types(begin, "ready")
        for typed, expected in WORDS.items():
            interactive.types(f"{typed}\t", expected)
            interactive.types("\x15", "")  # the line is empty again
    finally:
        interactive.close()


def test_fish_completes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same, by fish's own question."""
    if shutil.which("fish") is None:
        pytest.skip("there is no fish")
    folder = folder_with("fish", script("fish", capsys), tmp_path)
    for typed, expected in WORDS.items():
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source parity.fish; complete -C '{typed}'"],
            cwd=folder, env={**os.environ, "HOME": str(folder)}, capture_output=True, text=True,
            timeout=60,
        )  # fmt: skip
        offered = [line.partition("\t")[0] for line in done.stdout.splitlines()]
        assert expected.split()[-1] in offered, done.stdout + done.stderr


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_script_knows_each_command_and_hides_what_help_hides(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is made from the parser."""
    text = script(shell, capsys)
    assert all(each in text for each in COMMANDS)
    assert "--called" not in text
