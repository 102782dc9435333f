"""Counts what a check gets wrong: findings on what is correct, and agreement on what is not.

    python -m studies.false_alarms [--seeds N] [--seed S] [--only NAME ...] [--budget SECONDS]

Every layer of examples/ that agrees with its reference, and every net of studies/nets, runs on N
seeds: any finding is a false alarm. Then each is broken in some ways by replacing a piece of its
source, or of its reference's, and checked as a user would: a breakage that agrees is a vacuous
pass, and each must have the right finding.

A seed is one case of `parity check`: inputs, parameters and upstream gradients drawn from its own
numbers, two fresh nets, a truth, a bound and a verdict of its own. Only the process is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from caffe_parity.caffe.session import SESSION
from caffe_parity.cli import check, request
from caffe_parity.cli.main import parser
from caffe_parity.contract import Case, ParityError
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.report.record import Record, Report

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
NETS = ROOT / "studies/nets"

REFUSED = "refused"
"""The code of a breakage that is no finding: the check cannot be carried out."""

CASES = 8
"""On how many cases a breakage is tried: what `parity check` runs if nothing is said."""


@dataclass(frozen=True)
class Breakage:
    """One mistake.

    Attributes:
        old: a piece of the source of the layer, the net or the reference, which occurs once.
        new: what stands there instead.
        code: the finding that it must cause.
    """

    old: str
    new: str
    code: str


def _breakages(several: Sequence[Mapping[str, str]]) -> tuple[Breakage, ...]:
    return tuple(Breakage(**each) for each in several)


BREAKAGES = {
    name: _breakages(several)
    for name, several in tomllib.loads((ROOT / "studies/breakages.toml").read_text()).items()
}
"""What is broken in each correct layer of examples/, by the name of its reference."""

TABLE: Mapping[str, Mapping[str, Any]] = tomllib.loads((NETS / "nets.toml").read_text())
"""What the inputs of each net of studies/nets hold, and what is broken in it."""


class Subject(Protocol):
    """Something that is correct, and can be broken."""

    @property
    def name(self) -> str:
        """Of the reference."""

    @property
    def answer(self) -> str:
        """The finding that every seed must have; "" where the right answer is "agrees"."""

    @property
    def breakages(self) -> tuple[Breakage, ...]:
        """The ways to break it."""

    def run(self) -> list[Record]:
        """The records of all cases.

        Raises:
            ParityError: it cannot be carried out.
        """

    def broken(self, number: int) -> contextlib.AbstractContextManager[Subject]:
        """It with that one of its breakages."""


def command_of(name: str) -> list[str]:
    """The arguments of `parity check` that the layer of an example gives in its docstring."""
    text = (EXAMPLES / f"{name}_layer.py").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.strip().startswith("parity check "))
    return shlex.split(line)[2:]


@dataclass(frozen=True)
class Example:
    """The check of an example by the name of its reference."""

    name: str
    check: request.Check
    answer: str = ""

    @property
    def breakages(self) -> tuple[Breakage, ...]:
        return BREAKAGES[self.name]

    def run(self) -> list[Record]:
        return check.run(self.check)

    @contextlib.contextmanager
    def broken(self, number: int) -> Iterator[Example]:
        breakage = self.breakages[number]
        source = EXAMPLES / f"{self.name}_layer.py"
        module = f"{self.name}_layer_{number}"  # Caffe's Python imports a module of one name once
        with tempfile.TemporaryDirectory() as folder:
            text_of_layer = _replaced({source: source.read_text()}, breakage)[source]
            (Path(folder) / f"{module}.py").write_text(text_of_layer)
            layer = self.check.layer
            net = layer.variants[request.NET]
            assert isinstance(net, CaffeNet)
            right = net.text

            def text(case: Case) -> str:
                return right(case).replace(f'"{self.name}_layer"', f'"{module}"')

            spoilt = replace(net, text=text, path=(folder,))
            layer = replace(layer, variants={request.NET: spoilt})
            yield replace(self, check=replace(self.check, layer=layer))


def example_of(name: str, cases: int, seed: int = 0) -> Example:
    """The check that an example's docstring asks for, with so many cases of that seed."""
    arguments = ["check", *command_of(name), "--cases", str(cases), "--seed", str(seed)]
    places = [each.replace("examples/", f"{EXAMPLES}/", 1) for each in arguments]
    asked = check.requested(parser(places).parse_args(places))
    return Example(name, request.prepared(asked, Path()))


