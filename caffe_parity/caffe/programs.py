"""Run programs, and find what in their output tells why they failed."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_FULL = r"No space left|enough free space|Disk quota exceeded"
_ERROR = (
    r"\b(fatal|error)\b *:|CMake Error|undefined (reference|symbol)|cannot find|No space left|"
    r"\*\*\* |^ERROR: |^nvcc fatal|^tar: "
)


def run(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
    watch: Callable[[str], None] = lambda said: None,
) -> tuple[int, str]:
    """Run a program; return its exit status and what it printed, errors among it.

    Whatever it has started ends with it, also when this process is interrupted.

    Args:
        command: the program and its arguments.
        folder: where it runs.
        environment: all of its variables; those of this process if None.
        watch: called with what it has printed since, at least ten times a second.
    """
    chunks: list[bytes] = []  # not a file: on a full disk it would lose the very message
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        while not chunks or chunks[-1]:
            said = b""
            if select.select([process.stdout], [], [], 0.1)[0]:
                said = os.read(process.stdout.fileno(), 2**16)
                chunks.append(said)
            watch(said.decode(errors="replace"))
        process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    return process.returncode, b"".join(chunks).decode(errors="replace")


def write_script(file: Path, command: Sequence[str], variables: Mapping[str, str | None]) -> None:
    """Write a shell script that runs `command` with its own arguments under these variables.

    A variable that is None is not set there, whatever it is where the script is called.
    """
    unset = [f"-u{name}" for name, value in variables.items() if value is None]
    given = [f"{name}={value}" for name, value in variables.items() if value is not None]
    file.write_text(f'#!/bin/sh\nexec {shlex.join(["env", *unset, *given, *command])} "$@"\n')
    file.chmod(0o755)


def first_error(text: str) -> str:
    """Return the first line in which a compiler, linker, cmake, make or pip names an error.

    The last line where there is none: then that tells most.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for sign in (_ERROR, "No module named"):
        for line in lines:
            if re.search(sign, line):
                return line
    return lines[-1] if lines else "nothing"


def full_disk(text: str) -> str:
    """Return the line of a program's output that tells of a full disk, an empty string if none."""
    return next((line.strip() for line in text.splitlines() if re.search(_FULL, line)), "")
