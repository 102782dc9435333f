"""The search of one target: a property that Hypothesis tries to break until the time is over."""

import time
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, reproduce_failure, settings
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.errors import DidNotReproduce, Flaky

from reference.layers import SUMMED
from studies.fuzz.defined import is_defined
from studies.fuzz.execute import Refuted, check
from studies.fuzz.program import Program, Target
from studies.fuzz.strategies import programs

settings.register_profile(
    "quick",
    max_examples=25,
    deadline=None,
    derandomize=False,  # which it is by default where CI is set
    phases=(Phase.reuse, Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
    report_multiple_bugs=False,
    print_blob=True,
)
settings.register_profile("search", settings.get_profile("quick"), max_examples=10**9)

DATABASE = Path(".hypothesis/fuzz")
"""Where Hypothesis keeps what failed, in a folder for each target; it tries that first."""

PATTERNS = 50  # examples, after which torch.compile starts anew: it knows a number of patterns


class OutOfTime(BaseException):
    """The time is spent. Not an Exception: Hypothesis must not take it for a failure."""


@dataclass
class Search:
    """What was done with a target.

    Attributes:
        target: the target.
        examples: how many programs ran, those of shrinking among them.
        undefined: how many were left out because float32 leaves their answer open.
        seconds: the time that it took.
        finding: what is wrong, with Hypothesis's notes on how to see it again; None so far.
        program: the smallest program found that shows it.
    """

    target: Target
    examples: int = 0
    undefined: int = 0
    seconds: float = 0.0
    finding: Refuted | None = None
    program: Program | None = None

    def run(self, program: Program) -> None:
        """Runs a program unless float32 leaves its answer open.

        Raises:
            Refuted: something is wrong with it.
        """
        cases = [program.case_of(step) for step in program.steps]
        if not is_defined([SUMMED[self.target.computed(case).name] for case in cases], program):
            self.undefined += 1
            hypothesis.reject()
        if self.target.name == "torch-compiled" and self.examples % PATTERNS == 0:
            torch.compiler.reset()
        self.examples += 1
        try:
            check(self.target, program)
        except Refuted as finding:
            self.finding, self.program = finding, program  # the last one is the smallest
            raise


def search(
    target: Target,
    profile: settings,
    seconds: float = float("inf"),
    seed: int = 0,
    reproduce: str = "",
) -> Search:
    """Searches a target until something is found, or the examples or the time are over.

    Args:
        target: what is searched.
        profile: of Hypothesis, such as "quick" or "search".
        seconds: after which nothing new is tried. What was found by then is shrunk, which
            Hypothesis ends after five minutes.
        seed: decides the examples.
        reproduce: the text of a `reproduce_failure` of Hypothesis's, to run that example alone.

    Raises:
        BadRequest: a net cannot be run at all.
        NoCaffe, InstallError: there is no Caffe.
        InvalidArgument: `reproduce` is no such text.
    """
    done = Search(target)
    start = time.monotonic()

    @settings(profile, database=DirectoryBasedExampleDatabase(DATABASE / target.id))
    @hypothesis.seed(seed)  # below the settings, whose database it would take away
    @given(program=programs(target))
    def agrees(program: Program) -> None:
        if done.finding is None and time.monotonic() > start + seconds:
            raise OutOfTime
        done.run(program)

    if reproduce:
        agrees = reproduce_failure(hypothesis.__version__, reproduce.encode())(agrees)
    try:
        agrees()
    except (Refuted, OutOfTime, DidNotReproduce):
        pass  # what was found is in `done`
    except Flaky:
        done.finding = Refuted("flaky", f"it failed once and not again: {done.finding}")
    done.seconds = time.monotonic() - start
    return done
