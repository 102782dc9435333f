"""Counts what a check gets wrong: findings on correct layers, broken layers without theirs.

    python -m studies.false_alarms [--seeds N] [--only NAME]

Every layer of examples/ that agrees with its reference runs on N inputs, each with a seed and a
scale of its own: any finding is a false alarm. Then each is broken in some ways by replacing a
piece of its source, and every breakage must be found under the right code.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_parity.caffe.session import SESSION
from caffe_parity.cli import check
from caffe_parity.cli.main import parser
from caffe_parity.contract import Case
from caffe_parity.engine.caffe_net import CaffeNet
from caffe_parity.report.record import Record

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


@dataclass(frozen=True)
class Breakage:
    """One mistake in a layer.

    Attributes:
        old: a piece of its source, which occurs once.
        new: what stands there instead.
        code: the finding that it must cause.
    """

    old: str
    new: str
    code: str


BREAKAGES = {
    name: tuple(Breakage(**each) for each in some)
    for name, some in tomllib.loads((ROOT / "studies/breakages.toml").read_text()).items()
}
"""What is broken in each correct layer of examples/, by the name of its reference."""


def command_of(name: str) -> list[str]:
    """The arguments of `parity check` that the layer of an example gives in its docstring."""
    text = (EXAMPLES / f"{name}_layer.py").read_text().replace("\\\n", " ")
    line = next(line for line in text.splitlines() if line.strip().startswith("parity check "))
    return shlex.split(line)[2:]


@dataclass(frozen=True)
class Example:
    """The check of an example by the name of its reference."""

    name: str
    check: check.Check

    def run(self) -> list[Record]:
        """The records of all cases."""
        return check.run(self.check)


def example_of(name: str, cases: int) -> Example:
    """The check that an example's docstring asks for, with so many cases."""
    arguments = ["check", *command_of(name), "--cases", str(cases)]
    places = [each.replace("examples/", f"{EXAMPLES}/", 1) for each in arguments]
    request = check.requested(parser(places).parse_args(places))
    return Example(name, check.prepared(request, Path()))


@contextlib.contextmanager
def broken(example: Example, number: int) -> Iterator[Example]:
    """The check of an example with its layer broken.

    Args:
        example: with the layer as it is.
        number: which of its breakages.
    """
    name = example.name
    breakage = BREAKAGES[name][number]
    source = (EXAMPLES / f"{name}_layer.py").read_text()
    if source.count(breakage.old) != 1:
        raise ValueError(f"{name}: {breakage.old!r} does not occur once")
    module = f"{name}_layer_{number}"  # Caffe's Python imports a module of one name only once
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{module}.py").write_text(source.replace(breakage.old, breakage.new))
        layer = example.check.layer
        net = layer.variants[check.NET]
        assert isinstance(net, CaffeNet)
        right = net.text

        def text(case: Case) -> str:
            return right(case).replace(f'"{name}_layer"', f'"{module}"')

        spoilt = replace(net, text=text, path=(folder,))
        layer = replace(layer, variants={check.NET: spoilt})
        yield replace(example, check=replace(example.check, layer=layer))


def codes(records: Sequence[Record]) -> Counter[str]:
    """The findings, each with the number of its cases."""
    return Counter(code for each in records for code in {found.code for found in each.findings})


def missed(example: Example) -> Iterator[str]:
    """The breakages of an example that are not found under the right code, in words."""
    for number, breakage in enumerate(BREAKAGES[example.name]):
        with broken(example, number) as spoilt:
            found = codes(spoilt.run())
        if breakage.code not in found:
            others = ", ".join(found) or "nothing"
            yield f"{example.name}: {breakage.new!r} is {breakage.code}, found: {others}"


def main(arguments: list[str] | None = None) -> int:
    """Prints the figures; returns 1 if there is a false alarm or a miss."""
    made = argparse.ArgumentParser(prog="python -m studies.false_alarms")
    made.add_argument("--seeds", type=int, default=200, metavar="N")
    made.add_argument("--only", choices=list(BREAKAGES), metavar="NAME")
    options = made.parse_args(arguments)
    failed = 0
    for name in [options.only] if options.only else BREAKAGES:
        start = time.perf_counter()
        records = example_of(name, options.seeds).run()
        alarms, misses = codes(records), list(missed(example_of(name, 8)))
        worst = max(tensor.fraction for each in records for tensor in each.tensors.values())
        print(
            f"{name:14} {len(records)} seeds, {sum(alarms.values())} false alarms, "
            f"{len(BREAKAGES[name]) - len(misses)} of {len(BREAKAGES[name])} breakages caught, "
            f"largest error {worst:.2g} of its bound, {time.perf_counter() - start:.0f} s",
            flush=True,
        )
        for line in [*(f"{name}: {code}, {n} cases" for code, n in alarms.items()), *misses]:
            print(f"  {line}", flush=True)
        failed += len(alarms) + len(misses)
    SESSION.close()
    return int(bool(failed))


if __name__ == "__main__":
    raise SystemExit(main())
