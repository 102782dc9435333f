"""Applies each mutant to a copy of the project and runs there what must find it.

The working tree is copied when a run begins, once for each mutant that is judged at a time, and
never touched. What judges a mutant also runs on a copy without any: only if it passes there does a
failure prove anything.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import multiprocessing
import os
import py_compile
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from studies.mutation.catalogue import ROOT, Judge, Mutant, mutated

SECONDS = 120.0
"""How long one mutant may take before that alone is the answer."""

AT_LEAST, TIMES = 30.0, 4.0
"""It is less where its tests end sooner without it: so many times what they took, and so much."""

NO_END = "no end"
"""What a mutant was found by that made its tests endless."""

SAID = 2000  # characters of what was printed that a reason shows

KILLED, SURVIVED, BROKEN, NOT_RUN = "killed", "survived", "broken", "not run"

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["studies.mutation.child"])

Reply = Mapping[str, Any]
"""What `child.run` writes, and "said"; without "status" where the tests came to no end."""


@dataclass(frozen=True)
class Verdict:
    """What became of one mutant.

    Attributes:
        verdict: "killed", "survived", "broken" (the tests cannot even begin, or fail without the
            mutant, too) or "not run".
        reason: the test that found it, or why it is broken or was not run.
    """

    mutant: Mutant
    verdict: str
    reason: str = ""


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


def obstacle(mutant: Mutant) -> str:
    """Why a mutant cannot be judged here, or "": another Caffe has a compiled layer of its own."""
    others = ("CAFFE_PYTHON", "PARITY_CAFFE", "PARITY_PLUGIN")
    chosen = [name for name in others if os.environ.get(name)]
    if chosen and mutant.file.startswith("caffe_impl/cuda/"):
        return f"the compiled layer's mutants need the installed Caffe, and {chosen[0]} is set"
    return ""


@dataclass
class _Task:
    """A judge at work on a copy, which has a mutant in it or, for the comparison, none."""

    judge: Judge
    mutant: Mutant | None
    folder: Path
    original: str = ""

    def start(self, seconds: float) -> None:
        """Puts the mutant into the copy and starts the tests, which may take so many seconds."""
        self.work = Path(tempfile.mkdtemp(prefix="work-", dir=self.folder))
        if self.mutant is not None:
            file = self.folder / "copy" / self.mutant.file
            self.original = file.read_text()
            file.write_text(mutated(self.original, self.mutant))
        arguments = (self.folder / "copy", self.work, self.judge.files, self.judge.options)
        self.process = _FORKS.Process(target=_run, args=arguments)
        self.process.start()
        self.began = time.monotonic()
        self.deadline = self.began + seconds

    def end(self) -> Reply:
        """Ends what still runs, takes the mutant out of the copy, and returns what was found."""
        overdue = self.process.is_alive()
        assert self.process.pid is not None
        if overdue:
            self.process.kill()  # right after its start it does not lead its group yet
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # and what it left running
        self.process.join()
        self.process.close()
        if self.mutant is not None:
            (self.folder / "copy" / self.mutant.file).write_text(self.original)
        said, reply = self.work / "said.txt", self.work / "reply.json"
        result: dict[str, Any] = {"overdue": overdue, "status": None}
        if reply.exists() and not overdue:
            result |= json.loads(reply.read_text())
        result["said"] = said.read_text(errors="replace")[-SAID:].strip() if said.exists() else ""
        shutil.rmtree(self.work, ignore_errors=True)
        return result


def _run(copy: Path, work: Path, files: tuple[str, ...], options: tuple[str, ...]) -> None:
    """`child.run`, imported where it runs: here it would bring PyTorch along."""
    from studies.mutation import child

    child.run(copy, work, files, options)


def _alone(judge: Judge, reply: Reply) -> Judge | None:
    """What must pass without a mutant for it to be the mutant that a reply tells of.

    That is the one test that failed, or its collection; all of them where they came to no end, and
    none where they passed.
    """
    if reply["status"] == 0:
        return None
    if not reply.get("failed"):
        return judge
    [first, *_] = reply["failed"]
    more = ("--collect-only",) if reply["status"] != 1 else ()
    return Judge(first, (first,), more)


def _verdict(mutant: Mutant, reply: Reply, unmutated: Reply, judge: Judge, whole: bool) -> Verdict:
    if unmutated["status"] != 0:
        words = f"without any mutant, {judge.text} does not pass either"
        return Verdict(mutant, BROKEN, f"{words}:\n{unmutated['said']}")
    if "--collect-only" in judge.options:
        return Verdict(mutant, KILLED, f"{judge.text} cannot be collected")
    if not unmutated["ran"]:
        return Verdict(mutant, NOT_RUN, "; ".join(sorted(set(unmutated["skipped"]))))
    if reply["overdue"]:
        # It was the mutant that made it endless: what judges it had ended without.
        return Verdict(mutant, KILLED, NO_END)
    if reply["status"] not in (0, 1):
        if not whole:  # nobody chose this edit, so a program that does not start is found
            return Verdict(mutant, KILLED, "nothing can be imported")
        return Verdict(mutant, BROKEN, f"pytest ended with {reply['status']}:\n{reply['said']}")
    failed = [name.rpartition("/")[2] for name in reply["failed"]]
    return Verdict(mutant, KILLED, failed[0]) if failed else Verdict(mutant, SURVIVED)


def _copies(root: Path, folder: Path, count: int) -> list[Path]:
    """Makes folders that each hold a copy of the project, compiled, but for what is made of it."""
    left_out = (".*", "__pycache__", "*.egg-info", "build", "dist", "results", "parity-report")
    copies = [folder / str(number) for number in range(count)]
    shutil.copytree(root, copies[0] / "copy", ignore=shutil.ignore_patterns(*left_out))
    # By content, since a mutant may be as old and as long as what it replaces.
    by_content = py_compile.PycInvalidationMode.CHECKED_HASH
    compileall.compile_dir(copies[0], quiet=2, invalidation_mode=by_content)
    for each in copies[1:]:
        shutil.copytree(copies[0], each)
    return copies


def _judged(
    tasks: list[tuple[Judge, Mutant | None]], copies: list[Path], end: float
) -> Generator[tuple[Judge, Mutant | None, Reply]]:
    """Carries out the tasks, as many at a time as there are copies, until `end`."""
    running: list[_Task] = []
    limits: dict[Judge, float] = {}
    try:
        while time.monotonic() < end and (tasks or running):
            while tasks and copies:
                running.append(_Task(*tasks.pop(0), copies.pop()))
                running[-1].start(limits.get(running[-1].judge, SECONDS))
            next_deadline = min([end, *(each.deadline for each in running)])
            left = max(0.0, next_deadline - time.monotonic())
            ended = wait([each.process.sentinel for each in running], min(left, 3600.0))
            for task in list(running):
                if task.process.sentinel in ended or time.monotonic() > task.deadline:
                    running.remove(task)
                    copies.append(task.folder)
                    if task.mutant is None:
                        took = time.monotonic() - task.began
                        limits[task.judge] = min(SECONDS, AT_LEAST + TIMES * took)
                    yield task.judge, task.mutant, task.end()
    finally:
        for task in running:
            task.end()


def run(
    mutants: Sequence[Mutant],
    *,
    root: Path = ROOT,
    budget: float = float("inf"),
    jobs: int = 0,
    whole: bool = True,
    notice: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Judges the mutants, in the order given; returns a verdict on each, in that order.

    Args:
        mutants: which.
        root: the project that is copied.
        budget: seconds after which it ends; what has no verdict by then was not run.
        jobs: how many run side by side; 0 for one on each core, up to 8.
        whole: whether all that judges a mutant must pass without it; else what found it alone,
            which takes less time where few mutants have the same judge.
        notice: is told of each verdict as soon as it is known.

    Raises:
        CatalogueError: a mutant cannot be applied.
        OSError: a copy cannot be written.
    """
    end = time.monotonic() + budget
    verdicts = {each.name: Verdict(each, NOT_RUN, obstacle(each) or "budget") for each in mutants}
    wanted: dict[tuple[Judge, Mutant | None], None] = {}  # a set that keeps the order
    for each in mutants:
        mutated((root / each.file).read_text(), each)
        if not obstacle(each):
            wanted |= ({(each.judge, None): None} if whole else {}) | {(each.judge, each): None}
    tasks = list(wanted)
    unmutated: dict[Judge, Reply] = {}
    waiting: list[tuple[Mutant, Reply, Judge]] = []
    jobs = min(jobs or min(len(os.sched_getaffinity(0)), 8), max(1, len(tasks)))
    with tempfile.TemporaryDirectory(prefix="parity-mutants-") as folder:
        copies = _copies(root, Path(folder), jobs)
        with contextlib.closing(_judged(tasks, copies, end)) as replies:
            for judge, mutant, reply in replies:
                if mutant is None:
                    unmutated[judge] = reply
                else:
                    needed = judge if whole else _alone(judge, reply)
                    if needed is None:  # they passed
                        needed = judge
                        unmutated.setdefault(judge, reply)
                    waiting.append((mutant, reply, needed))
                    if needed not in unmutated and not whole:
                        tasks.insert(0, (needed, None))
                for known in [each for each in waiting if each[2] in unmutated]:
                    waiting.remove(known)
                    verdict = _verdict(*known[:2], unmutated[known[2]], known[2], whole)
                    verdicts[verdict.mutant.name] = verdict
                    notice(verdict)
    return list(verdicts.values())