@dataclass(frozen=True)
class Net:
    """The check of a net of studies/nets.

    Attributes:
        name: of its prototxt and its reference.
        cases, seed: how many inputs, and of which seed.
        texts: of its files, as they are or broken.
    """

    name: str
    cases: int
    seed: int = 0
    texts: Mapping[Path, str] = field(repr=False, default_factory=dict)

    @property
    def answer(self) -> str:
        return str(TABLE[self.name].get("answer", ""))

    @property
    def breakages(self) -> tuple[Breakage, ...]:
        return _breakages(TABLE[self.name]["breakages"])

    def run(self) -> list[Record]:
        with tempfile.TemporaryDirectory() as folder:
            for file, text in self.texts.items():
                (Path(folder) / file.name).write_text(text)
            return check.run(request.prepared(self._request(Path(folder)), Path(folder)))

    def _request(self, folder: Path) -> request.Request:
        said, python = TABLE[self.name], folder / f"{self.name}.py"
        return request.Request(
            net=str(folder / f"{self.name}.prototxt"),
            reference=f"{python}:net",
            port=f"{python}:port" if "def port(" in python.read_text() else None,
            data=tuple(said.get("data", {}).items()),
            grad=tuple(said["grad"]) if "grad" in said else None,
            cases=self.cases,
            seed=self.seed,
        )

    @contextlib.contextmanager
    def broken(self, number: int) -> Iterator[Net]:
        yield replace(self, texts=_replaced(self.texts, self.breakages[number]))


def net_of(name: str, cases: int, seed: int = 0) -> Net:
    """The check of that net, with so many cases of that seed."""
    files = [NETS / f"{name}.prototxt", NETS / f"{name}.py"]
    return Net(name, cases, seed, {file: file.read_text() for file in files})


def _replaced(texts: Mapping[Path, str], breakage: Breakage) -> dict[Path, str]:
    """The texts with a breakage.

    Raises:
        ValueError: its piece does not occur once in them.
    """
    if sum(text.count(breakage.old) for text in texts.values()) != 1:
        names = ", ".join(file.name for file in texts)
        raise ValueError(f"{breakage.old!r} does not occur once in {names}")
    return {file: text.replace(breakage.old, breakage.new) for file, text in texts.items()}


def subject_of(name: str, cases: int, seed: int = 0) -> Subject:
    """The example or the net of that name, with so many cases of that seed."""
    return (example_of if name in BREAKAGES else net_of)(name, cases, seed)


def codes(records: Sequence[Record]) -> Counter[str]:
    """The findings, each with the number of its cases; what one case does not prove is none."""
    return Counter(
        code
        for each in records
        for code in {found.code for found in each.findings if found.code != "unproven"}
    )


def alarms(subject: Subject, records: Sequence[Record]) -> Counter[str]:
    """What is said of something correct and is not its answer, each with the number of its cases.

    That all cases together prove nothing of a tensor is one as well.
    """
    found = codes(records)
    if subject.answer:
        silent = sum(subject.answer not in codes([each]) for each in records)
        return (found - Counter({subject.answer: len(records)})) + Counter({"missing": silent})
    return found + Counter({"unproven": len(Report("check", {}, {}, records).unproven)})


