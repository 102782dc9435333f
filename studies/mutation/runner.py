"""Applies each mutant to a copy of the project and runs what must find it.

The working tree is copied once, when a run begins, and never touched. Each mutant gets a copy of
that copy. What judges a mutant is first run on a copy without any: only if that passes does a
failure prove anything.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import py_compile
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studies.mutation.catalogue import Judge, Mutant

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("child.py")
NEEDED = (
    "reference",
    "caffe_impl",
    "torch_impl",
    "parity_tests",
    "docs",
    "README.md",
    "pyproject.toml",
)
"""What a copy consists of; what is not there is left out."""

SECONDS = 120.0
"""How long one mutant may take before that alone is the answer."""

KILLED, SURVIVED, BROKEN, NOT_RUN = "killed", "survived", "broken", "not run"


class CatalogueError(Exception):
    """The run itself is wrong: a mutant that cannot be applied, or a judge that fails unmutated."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    Attributes:
        verdict: "killed", "survived", "broken" (the edit makes nonsense of the file, or the
            unmutated copy fails too) or "not run".
        reason: why it is broken or was not run.
        ran: the tests that ran.
        failed: the tests that found it.
        cases: the case that each test compared, for those that compare one.
        seconds: how long it took.
    """

    mutant: Mutant
    verdict: str
    reason: str = ""
    ran: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    cases: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def killing_cases(self) -> list[str]:
        """The names of the cases that found it, in the order in which they run."""
        return list(dict.fromkeys(self.cases[test] for test in self.failed if test in self.cases))

    @property
    def seen_cases(self) -> list[str]:
        """The names of the cases that ran."""
        return list(dict.fromkeys(self.cases[test] for test in self.ran if test in self.cases))


def mutated(text: str, mutant: Mutant) -> str:
    """The text with the mutant in it.

    Raises:
        CatalogueError: the old text does not stand in it exactly once, or nothing changes.
    """
    found = text.count(mutant.old)
    if found != 1:
        raise CatalogueError(f"{mutant.name}: its old text stands {found} times in {mutant.file}")
    if mutant.old == mutant.new:
        raise CatalogueError(f"{mutant.name} changes nothing")
    return text.replace(mutant.old, mutant.new)


def copied(source: Path, target: Path) -> None:
    """Copies what a run needs of the project, from the working tree without what was compiled.

    Raises:
        OSError: it cannot be written.
    """
    for name in NEEDED:
        if (source / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__") if source == ROOT else None
            shutil.copytree(source / name, target / name, ignore=ignored)
        elif (source / name).exists():
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / name, target / name)


def spread(mutants: Iterable[Mutant], seed: int) -> list[Mutant]:
    """The mutants in an order in which every group has its share of any beginning."""
    order = random.Random(seed)
    groups: dict[str, list[Mutant]] = {}
    for mutant in mutants:
        groups.setdefault(mutant.group, []).append(mutant)
    placed = []
    for group in groups.values():
        order.shuffle(group)
        # The k-th of n stands at (k + something) / n of the way, whatever n is.
        shift = order.random()
        placed += [((index + shift) / len(group), mutant) for index, mutant in enumerate(group)]
    return [mutant for _, mutant in sorted(placed, key=lambda pair: pair[0])]


class _Child:
    """One `child.py`."""

    def __init__(self) -> None:
        # One thread each: they run side by side, and the small cases gain nothing from more.
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **threads, "PYTHONDONTWRITEBYTECODE": "1"},
            text=True,
            start_new_session=True,  # Ctrl-C ends the runner, and the runner ends it
        )

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The reply, or None when it was ended meanwhile."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        line = self.process.stdout.readline()
        reply: dict[str, Any] | None = json.loads(line) if line else None
        return reply

    def close(self) -> None:
        """Ends it and what it runs; nobody may be asking it any more."""
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            with contextlib.suppress(BrokenPipeError):  # a request that nobody read
                stream.close()


class _Run:
    """The state of one run, shared by its threads."""

    def __init__(
        self, mutants: Sequence[Mutant], root: Path, folder: Path, notice: Callable[[Verdict], None]
    ) -> None:
        self.lock = threading.Lock()
        self.tasks = _tasks(mutants)
        self.folder = folder
        self.pristine = folder / "pristine"
        copied(root, self.pristine)
        # By content, since a mutant may be as old and as long as what it replaces.
        by_content = py_compile.PycInvalidationMode.CHECKED_HASH
        compileall.compile_dir(self.pristine, quiet=2, invalidation_mode=by_content)
        self.notice = notice
        self.baselines: dict[Judge, dict[str, Any]] = {}
        self.replies: dict[str, tuple[Mutant, dict[str, Any], float]] = {}
        self.count = 0
        self.error: BaseException | None = None

    def work(self, child: _Child) -> None:
        """Carries out tasks until there are none; runs in a thread of its own."""
        try:
            while True:
                with self.lock:
                    if not self.tasks or self.error:
                        return
                    judge, mutant = self.tasks.pop(0)
                    self.count += 1
                    number = self.count
                start = time.monotonic()
                reply = self._judged(child, judge, mutant, self.folder / str(number))
                if reply is None:
                    return
                with self.lock:
                    self._keep(judge, mutant, reply, time.monotonic() - start)
        except BaseException as error:
            self.error = error

    def _judged(
        self, child: _Child, judge: Judge, mutant: Mutant | None, place: Path
    ) -> dict[str, Any] | None:
        work = place / "work"
        work.mkdir(parents=True)
        copied(self.pristine, place / "copy")
        if mutant is not None:
            file = place / "copy" / mutant.file
            file.write_text(mutated(file.read_text(), mutant))
        reply = child.ask(
            {
                "copy": str(place / "copy"),
                "work": str(work),
                "arguments": judge.arguments,
                "plugin": judge.builds,
                "cache": judge.own_cache,
                "seconds": SECONDS,
            }
        )
        shutil.rmtree(place, ignore_errors=True)
        return reply

    def _keep(
        self, judge: Judge, mutant: Mutant | None, reply: dict[str, Any], seconds: float
    ) -> None:
        if mutant is None:
            self.baselines[judge] = reply
        else:
            self.replies[mutant.name] = (mutant, reply, seconds)
        for name in list(self.replies):
            waiting, its_reply, took = self.replies[name]
            if waiting.judge in self.baselines:
                del self.replies[name]
                self.notice(_verdict(waiting, its_reply, self.baselines[waiting.judge], took))


def _tasks(mutants: Sequence[Mutant]) -> list[tuple[Judge, Mutant | None]]:
    """Each mutant, and before the first one of each judge that judge on the unmutated copy."""
    tasks: list[tuple[Judge, Mutant | None]] = []
    seen = set()
    for mutant in mutants:
        if mutant.judge not in seen:
            seen.add(mutant.judge)
            tasks.append((mutant.judge, None))
        tasks.append((mutant.judge, mutant))
    return tasks


def _verdict(
    mutant: Mutant, reply: Mapping[str, Any], baseline: Mapping[str, Any], seconds: float
) -> Verdict:
    if baseline["status"] != 0:
        said = str(baseline["said"]).strip()
        reason = f"without any mutant, {mutant.judge.label} does not pass either:\n{said}"
        return Verdict(mutant, BROKEN, reason, seconds=seconds)
    if not baseline["ran"]:
        return Verdict(mutant, NOT_RUN, "; ".join(sorted(set(baseline["skipped"]))))
    if reply["status"] == "time-out":
        # It was the mutant that made it endless: what judges it had ended without.
        return Verdict(mutant, KILLED, "no end", failed=("no end",), seconds=seconds)
    if reply["status"] not in (0, 1):
        reason = f"pytest ended with {reply['status']!r}:\n{str(reply['said']).strip()}"
        return Verdict(mutant, BROKEN, reason, seconds=seconds)
    return Verdict(
        mutant,
        KILLED if reply["failed"] else SURVIVED,
        ran=tuple(reply["ran"]),
        failed=tuple(reply["failed"]),
        cases=reply["cases"],
        seconds=seconds,
    )


def run(
    mutants: Sequence[Mutant],
    *,
    root: Path = ROOT,
    budget: float | None = None,
    jobs: int = 0,
    notice: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Judges the mutants, in the order given; returns a verdict on each, in that order.

    Args:
        mutants: which.
        root: the project that is copied.
        budget: seconds after which it ends; what has no verdict by then was not run.
        jobs: how many run side by side; 0 for one on each core, up to 8.
        notice: is told of each verdict as soon as it is known.

    Raises:
        CatalogueError: a mutant cannot be applied.
    """
    start = time.monotonic()
    verdicts: dict[str, Verdict] = {}

    def note(verdict: Verdict) -> None:
        verdicts[verdict.mutant.name] = verdict
        notice(verdict)

    for mutant in mutants:
        mutated((root / mutant.file).read_text(), mutant)
    jobs = min(jobs or min(len(os.sched_getaffinity(0)), 8), max(1, len(mutants)))
    with tempfile.TemporaryDirectory(prefix="parity-mutants-") as folder:
        state = _Run(mutants, root, Path(folder), note)
        children = [_Child() for _ in range(jobs)]
        threads = [threading.Thread(target=state.work, args=(child,)) for child in children]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                left = None if budget is None else max(0.0, start + budget - time.monotonic())
                thread.join(left)
        finally:
            with state.lock:
                state.tasks.clear()
            for child in children:
                child.process.terminate()  # whoever waits for its answer gets none
            for thread in threads:
                thread.join()
            for child in children:
                child.close()
        if state.error:
            raise state.error
    return [verdicts.get(mutant.name, Verdict(mutant, NOT_RUN, "budget")) for mutant in mutants]
