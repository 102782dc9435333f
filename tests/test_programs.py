"""Programs are run, watched and ended, and what they said is searched for what tells most."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from caffe_parity.caffe import programs


def test_a_program_is_watched(tmp_path: Path) -> None:
    """Its status and all that it printed come back; meanwhile what is new is told."""
    seen: list[str] = []
    script = "echo one; sleep 0.3; echo two >&2; exit 3"
    assert programs.run(["sh", "-c", script], tmp_path, watch=seen.append) == (3, "one\ntwo\n")
    assert [said for said in seen if said] == ["one\n", "two\n"]
    assert len(seen) > 3  # also while it is silent


def test_an_interrupted_program_leaves_no_process(tmp_path: Path) -> None:
    """When it is interrupted, whatever the program has started ends, too."""

    def interrupt(said: str) -> None:
        if said:
            raise KeyboardInterrupt(said.strip())

    with pytest.raises(KeyboardInterrupt) as caught:
        programs.run(["sh", "-c", "sleep 60 & echo $!; wait"], tmp_path, watch=interrupt)
    child = Path(f"/proc/{caught.value}/stat")
    deadline = time.monotonic() + 30  # a killed process still needs its turn to go
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(child)


def _runs(stat: Path) -> bool:
    try:
        return stat.read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("lines", "first"),
    [
        (
            ["cc -o error.o", "x.cpp:1:2: fatal error: no.h", "y: error: z"],
            "x.cpp:1:2: fatal error: no.h",
        ),
        (
            ["a", "nvcc fatal   : Unsupported gpu architecture"],
            "nvcc fatal   : Unsupported gpu architecture",
        ),
        (["a", "python: No module named pip", "b"], "python: No module named pip"),
        (["a", "CMake Error at x", "make: *** b"], "CMake Error at x"),
        (["y: in f:", "y:1: undefined reference to `z'"], "y:1: undefined reference to `z'"),
        (["a", "last", " "], "last"),
        ([], "nothing"),
    ],
)
def test_first_error(lines: list[str], first: str) -> None:
    """The line that tells most is the first that names an error, else the last."""
    assert programs.first_error("\n".join(lines)) == first


def test_a_script_sets_and_unsets(tmp_path: Path) -> None:
    """A command with spaces in its words runs under its own variables, None being unset."""
    command = ["sh", "-c", 'echo "$KEPT $SET ${UNSET-none} $1"', "a name"]
    programs.write_script(tmp_path / "script", command, {"SET": "a b", "UNSET": None})
    environment = os.environ | {"UNSET": "x", "SET": "y", "KEPT": "z"}
    ran = subprocess.run([tmp_path / "script", "c d"], env=environment, capture_output=True)
    assert (ran.stdout, ran.stderr) == (b"z a b none c d\n", b"")
