"""Looks for a program that fails, variant by variant, and shrinks it, until the time is over."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import NoSuchExample

from caffe_impl.variants import CaffeVariant
from caffe_parity.caffe.client import Caffe
from caffe_parity.caffe.interpreter import Interpreter
from caffe_parity.contract import Variant
from studies.fuzz import folder as disk
from studies.fuzz.defined import is_defined
from studies.fuzz.execute import Finding, check, computed_layers
from studies.fuzz.program import Program
from studies.fuzz.strategies import programs

EXAMPLES = 50
"""Programs of one round of one variant. Each round begins small and has a seed of its own."""

SPARE_WORKERS = 2
"""How many Caffes are started ahead: an import takes seconds, and shrinking a crash ends many."""


class OutOfTime(BaseException):
    """The time is spent. Not an Exception: Hypothesis must not take it for a failure."""


class Caffes:
    """Some workers of which one is in use: while a dead one starts again, the next one serves."""

    def __init__(self, interpreter: Interpreter, timeout: float) -> None:
        self._all = [Caffe(interpreter, timeout) for _ in range(1 + SPARE_WORKERS)]
        self._now = 0

    def __call__(self) -> Caffe:
        """A Caffe that runs, or one that starts at its first request."""
        if self._all[self._now].pid is None:
            self._now = (self._now + 1) % len(self._all)
            for each in self._all:
                each.launch()
        return self._all[self._now]

    def close(self) -> None:
        """Ends every worker."""
        for each in self._all:
            each.close()


@dataclass
class Tally:
    """What was done with a variant.

    Attributes:
        variant: the variant.
        examples: how many programs ran, each counted once, those of shrinking among them.
        undefined: how many were left out because float32 leaves their answer open.
        seconds: the time that it took.
        rounds: how many rounds were begun.
        finding: what is wrong; None so far.
        program: the smallest program found that shows it.
        folder: where that program is.
    """

    variant: Variant
    examples: int = 0
    undefined: int = 0
    seconds: float = 0.0
    rounds: int = 0
    finding: Finding | None = None
    program: Program | None = None
    folder: Path | None = None
    memo: dict[str, Finding | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """`<layer>-<variant>`."""
        return f"{self.variant.layer}-{self.variant.name}"


@dataclass(frozen=True)
class Search:
    """What a whole search shares.

    Attributes:
        folder: where failures, the running program and Hypothesis's examples go.
        seed: decides every program of every round.
        deadline: when it ends, in `time.monotonic`.
        say: prints a line.
    """

    folder: Path
    seed: int
    deadline: float
    say: Callable[[str], None] = print

    def run(self, variants: Sequence[Variant]) -> list[Tally]:
        """Searches all variants in turn, whichever had the least time so far first.

        A variant that failed is not searched any further.

        Raises:
            CaffeError: a net cannot be run at all.
            NoCaffe, InstallError: there is no Caffe.
            OSError: the folder cannot be written to.
        """
        tallies = [Tally(variant) for variant in variants]
        share = (self.deadline - time.monotonic()) / max(1, len(tallies))
        set_hypothesis_home_dir(self.folder / "hypothesis")
        self._keep_unfinished()
        while time.monotonic() < self.deadline:
            sound = [tally for tally in tallies if tally.finding is None]
            if not sound:
                break
            tally = min(sound, key=lambda each: each.seconds)
            start = time.monotonic()
            try:
                self._round(tally, start + share)
            finally:
                tally.seconds += time.monotonic() - start
            if tally.finding is not None:
                self._report(tally)
        return tallies

    def _keep_unfinished(self) -> None:
        """Moves what ran when an earlier search died, of whatever cause, to the failures."""
        for each in sorted(self.folder.glob("running/*/*")):
            if not Path("/proc", each.parent.name).exists():
                kept = self.folder / "failures" / f"{each.name}-unfinished-{each.parent.name}"
                kept.parent.mkdir(exist_ok=True)
                each.replace(kept)
                self.say(f"an earlier search did not survive what is in {kept}")

    def _round(self, tally: Tally, end: float) -> None:
        """One round of one variant until `end`; what fails is shrunk, for which there is longer."""
        tally.memo.clear()
        _forget_compiled()
        running = self.folder / "running" / str(os.getpid()) / tally.name
        name = f"{self.seed} {tally.name} {tally.rounds}"
        tally.rounds += 1

        def fails(program: Program) -> bool:
            if tally.finding is None and time.monotonic() > end:
                raise OutOfTime
            return self._fails(tally, program, running)

        with contextlib.suppress(NoSuchExample, OutOfTime):
            hypothesis.find(
                programs(tally.variant),
                fails,
                settings=self._settings(),
                random=Random(name),
                database_key=tally.name.encode(),
            )
        shutil.rmtree(running, ignore_errors=True)

    def _settings(self) -> hypothesis.settings:
        return hypothesis.settings(
            max_examples=EXAMPLES,
            database=DirectoryBasedExampleDatabase(self.folder / "examples"),
            phases=(Phase.reuse, Phase.generate, Phase.shrink),
            deadline=None,
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )

    def _fails(self, tally: Tally, program: Program, running: Path) -> bool:
        """Whether the program fails, as the first one did that failed; runs it unless it has."""
        if time.monotonic() > self.deadline:
            raise OutOfTime
        key = program.digest()
        if key not in tally.memo:
            layers = computed_layers(tally.variant, program)
            if not is_defined([layer.summed for layer in layers], program):
                tally.undefined += 1
                return False
            disk.write(running, tally.variant, program, None, self._origin())
            tally.examples += 1
            tally.memo[key] = check(tally.variant, program)
        found = tally.memo[key]
        if found is None or (tally.finding and tally.finding.verdict != found.verdict):
            return False
        if tally.program is None or _size(program) <= _size(tally.program):
            tally.finding, tally.program = found, program
        return True

    def _origin(self) -> str:
        return f"Found with `--seed {self.seed}`."

    def _report(self, tally: Tally) -> None:
        assert tally.program is not None
        assert tally.finding is not None
        tally.folder = self.folder / "failures" / tally.name
        disk.write(tally.folder, tally.variant, tally.program, tally.finding, self._origin())
        self.say(f"{tally.name}: {tally.finding.verdict}: {tally.finding.words}")
        if time.monotonic() > self.deadline:
            self.say("  not shrunk to the end: the time was over")
        self.say(f"  reproduce: {disk.replay_command(tally.folder, tally.variant)}")


def _size(program: Program) -> tuple[int, int, int]:
    """What a small program has little of."""
    return len(program.steps), program.elements, len(repr(program.described()))


def _forget_compiled() -> None:
    """Lets torch.compile start anew: it gives up after a number of shapes that a search exceeds."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is not None:
        dynamo.reset()


def with_caffe(variants: Sequence[Variant], caffes: Callable[[], Caffe]) -> list[Variant]:
    """The variants, those of Caffe in the given one."""
    return [
        replace(variant, caffe=caffes) if isinstance(variant, CaffeVariant) else variant
        for variant in variants
    ]