@dataclass(frozen=True)
class Answer:
    """What a check says of a breakage.

    Attributes:
        breakage: what was broken.
        found: the codes, in order; `REFUSED` alone if it could not be carried out.
        agrees: whether the exit status is 0.
    """

    breakage: Breakage
    found: tuple[str, ...]
    agrees: bool

    @property
    def caught(self) -> bool:
        """Whether it is found under the right code."""
        return not self.agrees and self.breakage.code in self.found


def answers(subject: Subject, only: int | None = None) -> Iterator[Answer]:
    """What is said of each breakage, or of so many."""
    for number, breakage in enumerate(subject.breakages[:only]):
        with subject.broken(number) as spoilt:
            try:
                records = spoilt.run()
            except ParityError:
                yield Answer(breakage, (REFUSED,), agrees=False)
                continue
        agrees = Report("check", {}, {}, records).agrees
        yield Answer(breakage, tuple(codes(records)), agrees)


def studied(name: str, seeds: int, seed: int) -> tuple[str, Counter[str]]:
    """Studies one layer or net, and prints what went wrong.

    Args:
        name: of an example or a net.
        seeds: how many cases it runs on.
        seed: what they are drawn from.

    Returns:
        a line, and the counts: seeds, alarms, breakages, vacuous passes, other misses.
    """
    start = time.perf_counter()
    right = subject_of(name, seeds, seed)
    records = right.run()
    variants = len({each.variant for each in records})
    alarm = alarms(right, records)
    said = list(answers(subject_of(name, CASES, seed)))
    vacuous = [each for each in said if each.agrees]
    missed = [each for each in said if not each.agrees and not each.caught]
    worst = max(tensor.fraction for each in records for tensor in each.tensors.values())
    counts = Counter(
        seeds=len(records) // variants,
        alarms=alarm.total(),
        breakages=len(said),
        vacuous=len(vacuous),
        missed=len(missed),
    )
    size = "" if right.answer else f", largest error {worst:.2g} of its bound"
    lines = [
        f"{name:16} {counts['seeds']} seeds, {counts['alarms']} false alarms; "
        f"{len(said)} breakages, {len(vacuous)} vacuous passes, {len(missed)} misnamed"
        f"{size}, {time.perf_counter() - start:.0f} s",
        *(f"  false alarm: {code}, {n} cases" for code, n in alarm.items()),
        *(f"  vacuous pass: {each.breakage.new!r} agrees" for each in vacuous),
        *(
            f"  misnamed: {each.breakage.new!r} is {each.breakage.code}, found: "
            f"{', '.join(each.found) or 'unproven'}"
            for each in missed
        ),
    ]
    return "\n".join(lines), counts


def main(arguments: list[str] | None = None) -> int:
    """Prints the figures; returns 1 if there is a false alarm, a vacuous pass or a misnomer."""
    names = [*BREAKAGES, *TABLE]
    made = argparse.ArgumentParser(prog="python -m studies.false_alarms")
    made.add_argument("--seeds", type=int, default=50, metavar="N", help="of each (50)")
    made.add_argument("--seed", type=int, default=0, metavar="S", help="of the seeds (0)")
    made.add_argument("--only", choices=names, nargs="+", default=names, metavar="NAME")
    made.add_argument("--budget", type=float, metavar="SECONDS", help="begin no other one after")
    options = made.parse_args(arguments)
    start, total, left = time.monotonic(), Counter[str](), list(options.only)
    while left and not (options.budget and time.monotonic() - start > options.budget):
        line, counts = studied(left.pop(0), options.seeds, options.seed)
        print(line, flush=True)
        total += counts
    SESSION.close()
    print(
        f"{len(options.only) - len(left)} of {len(options.only)}: {total['seeds']} seeds, "
        f"{total['alarms']} false alarms; {total['breakages']} breakages, "
        f"{total['vacuous']} vacuous passes, {total['missed']} misnamed"
    )
    if left:
        print(f"not run, for want of time: --only {' '.join(left)}")
    return int(bool(total["alarms"] + total["vacuous"] + total["missed"]))


if __name__ == "__main__":
    raise SystemExit(main())
